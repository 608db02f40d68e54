//! A network between client and server that fails on demand.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use kvconn_redis_server::{Fault, Proxy, RedisServer};
//!
//! let server = RedisServer::start(&[]);
//! let proxy = Proxy::start(server.address()).await;
//! // .. a client connects to `proxy.address()` ..
//! proxy.replies(Fault::CutAfter(100_000)); // the connection ends within the next large reply
//! proxy.heal();
//! # }
//! ```

mod lines;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use lines::Corruption;
use lines::Lines;
use wire::Wire;

/// The most bytes of one read.
const PIECE: usize = 64 << 10;

/// The fault of one direction. It applies to every connection until another fault is set.
#[derive(Debug, Clone, Copy, Default)]
pub enum Fault {
    /// All bytes pass.
    #[default]
    Pass,
    /// The connection ends in both directions after this many more bytes.
    CutAfter(u64),
    /// A piece of at most 64 KiB passes, and then the next one after this time. (See [`Proxy::latency`] for a long wire.)
    Delay(Duration),
    /// Every byte is a separate packet.
    SingleBytes,
    /// One byte passes, and then the next one after this time.
    Drip(Duration),
    /// The proxy changes the first line of every bulk string with a chunk (see [`Corruption`]).
    Corrupt(Corruption),
    /// The proxy changes the first line of the next such bulk string, on any connection.
    CorruptNext(Corruption),
    /// No bytes pass. The proxy stops reading.
    Stall,
    /// No bytes pass on the next connection that has some. They pass on all others.
    StallNext,
}

/// A TCP proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    requests: watch::Sender<Fault>,
    replies: watch::Sender<Fault>,
    /// The number of calls of `cut`. A connection ends when it changes.
    cut: watch::Sender<usize>,
    accepted: AtomicUsize,
    /// The latency of new connections, in nanoseconds.
    latency: AtomicU64,
    /// The turns of each connection.
    turns: Mutex<Vec<Arc<Turns>>>,
    upstream: watch::Sender<SocketAddr>,
    /// Whether `CorruptNext` must still change a line, or `StallNext` stall a connection.
    next: AtomicBool,
    /// The number of connections that a fault has cut or stalled and of lines that it has changed.
    struck: watch::Sender<usize>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`. Until `upstream` listens, the proxy cuts every connection.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            requests: watch::Sender::default(),
            replies: watch::Sender::default(),
            cut: watch::Sender::default(),
            accepted: AtomicUsize::default(),
            latency: AtomicU64::default(),
            turns: Mutex::default(),
            upstream: watch::Sender::new(upstream),
            next: AtomicBool::default(),
            struck: watch::Sender::default(),
        });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    let shared = shared.clone();
                    connections.spawn(async move { shared.connect(client).await });
                    while connections.try_join_next().is_some() {}
                }
            }
        });
        Self { address, shared, accepting }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `scheme://127.0.0.1:port`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Leads further connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.shared.upstream.send_replace(upstream);
    }

    /// Sets the fault of the bytes from clients.
    pub fn requests(&self, fault: Fault) {
        self.arm(fault);
        self.shared.requests.send_replace(fault);
    }

    /// Sets the fault of the bytes from the server.
    pub fn replies(&self, fault: Fault) {
        self.arm(fault);
        self.shared.replies.send_replace(fault);
    }

    /// Lets all bytes pass in both directions, including stalled ones.
    pub fn heal(&self) {
        self.requests(Fault::Pass);
        self.replies(Fault::Pass);
    }

    fn arm(&self, fault: Fault) {
        self.shared.next.store(matches!(fault, Fault::CorruptNext(_) | Fault::StallNext), Ordering::SeqCst);
    }

    /// Every byte of a new connection arrives this much later, in each direction, so a round trip takes twice the time.
    /// The bandwidth stays: bytes on their way do not wait for each other.
    pub fn latency(&self, each_way: Duration) {
        let nanos = u64::try_from(each_way.as_nanos()).expect("a latency of less than 500 years");
        self.shared.latency.store(nanos, Ordering::SeqCst);
    }

    /// The round trips of each connection so far, in the order of the connections. A round trip starts when the client sends
    /// bytes after the proxy sent it bytes of a reply.
    pub fn round_trips(&self) -> Vec<usize> {
        let turns = self.shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.iter().map(|turns| turns.count.load(Ordering::SeqCst)).collect()
    }

    /// Cuts all current connections.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// The number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of connections that a fault has cut or `StallNext` has stalled, plus the number of lines that it has changed.
    pub fn struck(&self) -> usize {
        *self.shared.struck.borrow()
    }

    /// Waits until [`struck`](Self::struck) exceeds `before`.
    pub async fn strikes(&self, before: usize) {
        let mut struck = self.shared.struck.subscribe();
        // The sender lives as long as the proxy.
        let _ = struck.wait_for(|&n| n > before).await;
    }
}

