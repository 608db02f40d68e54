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

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use lines::Corruption;
use lines::Lines;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// What happens to the bytes of one direction, on every connection, until another fault is set.
#[derive(Debug, Clone, Copy, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    Pass,
    /// The connection ends, in both directions, when so many more bytes have passed on it.
    CutAfter(u64),
    /// Every piece comes so much later.
    Delay(Duration),
    /// Every byte is a packet of its own.
    SingleBytes,
    /// The first line of every bulk string that is a chunk's (see [`Corruption`]) is changed.
    Corrupt(Corruption),
    /// The same with the next one only, on whichever connection it comes.
    CorruptNext(Corruption),
    /// Nothing passes any more; what is sent piles up.
    Stall,
}

/// A TCP proxy on a port of its own. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: watch::Sender<Fault>,
    replies: watch::Sender<Fault>,
    /// How often `cut` was called: a connection ends when it changes.
    cut: watch::Sender<usize>,
    accepted: AtomicUsize,
    /// A line is still to be changed by `CorruptNext`.
    next: AtomicBool,
    /// How often a fault has cut a connection or changed a line.
    struck: watch::Sender<usize>,
}

impl Proxy {
    /// Starts one in front of `upstream`, where nobody has to listen yet: a client that connects meanwhile is cut off.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::<Shared>::default();
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    let shared = shared.clone();
                    connections.spawn(async move { shared.connect(client, upstream).await });
                    while connections.try_join_next().is_some() {}
                }
            }
        });
        Self { address, shared, accepting }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `scheme://127.0.0.1:port`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// From now on this happens to what clients send.
    pub fn requests(&self, fault: Fault) {
        self.arm(fault);
        self.shared.requests.send_replace(fault);
    }

    /// From now on this happens to what the server sends.
    pub fn replies(&self, fault: Fault) {
        self.arm(fault);
        self.shared.replies.send_replace(fault);
    }

    /// From now on everything passes, both ways; what was held up comes now.
    pub fn heal(&self) {
        self.requests(Fault::Pass);
        self.replies(Fault::Pass);
    }

    fn arm(&self, fault: Fault) {
        self.shared.next.store(matches!(fault, Fault::CorruptNext(_)), Ordering::SeqCst);
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How often a fault has cut a connection or changed a line so far.
    pub fn struck(&self) -> usize {
        *self.shared.struck.borrow()
    }

    /// Waits until a fault has struck more than `before` times.
    pub async fn strikes(&self, before: usize) {
        let mut struck = self.shared.struck.subscribe();
        // The sender lives as long as the proxy.
        let _ = struck.wait_for(|&n| n > before).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn connect(&self, client: TcpStream, upstream: SocketAddr) {
        let mut cut = self.cut.subscribe();
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        // What is split must not be put together again.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let requests = self.pump(from_client, to_server, self.requests.subscribe());
        let replies = self.pump(from_server, to_client, self.replies.subscribe());
        // An error of one direction, and a cut is one, ends both.
        tokio::select! {
            _ = async { tokio::try_join!(requests, replies) } => {}
            _ = cut.changed() => {}
        }
    }

    async fn pump(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut fault: watch::Receiver<Fault>,
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
                    // Bytes count from when the fault was set.
                    passed = 0;
                    continue;
                }
            };
            if len == 0 {
                return to.shutdown().await;
            }
            // The fault may have changed with the bytes.
            let now = loop {
                let now = {
                    let now = fault.borrow_and_update();
                    if now.has_changed() {
                        passed = 0;
                    }
                    *now
                };
                match now {
                    Fault::Stall => fault.changed().await.map_err(io::Error::other)?,
                    other => break other,
                }
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
                Fault::Pass | Fault::Stall | Fault::Corrupt(_) | Fault::CorruptNext(_) => to.write_all(&bytes).await?,
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
                Fault::SingleBytes => {
                    for byte in bytes.iter() {
                        to.write_all(&[*byte]).await?;
                        // Lets the reader see it before the next.
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
