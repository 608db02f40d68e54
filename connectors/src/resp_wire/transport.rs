//! A connected socket, TCP or unix, and TLS over it. Only this module knows its descriptor and its runtime.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Handle, is_rt_shutdown_err};

use super::session::Session;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// A name or an IP address (IPv6 without brackets), and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket's path.
    #[cfg_attr(not(any(test, feature = "redis")), expect(dead_code, reason = "only `redis` has unix sockets"))]
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            // `unix:///user:password@/path` has its login in the path.
            Self::Unix(path) if path.to_string_lossy().contains('@') => f.write_str("the URL's socket"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The bytes to and from a server. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    /// TLS, if the connection uses it.
    session: Option<Box<Session>>,
    /// Bytes that must be there before the socket counts as readable.
    low_mark: usize,
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The readiness to wait for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ready {
    /// Readable. The transport may wait until `at_least` bytes are there, if it can.
    Read { at_least: usize },
    /// Writable.
    Write,
}

/// On a closed connection, a send fails and does not raise SIGPIPE. Apple's systems have no such flag; there mio sets
/// `SO_NOSIGPIPE` on each socket.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// A reader waits for a mark only if it wants at least this many bytes.
const SMALLEST_MARK: usize = 128 << 10;
/// The highest mark: the receive buffer must have room for it.
const LARGEST_MARK: usize = 1 << 20;
/// The session may hold most of a record, whose rest ends the payload.
const LONGEST_RECORD: usize = 17 << 10;

/// Time without a byte after which the system probes the server. Firewalls and load balancers forget idle connections,
/// some after 4 minutes (Azure), others after 350 s (AWS) or 10 minutes (Google Cloud).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The system closes the connection after this number of probes without an answer.
const KEEPALIVE_PROBES: u32 = 4;

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Of all addresses of the host together.
    pub(super) connect: Duration,
    /// Of a wait for a byte.
    pub(super) io: Duration,
}

impl Transport {
    /// Connects to the first address of the host that answers. `runtime` waits for the socket from then on, or the current
    /// runtime if that one has ended. The system closes the connection if the server takes no byte for `io_timeout` or
    /// longer.
    pub(super) async fn connect(address: &Address, runtime: &Handle, timeouts: Timeouts) -> io::Result<Self> {
        let socket = match Socket::connect(address, runtime, timeouts).await {
            Err(e) if is_rt_shutdown_err(&e) => Socket::connect(address, &Handle::current(), timeouts).await?,
            other => other?,
        };
        Ok(Self { socket, session: None, low_mark: 1 })
    }

    /// Starts TLS.
    pub(super) async fn start_tls(&mut self, mut session: Session) -> io::Result<()> {
        while let Some(ready) = session.shake_hands(&self.socket)? {
            poll_fn(|cx| self.poll_ready(ready, cx)).await?;
        }
        self.session = Some(Box::new(session));
        Ok(())
    }

