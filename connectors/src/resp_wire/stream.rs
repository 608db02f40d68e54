//! A socket: TCP or unix. Reads and writes that never wait, and the wait for them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::task::{Context, Poll};

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
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ready {
    Read,
    Write,
}

impl Stream {
    /// Connects to the first address of the host that answers.
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            Address::Tcp { host, port } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                tcp.set_nodelay(true)?;
                Ok(Self::Tcp(tcp))
            }
        }
    }

    /// The same socket, waited for by another runtime.
    pub(super) fn moved_to(self, runtime: &Handle) -> io::Result<Self> {
        match self {
            Self::Tcp(tcp) => {
                let tcp = tcp.into_std()?;
                let _inside = runtime.enter();
                TcpStream::from_std(tcp).map(Self::Tcp)
            }
            Self::Unix(unix) => {
                let unix = unix.into_std()?;
                let _inside = runtime.enter();
                UnixStream::from_std(unix).map(Self::Unix)
            }
        }
    }

    /// Whether the other side sent something, or hung up, while nobody listened. Asks the system, because the runtime may
    /// not have heard of it yet.
    pub(super) fn is_disturbed(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Self::Tcp(tcp) => rustix::net::recv(tcp, &mut byte[..], flags),
            Self::Unix(unix) => rustix::net::recv(unix, &mut byte[..], flags),
        };
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
        let send = |fd: std::os::fd::BorrowedFd<'_>| {
            // Not `writev`: its signal ends a program that does not know of it.
            let mut no_files = SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(fd, from, &mut no_files, SendFlags::NOSIGNAL)?)
        };
        self.try_io(Interest::WRITABLE, len, send)
    }

    /// Less than was wanted means that there is no more: the next try needs no system call to learn that.
    fn try_io(
        &self,
        interest: Interest,
        wanted: usize,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut done = None;
        let once = |fd| match call(fd) {
            Ok(n) if 0 < n && n < wanted => {
                done = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        };
        let answer = match self {
            Self::Tcp(tcp) => tcp.try_io(interest, || once(tcp.as_fd())),
            Self::Unix(unix) => unix.try_io(interest, || once(unix.as_fd())),
        };
        done.map_or(answer, Ok)
    }

    /// Says how many bytes must be there before it counts as readable. A unix socket knows nothing of that.
    pub(super) fn set_low_mark(&self, bytes: u32) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => low_mark::set(tcp.as_fd(), bytes),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Ready once a try may get on.
    pub(super) fn poll_ready(&self, ready: Ready, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (self, ready) {
            (Self::Tcp(tcp), Ready::Read) => tcp.poll_read_ready(cx),
            (Self::Tcp(tcp), Ready::Write) => tcp.poll_write_ready(cx),
            (Self::Unix(unix), Ready::Read) => unix.poll_read_ready(cx),
            (Self::Unix(unix), Ready::Write) => unix.poll_write_ready(cx),
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
        let stream = Stream::connect(&Address::Unix(path)).await.unwrap().moved_to(&Handle::current()).unwrap();
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

    #[test]
    fn addresses_are_shown_as_a_url_has_them() {
        let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: 1 }.to_string();
        assert_eq!((tcp("::1"), tcp("a.b")), ("[::1]:1".to_owned(), "a.b:1".to_owned()));
    }
}