/// Counts the turns of a connection's two sides.
#[derive(Debug, Default)]
struct Turns {
    /// Whether the client sent the last bytes.
    is_asked: AtomicBool,
    count: AtomicUsize,
}

impl Turns {
    fn asked(&self) {
        if !self.is_asked.swap(true, Ordering::SeqCst) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn answered(&self) {
        self.is_asked.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn connect(&self, client: TcpStream) {
        let mut cut = self.cut.subscribe();
        let upstream = *self.upstream.borrow();
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        // The kernel must not merge packets that the proxy has split.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let turns = Arc::<Turns>::default();
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).push(turns.clone());
        let latency = Duration::from_nanos(self.latency.load(Ordering::SeqCst));
        let (to_server, moved_requests) = Wire::new(to_server, latency, || {});
        let (to_client, moved_replies) = Wire::new(to_client, latency, || turns.answered());
        let requests = self.pump(from_client, to_server, self.requests.subscribe(), || turns.asked());
        let replies = self.pump(from_server, to_client, self.replies.subscribe(), || {});
        // An error in one direction ends both. A cut is an error.
        tokio::select! {
            _ = async { tokio::try_join!(requests, replies, moved_requests, moved_replies) } => {}
            _ = cut.changed() => {}
        }
    }

    async fn pump(
        &self,
        mut from: OwnedReadHalf,
        mut to: Wire<impl Fn()>,
        mut fault: watch::Receiver<Fault>,
        arrived: impl Fn(),
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let mut lines = Lines::default();
        let mut passed = 0;
        loop {
            let stalled = matches!(*fault.borrow_and_update(), Fault::Stall);
            let len = tokio::select! {
                len = from.read(&mut piece), if !stalled => len?,
                changed = fault.changed() => {
                    changed.map_err(io::Error::other)?;
                    // `CutAfter` counts the bytes since the fault was set.
                    passed = 0;
                    continue;
                }
            };
            if len == 0 {
                return to.shutdown().await;
            }
            arrived();
            let mut is_stalled = false;
            // The fault may have changed while the bytes arrived.
            let now = loop {
                let now = {
                    let now = fault.borrow_and_update();
                    if now.has_changed() {
                        passed = 0;
                    }
                    *now
                };
                match now {
                    Fault::Stall => {}
                    // Stays stalled when the fault is set again.
                    Fault::StallNext if is_stalled => {}
                    Fault::StallNext if self.next.swap(false, Ordering::SeqCst) => {
                        is_stalled = true;
                        self.strike();
                    }
                    other => break other,
                }
                fault.changed().await.map_err(io::Error::other)?;
                passed = 0;
            };
            let (corruption, once) = match now {
                Fault::Corrupt(corruption) => (Some(corruption), false),
                Fault::CorruptNext(corruption) => (Some(corruption), true),
                _ => (None, false),
            };
            let may = || !once || self.next.swap(false, Ordering::SeqCst);
            let (bytes, changed) = lines.pass(&piece[..len], corruption, may);
            if changed {
                self.strike();
            }
            match now {
                Fault::Pass | Fault::Stall | Fault::StallNext | Fault::Corrupt(_) | Fault::CorruptNext(_) => {
                    to.write_all(&bytes).await?;
                }
                Fault::CutAfter(limit) => {
                    let left = usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX).min(bytes.len());
                    to.write_all(&bytes[..left]).await?;
                    passed += left as u64;
                    if passed >= limit {
                        self.strike();
                        return Err(io::Error::other("cut"));
                    }
                }
                Fault::Delay(time) => {
                    tokio::time::sleep(time).await;
                    to.write_all(&bytes).await?;
                }
                Fault::Drip(time) => {
                    for byte in bytes.iter() {
                        to.write_all(&[*byte]).await?;
                        tokio::time::sleep(time).await;
                        if !matches!(*fault.borrow(), Fault::Drip(_)) {
                            return Err(io::Error::other("healed in the middle of a piece"));
                        }
                    }
                }
                Fault::SingleBytes => {
                    for byte in bytes.iter() {
                        to.write_all(&[*byte]).await?;
                        // Lets the reader read this byte before the next one.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn strike(&self) {
        self.struck.send_modify(|n| *n += 1);
    }
}