    /// The TLS session, if the connection uses it.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// The version of TLS, if the connection uses it.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        self.session.as_ref()?.version()
    }

    /// Whether the server neither sent a reply nor hung up while no call used the connection. Asks the system, because
    /// the runtime may not have seen it yet.
    pub(super) fn is_quiet(&mut self) -> bool {
        match &mut self.session {
            Some(session) => session.is_quiet(&self.socket),
            None => !self.has_input(),
        }
    }

    /// Whether the system has bytes of the server, or its end.
    pub(super) fn has_input(&self) -> bool {
        let peeked = rustix::net::recv(&self.socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Whether the runtime that waits for the socket still runs.
    pub(super) fn has_runtime(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = match &self.socket {
            Socket::Tcp(tcp) => tcp.poll_write_ready(cx),
            Socket::Unix(unix) => unix.poll_write_ready(cx),
        };
        !matches!(ready, Poll::Ready(Err(_)))
    }

    /// Reads the bytes that are there, up to the buffers' length.
    pub(super) fn try_read(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.read(to, &self.socket),
            None => self.socket.receive(to),
        }
    }

    /// Writes as many bytes as the system takes. With TLS it also takes bytes that wait for the system; a later call sends
    /// them first.
    pub(super) fn try_write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.write(from, &self.socket),
            None => self.socket.send(from),
        }
    }

    /// Whether bytes that were written wait for the system.
    pub(super) fn has_pending(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.has_pending())
    }

    /// Ready once a try may succeed.
    pub(super) fn poll_ready(&mut self, ready: Ready, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Ready::Read { mut at_least } = ready {
            if let Some(session) = &mut self.session {
                if session.has_unread() {
                    return Poll::Ready(Ok(()));
                }
                at_least = at_least.saturating_sub(LONGEST_RECORD);
            }
            self.set_low_mark(if at_least < SMALLEST_MARK { 1 } else { at_least.min(LARGEST_MARK) });
        }
        match (&self.socket, ready) {
            (Socket::Tcp(tcp), Ready::Read { .. }) => tcp.poll_read_ready(cx),
            (Socket::Tcp(tcp), Ready::Write) => tcp.poll_write_ready(cx),
            (Socket::Unix(unix), Ready::Read { .. }) => unix.poll_read_ready(cx),
            (Socket::Unix(unix), Ready::Write) => unix.poll_write_ready(cx),
        }
    }

    /// Sets `SO_RCVLOWAT`, which a unix socket ignores. A wake-up costs the server as much as a copy of tens of KiB, because its
    /// own call wakes the reader.
    ///
    /// Linux reports a full receive buffer as readable however high the mark is, and checks a new mark at once. Other systems
    /// need not, and wake the reader for every byte.
    #[expect(unsafe_code, reason = "neither rustix nor socket2 has this option")]
    fn set_low_mark(&mut self, bytes: usize) {
        if self.low_mark == bytes || cfg!(not(target_os = "linux")) {
            return;
        }
        if let Socket::Tcp(tcp) = &self.socket {
            let value = bytes as libc::c_int;
            let len = size_of_val(&value) as libc::socklen_t;
            let (fd, value_at) = (tcp.as_raw_fd(), (&raw const value).cast());
            // SAFETY: the descriptor is open while `tcp` is borrowed, and `value` is a readable int of `len` bytes.
            let status = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value_at, len) };
            self.low_mark = if status == 0 { bytes } else { 1 };
        }
    }
}

impl Socket {
    async fn connect(address: &Address, runtime: &Handle, timeouts: Timeouts) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let unix = UnixStream::connect(path).await?.into_std()?;
                let _inside = runtime.enter();
                UnixStream::from_std(unix).map(Self::Unix)
            }
            Address::Tcp { host, port } => {
                let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
                let tcp = connect_to_any(&addresses, timeouts.connect).await?;
                tcp.set_nodelay(true)?;
                notice_a_lost_server(&tcp, timeouts.io)?;
                let tcp = tcp.into_std()?;
                let _inside = runtime.enter();
                TcpStream::from_std(tcp).map(Self::Tcp)
            }
        }
    }

    /// Receives the bytes that are there, up to the buffers' length.
    pub(super) fn receive(&self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted = to.iter().map(|b| b.len()).sum();
        self.try_io(Interest::READABLE, wanted, |fd| rustix::io::readv(fd, to))
    }

    /// As [`receive`](Self::receive), but asks the system even if the runtime has not seen any bytes.
    pub(super) fn receive_now(&self, to: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self, to, RecvFlags::DONTWAIT)?.0)
    }

    /// Sends as many bytes as the system takes.
    pub(super) fn send(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted = from.iter().map(|b| b.len()).sum();
        // Uses `sendmsg`: on a closed connection, `writev` raises SIGPIPE, which ends a program that does not handle
        // it.
        let mut no_files = SendAncillaryBuffer::default();
        self.try_io(Interest::WRITABLE, wanted, |fd| rustix::net::sendmsg(fd, from, &mut no_files, NO_SIGNAL))
    }

    /// Calls the system unless the runtime knows that the socket is not ready. A count below `wanted` also means "not ready
    /// any more", which saves the next try.
    fn try_io(
        &self,
        interest: Interest,
        wanted: usize,
        call: impl FnOnce(&Self) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let once = || match call(self) {
            Ok(n) if 0 < n && n < wanted => {
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => Ok(other?),
        };
        let answer = match self {
            Self::Tcp(tcp) => tcp.try_io(interest, once),
            Self::Unix(unix) => unix.try_io(interest, once),
        };
        short.map_or(answer, Ok)
    }
}

