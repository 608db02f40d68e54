//! A minimal client.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A test's server answers at once, unless the machine is busy.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A server's reply (RESP2).
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ..`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`. `None` for `$-1` and `*-1`.
    Bulk(Option<Vec<u8>>),
    /// `*2`
    Array(Vec<Self>),
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client(BufReader<Stream>);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects to a TCP port.
    ///
    /// # Errors
    /// The system's error.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(Stream::Tcp(stream))))
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// The system's error.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(Stream::Unix(stream))))
    }

    /// Sends a command and reads the reply. An error of the server is a [`Reply::Error`].
    ///
    /// # Errors
    /// A lost connection, a timeout, or an invalid reply.
    pub fn command<A: AsRef<[u8]>>(&mut self, words: &[A]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&request)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let Some((kind, rest)) = line.strip_suffix("\r\n").and_then(|line| line.split_at_checked(1)) else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("an incomplete reply: {line:?}")));
        };
        let number = || rest.parse::<i64>().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        match kind {
            "+" => Ok(Reply::Simple(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(number()?)),
            "$" => {
                let Ok(len) = usize::try_from(number()?) else { return Ok(Reply::Bulk(None)) };
                let mut bytes = vec![0; len + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Ok(Reply::Bulk(Some(bytes)))
            }
            "*" => {
                let Ok(len) = usize::try_from(number()?) else { return Ok(Reply::Bulk(None)) };
                (0..len).map(|_| self.reply()).collect::<io::Result<_>>().map(Reply::Array)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a reply of an unknown type: {line:?}"))),
        }
    }
}

impl Reply {
    /// The bytes of a bulk string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) => bytes.as_deref(),
            _ => None,
        }
    }

    /// The items of an array. Empty for other replies.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// The value of an integer.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(n) => Some(*n),
            _ => None,
        }
    }
}

/// Prints only the length of a long bulk string.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(n) => write!(f, ":{n}"),
            Self::Bulk(None) => f.write_str("nil"),
            Self::Bulk(Some(bytes)) if bytes.len() <= 200 => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Bulk(Some(bytes)) => write!(f, "{} bytes", bytes.len()),
            Self::Array(items) => f.debug_list().entries(items).finish(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
