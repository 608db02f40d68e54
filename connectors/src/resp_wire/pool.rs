//! The connections to one server: some for chunks, some for everything else.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use futures::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use super::connection::Connection;
use super::handshake::handshake;
use super::options::WireOptions;
use super::reactor;

/// All connections to one server. They are made when they are needed, and replaced when they break.
///
/// A call does its I/O itself, on a connection that nobody else has meanwhile. A call that is dropped on the way leaves
/// the connection in the middle of something, so it is closed; the memory was only ever touched by the call itself.
pub(crate) struct Wire {
    options: Arc<WireOptions>,
    sockets: Handle,
    backoff: Mutex<Backoff>,
    pub(super) bulk: Lane,
    pub(super) small: Lane,
    /// What may be on its way at once by single calls, in [`UNIT`]s.
    on_the_way: Semaphore,
    /// Length of the chunk that was moved last: the chunks of a store are mostly of one length.
    usual_len: AtomicUsize,
}

/// A part of what may be on its way.
pub(super) type Share<'a> = SemaphorePermit<'a>;

/// Some connections, each used by one call at a time.
pub(super) struct Lane {
    permits: Semaphore,
    /// The last one used is the first one out: the others may be closed by the server one day.
    idle: Mutex<Vec<Connection>>,
    /// Read ahead of a payload at most.
    room: usize,
    size: usize,
    /// Calls that wait for a connection.
    waiting: AtomicUsize,
    /// Grows whenever something passes on one of the connections.
    turns: Arc<AtomicUsize>,
    /// When a server last stood still, and what that call got. Who waited already gets it, too.
    stalled: Mutex<Option<(Instant, Error)>>,
}

/// One connection for one call. Dropped without [`done`](Self::done), it is closed.
pub(super) struct Lease<'a> {
    lane: &'a Lane,
    pub(super) connection: Connection,
    /// What had arrived when the lease began, if the connection was used before.
    arrived_before: Option<u64>,
    permit: SemaphorePermit<'a>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
    last: Option<Error>,
}

/// Read ahead of a payload, and then copied, at most.
const BULK_ROOM: usize = 4 << 10;
/// Small replies come many at a time.
const SMALL_ROOM: usize = 16 << 10;
/// Bytes of chunks that are asked for or sent at once over all connections, about. A server makes an answer whole in its
/// memory and reads a request whole before it does anything, and what does not stay in its processor's cache is slower.
/// (Measured, 4 MiB, batches: 8 connections with 32 MiB on their way read at 1.3 GiB/s, 4 with 16 MiB at 1.8.)
const ON_THE_WAY: usize = 16 << 20;
/// In what it is counted.
const UNIT: usize = 64 << 10;
/// Longest wait for a share of it. It only serves speed, and those who have it may be futures that nobody polls.
const SHARE_WAIT: Duration = Duration::from_millis(20);
/// What is shorter is an answer without a chunk.
const CHUNK_AT_LEAST: usize = 512;
/// Longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_millis(500);

impl Wire {
    /// Makes a first connection, to see that the server is there.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Denied`; `Unavailable` and not temporary for what is no such server.
    pub(crate) async fn open(options: WireOptions, handle: &Handle) -> Result<Self> {
        let wire = Self {
            sockets: reactor::for_sockets(handle)?,
            backoff: Mutex::default(),
            bulk: Lane::new(options.connections, BULK_ROOM),
            small: Lane::new(options.small_connections, SMALL_ROOM),
            on_the_way: Semaphore::new(ON_THE_WAY / UNIT),
            usual_len: AtomicUsize::new(0),
            options: Arc::new(options),
        };
        wire.lease(&wire.small).await?.done();
        Ok(wire)
    }

    /// What it was made from.
    pub(crate) fn options(&self) -> &WireOptions {
        &self.options
    }

    /// Closes all connections that are at rest; those in use when their call has ended. Later calls are `Closed`.
    pub(crate) fn close(&self) {
        for lane in [&self.bulk, &self.small] {
            lane.permits.close();
            lane.idle().clear();
        }
        self.on_the_way.close();
    }