/// Each address has its share of the time, so that one without an answer does not hide the others.
async fn connect_to_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name of the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = match tried + 1 < addresses.len() {
            true => tokio::time::timeout(limit / addresses.len() as u32, connecting).await,
            false => Ok(connecting.await),
        };
        match connected {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(e)) => last = e,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A server that lost its power, or a firewall that forgot the connection, sends nothing. The system finds out by
/// probes.
fn notice_a_lost_server(tcp: &TcpStream, io_timeout: Duration) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
    // Linux also counts the time in which the server's buffer is full, and ends the keepalive probes after this time.
    #[cfg(target_os = "linux")]
    {
        let limit = io_timeout.max(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES);
        sockopt::set_tcp_user_timeout(tcp, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), io: Duration::from_secs(10) };

    #[tokio::test]
    async fn a_unix_socket_sends_and_hears_that_the_other_side_hung_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut transport = Transport::connect(&Address::Unix(path), &Handle::current(), TIMEOUTS).await.unwrap();
        let (mut other, _) = listener.accept().unwrap();
        assert!(transport.is_quiet());
        poll_fn(|cx| transport.poll_ready(Ready::Write, cx)).await.unwrap();
        assert_eq!(transport.try_write(&[IoSlice::new(b"o"), IoSlice::new(b"k")]).unwrap(), 2);
        let mut got = [0; 2];
        io::Read::read_exact(&mut other, &mut got).unwrap();
        assert_eq!(&got, b"ok");
        drop(other);
        assert!(!transport.is_quiet());
        poll_fn(|cx| transport.poll_ready(Ready::Read { at_least: 1 }, cx)).await.unwrap();
        assert_eq!(transport.try_read(&mut [IoSliceMut::new(&mut got)]).unwrap(), 0);
    }

    #[test]
    fn an_ended_runtime_leaves_the_socket_to_the_current_one() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime().handle().clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        runtime().block_on(async {
            let mut transport = Transport::connect(&address, &ended, TIMEOUTS).await.unwrap();
            // The first connection found its runtime ended.
            let (_, (mut other, _)) = (listener.accept().unwrap(), listener.accept().unwrap());
            io::Write::write_all(&mut other, b"ok").unwrap();
            poll_fn(|cx| transport.poll_ready(Ready::Read { at_least: 1 }, cx)).await.unwrap();
        });
    }

    #[tokio::test]
    async fn the_system_asks_an_idle_server_before_a_firewall_forgets_the_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        for io_timeout in [Duration::from_secs(10), Duration::from_secs(3600)] {
            let transport = Transport::connect(&address, &Handle::current(), Timeouts { io: io_timeout, ..TIMEOUTS })
                .await
                .unwrap();
            let socket = &transport.socket;
            assert!(sockopt::socket_keepalive(socket).unwrap());
            assert!(sockopt::tcp_keepidle(socket).unwrap() < Duration::from_secs(240));
            #[cfg(target_os = "linux")]
            assert!(u128::from(sockopt::tcp_user_timeout(socket).unwrap()) >= io_timeout.as_millis());
        }
    }

    #[tokio::test]
    async fn an_address_without_an_answer_does_not_hide_the_next_one() {
        // With a full backlog, the system drops further connections.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        let enough = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                waiting.push(TcpStream::connect(silent).await.unwrap());
            }
        });
        assert!(enough.await.is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addresses = [closed, silent, listener.local_addr().unwrap()];
        let tcp = connect_to_any(&addresses, Duration::from_millis(300)).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), addresses[2]);
    }

    #[test]
    fn addresses_are_shown_as_a_url_has_them() {
        let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: 1 }.to_string();
        assert_eq!((tcp("::1"), tcp("a.b")), ("[::1]:1".to_owned(), "a.b:1".to_owned()));
    }
}
