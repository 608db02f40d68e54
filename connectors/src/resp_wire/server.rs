//! One server, and the connections to it: some for chunks, some for everything else.

mod ahead;
mod opening;
mod pool;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use connector_core::layer::local_wait;
use connector_core::{Error, ErrorKind, Result, runtime};
use futures::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::{Instant, Timeout};

use super::connection::{Connection, Spent};
use super::errors::hung_up;
use super::meters::NodeMeters;
use super::options::{Servers, WireOptions};
use super::reach::Reach;
use super::transport::Address;
use opening::Ready;
use pool::{Pool, Slot};

/// One server.
pub(crate) struct Server {
    me: Weak<Self>,
    reach: Arc<Reach>,
    pub(super) meters: Arc<NodeMeters>,
    /// Connections for chunks.
    pub(super) bulk: Pool,
    /// Connections for everything else.
    pub(super) small: Pool,
    /// Bytes of chunks that single calls may have in flight, in units of [`UNIT`].
    in_flight: Semaphore,
    /// Length of the last chunk. Most chunks of a store have one length.
    chunk_len: AtomicUsize,
    /// The shortest round trip on any connection, in nanoseconds.
    round_trip: AtomicU64,
    /// Whether another server took the place of this one. `None` if none ever does.
    retired: Option<Retired>,
    /// Whether a call found the server away.
    is_suspect: AtomicBool,
}

#[derive(Default)]
struct Retired {
    is_retired: AtomicBool,
    /// Ends the calls in flight.
    now: Notify,
}

/// One connection for one call. Dropped without [`give_back`](Self::give_back), it is closed.
pub(super) struct Lease<'a> {
    server: &'a Server,
    pub(super) connection: Connection,
    /// Bytes received before this lease. `None` for a new connection.
    received_before: Option<u64>,
    /// [`Reach::generation`] when the attempt to open the connection began.
    generation: usize,
    slot: Slot<'a>,
}

/// Connections that move no chunks: a short call never waits behind a chunk.
const SMALL_CONNECTIONS: usize = 4;
/// The most bytes of a payload that a connection for chunks reads into its buffer and copies.
const BULK_BUFFER: usize = 4 << 10;
/// The buffer of other connections: one read gets many small replies.
const SMALL_BUFFER: usize = 16 << 10;
/// About how many bytes of chunks are in flight over all connections. A server holds whole answers and requests in
/// its memory, and bytes that leave its processor's cache are slower. (Measured with batches of 4 MiB chunks: 8
/// connections with 32 MiB in flight read at 1.3 GiB/s, 4 with 16 MiB at 1.8.)
pub(super) const IN_FLIGHT: usize = 16 << 20;
/// The unit of [`Server::in_flight`].
const UNIT: usize = 64 << 10;
/// Longest wait for a share of [`IN_FLIGHT`]. Futures that are not polled may hold all shares, and the limit only
/// serves speed.
const SHARE_WAIT: Duration = Duration::from_millis(20);
/// A shorter answer does not hold a chunk.
const SMALLEST_CHUNK: usize = 512;

