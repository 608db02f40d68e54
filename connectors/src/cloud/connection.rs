//! One HTTP/1.1 connection: a request, its response, and the time in which it moves nothing.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use connector_core::{Error, ErrorKind, Result};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use opendal::Buffer;
use tokio::time::{Instant, Sleep};

use super::connect::Socket;

/// A connection that was dropped has closed its socket, and reads nothing of a request's body any more.
pub(super) struct Connection {
    sender: SendRequest<Sending>,
    /// `None` once the connection has ended.
    driver: Option<http1::Connection<Socket, Sending>>,
    /// Bytes of the request's body that hyper did not take yet.
    unsent: Arc<AtomicUsize>,
    watch: Watch,
}

/// A request that got no response.
pub(super) enum Failure {
    /// The connection broke before the response.
    Broken(Error),
    Other(Error),
}

/// Notices that the socket moves nothing.
struct Watch {
    limit: Duration,
    moved: Arc<AtomicUsize>,
    seen: usize,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// The body of a request. hyper takes it in slices, without a copy.
struct Sending {
    parts: Buffer,
    part: Bytes,
    unsent: Arc<AtomicUsize>,
}

/// The most bytes that hyper takes at once.
const SLICE: usize = 1 << 20;

impl Connection {
    pub(super) async fn new(socket: Socket, io_timeout: Duration) -> Result<Self> {
        let watch = Watch::new(socket.moved(), io_timeout);
        let (sender, driver) = http1::handshake(socket).await.map_err(|e| broken(&e))?;
        Ok(Self { sender, driver: Some(driver), unsent: Arc::default(), watch })
    }

    /// Whether the connection can take a request. `false` if the server has closed it, or if it still works on the last one.
    pub(super) fn is_ready(&mut self) -> bool {
        // No task waits here: the next request polls the connection again.
        self.drive(&mut Context::from_waker(Waker::noop())).is_ok() && self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends the request and reads the head of the response.
    pub(super) async fn send(
        &mut self,
        request: Request<()>,
        body: Buffer,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        self.unsent.store(body.len(), Relaxed);
        let request = request.map(|()| Sending { parts: body, part: Bytes::new(), unsent: self.unsent.clone() });
        let mut response = pin!(self.sender.send_request(request));
        self.watch.start();
        poll_fn(|cx| {
            // hyper gives errors of the connection to the response.
            let _ = self.drive(cx);
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(self.check(response));
            }
            if self.driver.is_none() {
                return Poll::Ready(Err(Failure::Broken(closed())));
            }
            self.watch.poll(cx).map(|e| Err(Failure::Other(e)))
        })
        .await
    }

    fn check(&self, response: hyper::Result<Response<Incoming>>) -> std::result::Result<Response<Incoming>, Failure> {
        let response = response.map_err(|e| match e.is_parse() {
            true => Failure::Other(no_http(&e)),
            false => Failure::Broken(broken(&e)),
        })?;
        if response.status().is_success() && self.unsent.load(Relaxed) > 0 {
            let why = "the server reports success before it has read the whole request";
            return Err(Failure::Other(Error::new(ErrorKind::Unavailable, why).temporary(true)));
        }
        Ok(response)
    }

    /// The next part of the response's body. `None` after its last byte.
    pub(super) fn poll_part(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            let driven = self.drive(cx);
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(cut(&e))),
                // hyper's error for bytes after the response has no cause. The socket's errors do not matter any more.
                Poll::Ready(None) => match driven {
                    Err(e) if e.source().is_none() => return Poll::Ready(Err(too_long())),
                    _ => return Poll::Ready(Ok(None)),
                },
                Poll::Pending if self.driver.is_none() => return Poll::Ready(Err(closed())),
                Poll::Pending => return self.watch.poll(cx).map(Err),
            }
        }
    }

    /// Reads and writes as much as the socket takes.
    fn drive(&mut self, cx: &mut Context<'_>) -> hyper::Result<()> {
        match self.driver.as_mut().map(|driver| Pin::new(driver).poll(cx)) {
            Some(Poll::Ready(ended)) => {
                self.driver = None;
                ended
            }
            _ => Ok(()),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the server closed the connection").temporary(true)
}

fn broken(e: &hyper::Error) -> Error {
    let why = match e.source() {
        Some(cause) => format!("the connection broke: {cause}"),
        None => "the server closed the connection before it answered".to_owned(),
    };
    Error::new(ErrorKind::Unavailable, why).temporary(true)
}

fn cut(e: &hyper::Error) -> Error {
    let why = match e.source() {
        Some(cause) => format!("the response broke off: {cause}"),
        None => "the response broke off".to_owned(),
    };
    Error::new(ErrorKind::Unavailable, why).temporary(true)
}

fn no_http(e: &hyper::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the server's answer is not HTTP: {e}"))
        .with_hint("check the port, and whether the server expects TLS (`https://`)")
}

fn too_long() -> Error {
    Error::new(ErrorKind::Corrupt, "the response is longer than its `Content-Length`")
}

impl Watch {
    fn new(moved: Arc<AtomicUsize>, limit: Duration) -> Self {
        let (last, sleep) = (Instant::now(), Box::pin(tokio::time::sleep(limit)));
        Self { limit, moved, seen: 0, last, sleep }
    }

    fn start(&mut self) {
        self.last = Instant::now();
        self.sleep.as_mut().reset(self.last + self.limit);
    }

    /// The error of a socket that moved nothing for the limit. Poll it after the socket.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let moved = self.moved.load(Relaxed);
        if moved != self.seen {
            (self.seen, self.last) = (moved, Instant::now());
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let end = self.last + self.limit;
            if end <= Instant::now() {
                let why = format!("the server moved no byte for {:?}", self.limit);
                return Poll::Ready(Error::new(ErrorKind::Timeout, why).temporary(true));
            }
            self.sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.part.is_empty() {
            match self.parts.next() {
                Some(part) => self.part = part,
                None => return Poll::Ready(None),
            }
        }
        let len = self.part.len().min(SLICE);
        let slice = self.part.split_to(len);
        self.unsent.store(self.len(), Relaxed);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

impl Sending {
    fn len(&self) -> usize {
        self.part.len() + self.parts.len()
    }
}
