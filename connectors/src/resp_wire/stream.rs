//! A socket: TCP or unix. Reads and writes that never wait, and the wait for them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::task::{Context, Poll};

use connector_core::watch;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::low_mark;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A name or an IP address (an IPv6 one without brackets), and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket in the file system.
    #[cfg_attr(not(any(test, feature = "redis")), expect(dead_code, reason = "what `redis` needs"))]
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A connected socket. (TLS will be one more kind.)
///
/// A runtime waits for it, or, from when the thread that polls has waited itself ([`watch`]), none: a runtime wakes one of its
/// threads whenever something arrives, whoever waits for it.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    /// Which runtime, if one does.
    home: Handle,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    FreeTcp(std::net::TcpStream),
    FreeUnix(std::os::unix::net::UnixStream),
    /// The runtime did not take it.
    Lost,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ready {
    Read,
    Write,
}

impl Socket {
    fn into_free(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(tcp) => Self::FreeTcp(tcp.into_std()?),
            Self::Unix(unix) => Self::FreeUnix(unix.into_std()?),
            free => free,
        })
    }

    fn into_waited_for(self, runtime: &Handle) -> io::Result<Self> {
        let _inside = runtime.enter();
        Ok(match self {
            Self::FreeTcp(tcp) => Self::Tcp(TcpStream::from_std(tcp)?),
            Self::FreeUnix(unix) => Self::Unix(UnixStream::from_std(unix)?),
            waited_for => waited_for,
        })
    }

    /// If it fails, the socket is lost.
    fn change(&mut self, to: impl FnOnce(Self) -> io::Result<Self>) -> io::Result<()> {
        *self = to(std::mem::replace(self, Self::Lost))?;
        Ok(())
    }

    fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Tcp(tcp) => Ok(tcp.as_fd()),
            Self::Unix(unix) => Ok(unix.as_fd()),
            Self::FreeTcp(tcp) => Ok(tcp.as_fd()),
            Self::FreeUnix(unix) => Ok(unix.as_fd()),
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Stream {
    /// Connects to the first address of the host that answers.
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
            Address::Tcp { host, port } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                tcp.set_nodelay(true)?;
                Socket::Tcp(tcp)
            }
        };
        Ok(Self { socket, home: Handle::current() })
    }

    /// The same socket, waited for by another runtime.
    pub(super) fn moved_to(mut self, runtime: &Handle) -> io::Result<Self> {
        self.socket = self.socket.into_free()?.into_waited_for(runtime)?;
        self.home = runtime.clone();
        Ok(self)
    }

    /// Back in its runtime, or out of it if this thread watches sockets itself. To wait for it would do the same; but that its
    /// runtime is gone, to which it should go back, is better known before anything is under way.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if watch::is_on() { self.leave() } else { self.come_home() }
    }

    fn leave(&mut self) -> io::Result<()> {
        self.socket.change(Socket::into_free)
    }

    fn come_home(&mut self) -> io::Result<()> {
        self.socket.change(|socket| socket.into_waited_for(&self.home))
    }

    /// Whether the other side sent something, or hung up, while nobody listened. Asks the system, because the runtime may
    /// not have heard of it yet.
    pub(super) fn is_disturbed(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let Ok(socket) = self.socket.descriptor() else { return true };
        let peeked = rustix::net::recv(socket, &mut byte[..], flags);
        !matches!(peeked, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Reads what is there, up to the buffers' length.
    pub(super) fn try_read(&self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = to.iter().map(|b| b.len()).sum();
        self.try_io(Interest::READABLE, room, |fd| Ok(rustix::io::readv(fd, to)?))
    }

    /// Writes what the system takes.
    pub(super) fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = from.iter().map(|b| b.len()).sum();
        let send = |fd: BorrowedFd<'_>| {
            // Not `writev`: its signal ends a program that does not know of it.
            let mut no_files = SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(fd, from, &mut no_files, SendFlags::NOSIGNAL)?)
        };
        self.try_io(Interest::WRITABLE, len, send)
    }

    /// What a runtime knows already needs no system call. Less than was wanted means that there is no more, which the next
    /// try need not find out.
    fn try_io(
        &self,
        interest: Interest,
        wanted: usize,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut done = None;
        let once = |fd| match call(fd) {
            Ok(n) if 0 < n && n < wanted => {
                done = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        };
        let answer = match &self.socket {
            Socket::Tcp(tcp) => tcp.try_io(interest, || once(tcp.as_fd())),
            Socket::Unix(unix) => unix.try_io(interest, || once(unix.as_fd())),
            free => once(free.descriptor()?),
        };
        done.map_or(answer, Ok)
    }

    /// Says how many bytes must be there before it counts as readable. A unix socket knows nothing of that.
    pub(super) fn set_low_mark(&self, bytes: u32) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(_) | Socket::FreeTcp(_) => low_mark::set(self.socket.descriptor()?, bytes),
            _ => Ok(()),
        }
    }

    /// Ready once a try may get on.
    pub(super) fn poll_ready(&mut self, ready: Ready, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready == Ready::Read {
            match watch::poll_read_ready(self.socket.descriptor()?, cx) {
                Some(Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                Some(Poll::Pending) => {
                    self.leave()?;
                    return Poll::Pending;
                }
                // Nobody watches it: the runtime waits.
                Some(Poll::Ready(Err(_))) | None => {}
            }
        }
        self.come_home()?;
        match (&self.socket, ready) {
            (Socket::Tcp(tcp), Ready::Read) => tcp.poll_read_ready(cx),
            (Socket::Tcp(tcp), Ready::Write) => tcp.poll_write_ready(cx),
            (Socket::Unix(unix), Ready::Read) => unix.poll_read_ready(cx),
            (Socket::Unix(unix), Ready::Write) => unix.poll_write_ready(cx),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_sends_and_hears_that_the_other_side_hung_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut stream = Stream::connect(&Address::Unix(path)).await.unwrap().moved_to(&Handle::current()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        assert!(!stream.is_disturbed());
        std::future::poll_fn(|cx| stream.poll_ready(Ready::Write, cx)).await.unwrap();
        assert_eq!(stream.try_write(&[IoSlice::new(b"o"), IoSlice::new(b"k")]).unwrap(), 2);
        let mut got = [0; 2];
        io::Read::read_exact(&mut other, &mut got).unwrap();
        assert_eq!(&got, b"ok");
        drop(other);
        assert!(stream.is_disturbed());
        std::future::poll_fn(|cx| stream.poll_ready(Ready::Read, cx)).await.unwrap();
        assert_eq!(stream.try_read(&mut [IoSliceMut::new(&mut got)]).unwrap(), 0);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_watched_socket_leaves_its_runtime_and_comes_back() {
        let (socket, mut other) = UnixStream::pair().unwrap();
        let mut stream = Stream { socket: Socket::Unix(socket), home: Handle::current() };
        let watcher = watch::Watcher::new().unwrap();
        let mut got = [0; 8];
        let mut asleep = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(watcher.enter(|| stream.poll_ready(Ready::Read, &mut asleep)).is_pending());
            assert!(matches!(stream.socket, Socket::FreeUnix(_)));
            tokio::io::AsyncWriteExt::write_all(&mut other, b"watched").await.unwrap();
            watcher.wait(None).unwrap();
            assert!(watcher.enter(|| stream.poll_ready(Ready::Read, &mut asleep)).is_ready());
            let read = watcher.enter(|| stream.try_read(&mut [IoSliceMut::new(&mut got)]));
            assert_eq!(read.unwrap(), 7);
            // The runtime hears what arrives from then on, and what was there before.
            tokio::io::AsyncWriteExt::write_all(&mut other, b"heard").await.unwrap();
            std::future::poll_fn(|cx| stream.poll_ready(Ready::Read, cx)).await.unwrap();
            assert!(matches!(stream.socket, Socket::Unix(_)));
            assert_eq!(stream.try_read(&mut [IoSliceMut::new(&mut got)]).unwrap(), 5);
        }
        watcher.enter(|| stream.settle()).unwrap();
        assert!(matches!(stream.socket, Socket::FreeUnix(_)));
        stream.settle().unwrap();
        assert!(matches!(stream.socket, Socket::Unix(_)));
    }

    #[test]
    fn addresses_are_shown_as_a_url_has_them() {
        let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: 1 }.to_string();
        assert_eq!((tcp("::1"), tcp("a.b")), ("[::1]:1".to_owned(), "a.b:1".to_owned()));
    }
}
