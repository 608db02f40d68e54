//! HTTP/1.1 on a socket, by hand: faults need control of each byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustix::event::{PollFd, PollFlags, poll};

use super::refusal::Refusal;

const LARGEST_HEAD: usize = 64 << 10;

/// The first lines of a request.
pub(super) struct Head {
    pub method: String,
    /// The path as sent, percent-encoded.
    pub path: String,
    /// The query as sent, without the `?`.
    pub raw_query: String,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// Names are lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(bytes).map_err(|e| invalid(e.to_string()))?;
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).trim().to_owned()))
            .collect();
        let mut target = request.path.unwrap_or_default();
        // A client of a proxy sends the whole URL.
        if let Some((_, rest)) = target.split_once("://") {
            target = &rest[rest.find('/').unwrap_or(rest.len())..];
        }
        let (path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        let query = raw_query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            raw_query: raw_query.to_owned(),
            query: query.collect(),
            headers,
        })
    }

    /// The value of the first header with this name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a query parameter.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The length of the body.
    pub(super) fn content_length(&self) -> Result<usize, Refusal> {
        if self.header("transfer-encoding").is_some() {
            return Err(Refusal::new(411, "MissingContentLength", "You must provide the Content-Length HTTP header."));
        }
        let length = self.header("content-length").unwrap_or("0").parse();
        length.map_err(|_| Refusal::new(400, "InvalidRequest", "The Content-Length header is not a number."))
    }
}

/// Percent-decoded text.
pub(super) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An accepted connection.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Fails if the client has disconnected.
        let _ = stream.set_nodelay(true);
        Self(BufReader::with_capacity(64 << 10, stream))
    }

    /// `None` if the client closes the connection.
    pub(super) fn head(&mut self) -> io::Result<Option<Head>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if self.0.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            if bytes.len() > LARGEST_HEAD {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a head that is too long"));
            }
        }
        Head::parse(&bytes).map(Some)
    }

    /// The next bytes of the request's body, `len` of them.
    pub(super) fn body(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Waits until the client closes the connection, without reading from it.
    pub(super) fn wait_for_hangup(&self) {
        loop {
            let mut fds = [PollFd::new(self.0.get_ref(), PollFlags::RDHUP)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

/// What a response carries.
pub(super) enum Body {
    Text(String),
    Object(Arc<Vec<u8>>, Range<usize>),
}

/// A response.
pub(super) struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Headers of the object's metadata.
    pub metadata: Vec<(String, String)>,
    pub body: Body,
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        let own = Self::foreign(status).header("Server", "AmazonS3");
        // Tells S3's own answer to `HEAD`, which has no body, from a proxy's.
        own.header("x-amz-request-id", "4442587FB7D0A2F9")
    }

    /// A response of another program.
    pub(super) fn foreign(status: u16) -> Self {
        Self { status, headers: Vec::new(), metadata: Vec::new(), body: Body::Text(String::new()) }
    }

    pub(super) fn xml(text: String) -> Self {
        let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}");
        let mut response = Self::new(200).header("Content-Type", "application/xml");
        response.body = Body::Text(text);
        response
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Text(text) => text.as_bytes(),
            Body::Object(bytes, range) => &bytes[range.clone()],
        }
    }

    /// The status line and the headers. `length` is the whole line that says where the body ends.
    pub(super) fn head(&self, length: &str) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n{length}", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        for (name, value) in &self.metadata {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        100..=299 => "OK",
        301 => "Moved Permanently",
        304 => "Not Modified",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Slow Down",
        300..=499 => "Refused",
        _ => "Failed",
    }
}