impl Server {
    /// A server without connections. `sockets` is the runtime that waits for its sockets.
    pub(super) fn new(address: Address, options: &Arc<WireOptions>, sockets: &Handle) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            meters: options.meters.node(&address),
            bulk: Pool::new(false, options.connections, BULK_BUFFER),
            small: Pool::new(true, SMALL_CONNECTIONS, SMALL_BUFFER),
            in_flight: Semaphore::new(IN_FLIGHT / UNIT),
            chunk_len: AtomicUsize::new(0),
            round_trip: AtomicU64::new(u64::MAX),
            retired: matches!(options.servers, Servers::Sentinel(_)).then(Retired::default),
            is_suspect: AtomicBool::new(false),
            reach: Reach::new(address, options.clone(), sockets.clone()),
        })
    }

    /// Where the server listens.
    pub(super) fn address(&self) -> &Address {
        self.reach.address()
    }

    /// Whether the server is known to be away.
    pub(super) fn is_away(&self) -> bool {
        !self.reach.is_due()
    }

    fn pool(&self, small: bool) -> &Pool {
        if small { &self.small } else { &self.bulk }
    }

    /// See [`Wire::close`](super::Wire::close).
    pub(super) fn close(&self) {
        self.bulk.close();
        self.small.close();
        self.in_flight.close();
        self.reach.close();
    }

    /// Closes the server, because another one took its place. Ends calls in flight: a master that was demoted may never
    /// answer them, and may take puts that are then lost.
    pub(super) fn retire(&self) {
        if let Some(retired) = &self.retired {
            retired.is_retired.store(true, Ordering::Release);
            retired.now.notify_waiters();
        }
        self.close();
    }

    /// The answer of `call`, or an error if the server is [retired](Self::retire) meanwhile. A call also waits for
    /// connections: a server that is away may accept them and never greet.
    pub(super) async fn while_in_place<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(retired) = &self.retired else { return call.await };
        let mut now = pin!(retired.now.notified());
        now.as_mut().enable();
        if self.is_retired() {
            return Err(self.closed());
        }
        match select(pin!(call), now).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(self.closed()),
        }
    }

    /// The error of a call after [`close`](Self::close) or [`retire`](Self::retire).
    fn closed(&self) -> Error {
        if !self.is_retired() {
            return Error::closed();
        }
        let why = format!("another server took the place of {}", self.address());
        Error::new(ErrorKind::Unavailable, why).temporary(true)
    }

    /// Whether another server took the place of this one.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.as_ref().is_some_and(|retired| retired.is_retired.load(Ordering::Acquire))
    }

    /// Whether a call failed because the server is away or does not answer, since the last [`trust`](Self::trust).
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
    }

    /// The server is the right one, as far as it is known.
    pub(super) fn trust(&self) {
        self.is_suspect.store(false, Ordering::Relaxed);
    }

    /// How many connections a batch of `n` chunks takes. `len` is the length of a chunk, or 0 if unknown.
    pub(super) fn width(&self, n: usize, len: usize) -> usize {
        self.bulk.size.min((IN_FLIGHT / self.expected_len(len).max(1)).max(2)).min(n)
    }

    /// A share of [`IN_FLIGHT`] for a chunk of about that length, or `None` after a short wait.
    pub(super) async fn share(&self, len: usize) -> Result<Option<SemaphorePermit<'_>>> {
        let units = self.expected_len(len).min(IN_FLIGHT / 2).div_ceil(UNIT) as u32;
        if let Ok(share) = self.in_flight.try_acquire_many(units) {
            return Ok(Some(share));
        }
        let share = timeout(SHARE_WAIT, self.in_flight.acquire_many(units))?;
        Ok(share.await.ok().and_then(std::result::Result::ok))
    }

    /// About how long a chunk is: `len`, or the length of the last one if that is 0.
    pub(super) fn expected_len(&self, len: usize) -> usize {
        if len > 0 { len } else { self.chunk_len.load(Ordering::Relaxed) }
    }

    /// Remembers the length of a chunk, header and all.
    pub(super) fn remember_len(&self, len: usize) {
        if len >= SMALLEST_CHUNK {
            self.chunk_len.store(len, Ordering::Relaxed);
        }
    }

    /// The shortest round trip to the server on any connection. A longer one includes the server's work for others.
    pub(super) fn round_trip(&self, connection: &Connection) -> Duration {
        let nanos = u64::try_from(connection.round_trip().as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.round_trip.fetch_min(nanos, Ordering::Relaxed).min(nanos))
    }

    /// A connection for small calls or for chunks, once one is free.
    pub(super) async fn lease(&self, small: bool) -> Result<Lease<'_>> {
        self.lease_within(small, self.reach.options().connect_timeout).await
    }

    /// As [`lease`](Self::lease). A new connection must be ready within `limit`.
    pub(super) async fn lease_within(&self, small: bool, limit: Duration) -> Result<Lease<'_>> {
        match self.lease_in(self.pool(small), Some(limit)).await {
            // The server refuses more connections, but may have accepted one for calls of the other kind.
            Err(e) if e.kind() == ErrorKind::Unavailable => self.lease_in(self.pool(!small), None).await.map_err(|_| e),
            answer => answer,
        }
    }

    /// A connection of the pool. If the server refuses a new one, waits for one that is in use. Without a limit, opens
    /// none.
    async fn lease_in<'a>(&'a self, pool: &'a Pool, limit: Option<Duration>) -> Result<Lease<'a>> {
        loop {
            let since = Instant::now();
            if limit.is_some() && self.reach.is_due() {
                pool.permits.add_permits(pool.aside.swap(0, Ordering::AcqRel));
            }
            let permit = match pool.permits.try_acquire() {
                Ok(permit) => permit,
                Err(TryAcquireError::Closed) => return Err(self.closed()),
                Err(TryAcquireError::NoPermits) => self.wait(pool).await?,
            };
            if let Ok(ready) = self.take_idle(pool) {
                return Ok(self.lease_of(ready, Slot { pool, _permit: permit }, Spent::default()));
            }
            let e = match limit {
                Some(limit) => match self.first_free(pool, since, limit).await {
                    Ok(ready) => return Ok(self.lease_of(ready, Slot { pool, _permit: permit }, Spent::default())),
                    Err(e) => e,
                },
                None => hung_up(self.reach.address()),
            };
            match self.take_idle(pool) {
                Ok(ready) => return Ok(self.lease_of(ready, Slot { pool, _permit: permit }, Spent::default())),
                Err(in_use) if in_use == 0 || !e.is_temporary() => return Err(e),
                Err(_) => {}
            }
            // The next permit comes with a connection.
            permit.forget();
            pool.aside.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A lease of a connection that counts as used, for a call that already spent this.
    fn lease_of<'a>(&'a self, ready: Ready, slot: Slot<'a>, spent: Spent) -> Lease<'a> {
        let Ready { mut connection, generation, began } = ready;
        connection.start_call(spent);
        let received_before = began.is_none().then(|| connection.received());
        Lease { server: self, connection, received_before, generation, slot }
    }

    /// An idle connection, which then counts as used. Otherwise the number of connections in use.
    fn take_idle(&self, pool: &Pool) -> Result<Ready, usize> {
        loop {
            let mut connection = {
                let mut open = pool.open();
                let connection = open.idle.pop().ok_or(open.in_use)?;
                open.in_use += 1;
                connection
            };
            if connection.is_alive() {
                // Older connections are not in the pool.
                return Ok(Ready { connection, generation: self.reach.generation(), began: None });
            }
            pool.open().in_use -= 1;
            self.reach.doubt();
        }
    }

    /// Waits for a free connection while bytes move on the others. Without progress it fails, because futures that
    /// are not polled may hold the connections.
    async fn wait<'a>(&self, pool: &'a Pool) -> Result<SemaphorePermit<'a>> {
        let _waiting = pool.count_waiting();
        let options = self.reach.options();
        let patience = options.connect_timeout + options.io_timeout;
        let mut permit = pin!(pool.permits.acquire());
        loop {
            let progress = pool.progress.moves();
            if let Ok(permit) = local_wait(timeout(patience, permit.as_mut())?).await {
                return permit.map_err(|_| self.closed());
            }
            if pool.progress.moves() == progress {
                let (size, address, ms) = (pool.size, self.reach.address(), patience.as_millis());
                let why = format!("no call made progress on the {size} connections to {address} for {ms} ms");
                return Err(Error::new(ErrorKind::Timeout, why)
                    .temporary(true)
                    .unsent()
                    .with_hint("a call holds its connection until its future is polled to its end or dropped"));
            }
        }
    }

    fn close_idle(&self) {
        for pool in [&self.bulk, &self.small] {
            pool.open().idle.clear();
        }
    }
}