    /// How many connections a batch of so many chunks takes.
    pub(super) fn lanes(&self, items: usize, len: usize) -> usize {
        let len = if len > 0 { len } else { self.usual_len.load(Ordering::Relaxed) };
        self.bulk.size.min((ON_THE_WAY / len.max(1)).max(2)).min(items)
    }

    /// A share of what may be on its way, for one chunk of about that length; none after a short wait.
    pub(super) async fn share(&self, len: usize) -> Result<Option<Share<'_>>> {
        let len = if len > 0 { len } else { self.usual_len.load(Ordering::Relaxed) };
        // It fits: the limit is small.
        let units = u32::try_from(len.min(ON_THE_WAY / 2).div_ceil(UNIT)).unwrap_or(1);
        if let Ok(share) = self.on_the_way.try_acquire_many(units) {
            return Ok(Some(share));
        }
        let waited = {
            let _inside = reactor::own()?.enter();
            tokio::time::timeout(SHARE_WAIT, self.on_the_way.acquire_many(units))
        };
        Ok(waited.await.ok().and_then(|share| share.ok()))
    }

    /// Remembers how long a chunk was.
    pub(super) fn moved(&self, len: usize) {
        if len >= CHUNK_AT_LEAST {
            self.usual_len.store(len, Ordering::Relaxed);
        }
    }

    /// A connection of the lane, once one is free.
    pub(super) async fn lease<'a>(&self, lane: &'a Lane) -> Result<Lease<'a>> {
        let permit = match lane.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(Error::closed()),
            Err(TryAcquireError::NoPermits) => self.wait_for(lane).await?,
        };
        if let Some(connection) = lane.take_alive() {
            let arrived_before = Some(connection.arrived());
            return Ok(Lease { lane, connection, arrived_before, permit });
        }
        let connection = self.connect(lane).await.inspect_err(|e| self.failed(lane, e))?;
        Ok(Lease { lane, connection, arrived_before: None, permit })
    }

    /// Waits for a turn. Not for ever: those who have the connections may be futures that nobody polls.
    async fn wait_for<'a>(&self, lane: &'a Lane) -> Result<SemaphorePermit<'a>> {
        let asked = Instant::now();
        let _waiting = lane.wait();
        let patience = self.options.connect_timeout + self.options.io_timeout;
        let mut permit = pin!(lane.permits.acquire());
        loop {
            let turns = lane.turns.load(Ordering::Relaxed);
            let alarm = {
                let _inside = reactor::own()?.enter();
                tokio::time::sleep(patience)
            };
            match select(permit.as_mut(), pin!(alarm)).await {
                Either::Left((permit, _)) => {
                    let permit = permit.map_err(|_| Error::closed())?;
                    return match &*lane.stalled() {
                        Some((at, e)) if *at >= asked => Err(e.clone()),
                        _ => Ok(permit),
                    };
                }
                Either::Right(_) if lane.turns.load(Ordering::Relaxed) != turns => {}
                Either::Right(_) => {
                    let (size, ms) = (lane.size, patience.as_millis());
                    let why =
                        format!("no call on the {size} connections to {} got on for {ms} ms", self.options.address);
                    return Err(Error::new(ErrorKind::Timeout, why)
                        .temporary(true)
                        .with_hint("a call holds its connection until its future is polled to its end or dropped"));
                }
            }
        }
    }

    /// Remembers a server that stands still: who waits for a connection to it need not find out again, and the other
    /// connections at rest are as dead as this one.
    pub(super) fn failed(&self, lane: &Lane, e: &Error) {
        if e.kind() == ErrorKind::Timeout {
            *lane.stalled() = Some((Instant::now(), e.clone()));
            for lane in [&self.bulk, &self.small] {
                lane.idle().clear();
            }
        }
    }

    /// A new connection in place of another one.
    pub(super) async fn renew<'a>(&self, lease: Lease<'a>) -> Result<Lease<'a>> {
        let Lease { lane, connection, permit, .. } = lease;
        drop(connection);
        let connection = self.connect(lane).await?;
        Ok(Lease { lane, connection, arrived_before: None, permit })
    }

    /// Connects, one attempt at a time once attempts fail. Who waits for its turn gets the error of the one before.
    async fn connect(&self, lane: &Lane) -> Result<Connection> {
        let failures = self.backoff().failures;
        let mut waited = false;
        loop {
            let until = {
                let mut backoff = self.backoff();
                match backoff.until.filter(|until| *until > Instant::now()) {
                    Some(until) => match &backoff.last {
                        Some(e) if waited && backoff.failures > failures => return Err(e.clone()),
                        _ => until,
                    },
                    None => {
                        backoff.until = backoff.pause().map(|pause| Instant::now() + pause);
                        break;
                    }
                }
            };
            let pause = {
                let _inside = reactor::own()?.enter();
                tokio::time::sleep_until(until)
            };
            pause.await;
            waited = true;
        }
        let connected = establish(&self.sockets, &self.options, lane.room)
            .await
            .map(|connection| connection.counted_in(&lane.turns));
        let mut backoff = self.backoff();
        match &connected {
            Ok(_) => *backoff = Backoff::default(),
            Err(e) => {
                backoff.failures = backoff.failures.saturating_add(1);
                backoff.until = backoff.pause().map(|pause| Instant::now() + pause);
                backoff.last = Some(e.clone());
            }
        }
        connected
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and greets on kvconn's own runtime, which has a clock whatever the caller's has.
async fn establish(sockets: &Handle, options: &Arc<WireOptions>, room: usize) -> Result<Connection> {
    struct Abort(tokio::task::AbortHandle);
    impl Drop for Abort {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let (options, sockets) = (options.clone(), sockets.clone());
    let greeting = reactor::own()?.spawn(async move {
        let greet = async {
            let (address, patience) = (&options.address, options.io_timeout);
            let mut connection = Connection::connect(address, &sockets, options.limits, room, patience).await?;
            handshake(&mut connection, &options).await?;
            Ok(connection)
        };
        tokio::time::timeout(options.connect_timeout, greet).await.unwrap_or_else(|_| {
            let ms = options.connect_timeout.as_millis();
            Err(Error::new(ErrorKind::Timeout, format!("{} did not answer a greeting within {ms} ms", options.address))
                .temporary(true)
                .with_hint("is it a redis or valkey server? `connect_timeout_ms` says how long to wait"))
        })
    });
    let _abort = Abort(greeting.abort_handle());
    greeting.await.map_err(|_| Error::new(ErrorKind::Other, "connecting to the server panicked"))?
}

impl Backoff {
    /// None after the first failure: it may have been a restart.
    fn pause(&self) -> Option<Duration> {
        let pause = Duration::from_millis(5 << self.failures.min(8)).min(MAX_PAUSE);
        (self.failures > 1).then_some(pause)
    }
}

impl Lane {
    fn new(size: usize, room: usize) -> Self {
        let size = size.max(1);
        Self {
            permits: Semaphore::new(size),
            idle: Mutex::default(),
            room,
            size,
            waiting: AtomicUsize::new(0),
            turns: Arc::default(),
            stalled: Mutex::default(),
        }
    }

    fn stalled(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call waits for a connection.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Counts as waiting until it is dropped.
    fn wait(&self) -> impl Drop + use<'_> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_alive(&self) -> Option<Connection> {
        loop {
            let connection = self.idle().pop()?;
            if connection.is_alive() {
                return Some(connection);
            }
        }
    }
}

impl Lease<'_> {
    /// Whether `e` only shows that the connection had been dead for long: the server was started again, or something
    /// between forgot the connection. Then nothing was done by it.
    pub(super) fn was_dead(&self, e: &Error) -> bool {
        self.arrived_before == Some(self.connection.arrived()) && e.kind() == ErrorKind::Unavailable
    }

    /// Gives the connection back, if the next call can use it.
    pub(super) fn done(self) {
        let Self { lane, connection, permit, .. } = self;
        *lane.stalled() = None;
        if connection.is_at_rest() {
            let mut idle = lane.idle();
            if !lane.permits.is_closed() {
                idle.push(connection);
            }
        }
        // The connection is there for whoever gets the permit.
        drop(permit);
    }
}
