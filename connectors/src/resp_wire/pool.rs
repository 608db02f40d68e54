//! The connections to one server: some for chunks, some for everything else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
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
    /// The runtime for the sockets is gone: they are on ours now.
    moved: AtomicBool,
    backoff: Mutex<Backoff>,
    pub(super) bulk: Lane,
    pub(super) small: Lane,
    /// What may be on its way at once, in [`UNIT`]s.
    on_the_way: Semaphore,
    /// Length of the chunk that was moved last: the chunks of a store are mostly of one length.
    usual_len: AtomicUsize,
}

/// Some connections, each used by one call at a time.
pub(super) struct Lane {
    permits: Semaphore,
    /// The last one used is the first one out: the others may be closed by the server one day.
    idle: Mutex<Vec<Connection>>,
    /// Read ahead of a payload at most.
    room: usize,
    pub(super) size: usize,
}

/// One connection for one call. Dropped without [`done`](Self::done), it is closed.
pub(super) struct Lease<'a> {
    lane: &'a Lane,
    pub(super) connection: Connection,
    /// What had arrived when the lease began, if the connection was used before.
    arrived_before: Option<u64>,
    permit: SemaphorePermit<'a>,
    share: Option<SemaphorePermit<'a>>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
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
            moved: AtomicBool::new(false),
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

    /// A connection for chunks, once one is free and few enough bytes are on their way. At least two get one.
    pub(super) async fn lease_for_chunks(&self) -> Result<Lease<'_>> {
        let mut lease = self.lease(&self.bulk).await?;
        let share = self.usual_len.load(Ordering::Relaxed).min(ON_THE_WAY / 2).div_ceil(UNIT);
        // It fits: the limit is small.
        let share = self.on_the_way.acquire_many(u32::try_from(share).unwrap_or(1)).await;
        lease.share = Some(share.map_err(|_| Error::closed())?);
        Ok(lease)
    }

    /// Remembers how long a chunk was.
    pub(super) fn moved(&self, len: usize) {
        self.usual_len.store(len, Ordering::Relaxed);
    }

    /// A connection of the lane, once one is free.
    pub(super) async fn lease<'a>(&self, lane: &'a Lane) -> Result<Lease<'a>> {
        let permit = lane.permits.acquire().await.map_err(|_| Error::closed())?;
        if let Some(connection) = lane.take_alive() {
            let arrived_before = Some(connection.arrived());
            return Ok(Lease { lane, connection, arrived_before, permit, share: None });
        }
        let connection = self.connect(lane.room).await?;
        Ok(Lease { lane, connection, arrived_before: None, permit, share: None })
    }

    /// A new connection in place of another one.
    pub(super) async fn renew<'a>(&self, lease: Lease<'a>) -> Result<Lease<'a>> {
        let Lease { lane, connection, permit, share, .. } = lease;
        drop(connection);
        let connection = self.connect(lane.room).await?;
        Ok(Lease { lane, connection, arrived_before: None, permit, share })
    }

    async fn connect(&self, room: usize) -> Result<Connection> {
        let pause = self.backoff().until;
        if let Some(until) = pause {
            let pause = {
                let _inside = reactor::own()?.enter();
                tokio::time::sleep_until(until)
            };
            pause.await;
        }
        let connected = self.connect_now(room).await;
        let mut backoff = self.backoff();
        if connected.is_ok() {
            *backoff = Backoff::default();
        } else {
            backoff.failures = backoff.failures.saturating_add(1);
            // None after the first failure: it may have been a restart.
            let pause = Duration::from_millis(5 << backoff.failures.min(8)).min(MAX_PAUSE);
            backoff.until = (backoff.failures > 1).then(|| Instant::now() + pause);
        }
        connected
    }

    async fn connect_now(&self, room: usize) -> Result<Connection> {
        let own = reactor::own()?;
        if self.moved.load(Ordering::Relaxed) {
            return establish(own, &self.options, room).await;
        }
        match establish(own, &self.options, room).await?.moved_to(&self.sockets) {
            Ok(connection) => Ok(connection),
            // The runtime that the connector was opened on has ended.
            Err(_) => {
                self.moved.store(true, Ordering::Relaxed);
                establish(own, &self.options, room).await
            }
        }
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and greets on the given runtime, which has a clock whatever the caller's has.
async fn establish(runtime: &Handle, options: &Arc<WireOptions>, room: usize) -> Result<Connection> {
    struct Abort(tokio::task::AbortHandle);
    impl Drop for Abort {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let options = options.clone();
    let greeting = runtime.spawn(async move {
        let greet = async {
            let (address, patience) = (&options.address, options.io_timeout);
            let mut connection = Connection::connect(address, options.limits, room, patience).await?;
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

impl Lane {
    fn new(size: usize, room: usize) -> Self {
        let size = size.max(1);
        Self { permits: Semaphore::new(size), idle: Mutex::default(), room, size }
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