impl Lease<'_> {
    /// Whether another call waits for a connection.
    pub(super) fn is_wanted(&self) -> bool {
        self.slot.pool.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether `e` only shows that the connection was dead before the lease: the server restarted, or a firewall forgot
    /// the connection. Then the server did nothing.
    pub(super) fn was_stale(&self, e: &Error) -> bool {
        self.received_before == Some(self.connection.received()) && e.kind() == ErrorKind::Unavailable
    }

    /// The call failed with `e`. If the server did not answer on any connection in time, it does not answer on idle ones
    /// either.
    pub(super) fn failed(&self, e: &Error) {
        self.server.meters.failed(e.kind());
        let is_away = matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Unavailable);
        self.server.is_suspect.fetch_or(is_away, Ordering::Relaxed);
        if is_away {
            // The next connections may take another route.
            self.server.round_trip.store(u64::MAX, Ordering::Relaxed);
        }
        match e.kind() {
            // Only this connection stalls.
            ErrorKind::Timeout if self.connection.is_stalled_alone() => {}
            ErrorKind::Timeout => {
                self.server.reach.timed_out_in_call(e);
                self.server.close_idle();
            }
            ErrorKind::Unavailable => self.server.reach.doubt(),
            _ => {}
        }
    }

    /// Another connection in place of this one, in the time that the call has left.
    pub(super) async fn renew(self) -> Result<Self> {
        let Self { server, connection, slot, .. } = self;
        let spent = connection.spent();
        drop(connection);
        if slot.pool.permits.is_closed() {
            return Err(server.closed());
        }
        server.reach.doubt();
        let options = server.reach.options();
        let limit = options.connect_timeout.min(spent.left(options.io_timeout));
        let ready = server.first_free(slot.pool, Instant::now(), limit).await?;
        // The slot counts it, too.
        slot.pool.open().in_use -= 1;
        Ok(server.lease_of(ready, slot, spent))
    }

    /// Puts the connection back for the next call, if it can use it.
    pub(super) fn give_back(self) {
        let Self { server, connection, generation, slot, .. } = self;
        if connection.is_doubtful() {
            server.reach.moved();
            server.close_idle();
        } else if connection.is_reusable() {
            server.keep(slot.pool, Ready { connection, generation, began: None });
        }
        drop(slot);
    }
}

/// A time limit whose timer is in the process's own runtime, because the caller may be outside of any runtime.
pub(super) fn timeout<F: Future>(limit: Duration, future: F) -> Result<Timeout<F>> {
    let _inside = runtime::handle()?.enter();
    Ok(tokio::time::timeout(limit, future))
}
