//! HTTP requests of OpenDAL, over connections of this store.
//!
//! A request, its response and its [`Connection`] belong to the future that asks for them. No other task ever reads a
//! request's body, so a future that is dropped has given the body's memory back.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use connector_core::{Error, ErrorKind, Result};
use futures::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request, response};
use hyper::body::Incoming;
use opendal::raw::Operation;
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::Connector;
use super::connection::{Connection, Failure};
use super::refusal::refused;
use super::settings::CloudSettings;

/// The longest part of a refusal's body that kvconn reads.
const MOST_OF_A_REFUSAL: usize = 64 << 10;
/// The range of a request that asks whether an object exists. No chunk has a part this short at its start.
const FIRST_BYTE: &str = "bytes=0-0";
/// The longest body that OpenDAL reads as a whole. A page of a listing has a few MiB at most.
const LONGEST_ANSWER: usize = 64 << 20;
/// A connection that was idle for longer is closed. Servers close theirs after a minute or less.
const LONGEST_IDLE: Duration = Duration::from_secs(50);
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kvconn/", env!("CARGO_PKG_VERSION")));

/// The connections of a store.
pub(super) struct Transport {
    connector: Connector,
    io_timeout: Duration,
    chunks: Arc<Semaphore>,
    /// `None` once closed.
    idle: Mutex<Option<Vec<Idle>>>,
}

struct Idle {
    origin: Origin,
    since: Instant,
    connection: Connection,
}

/// A server.
#[derive(Clone, PartialEq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
}

struct Requests(Arc<Transport>);

/// The body of a response.
struct Receiving {
    incoming: Incoming,
    transport: Arc<Transport>,
    origin: Origin,
    /// Bytes that the body may still have. The memory of a chunk limits the chunk's body.
    room: usize,
    /// `None` after the last part.
    connection: Option<(Connection, Option<OwnedSemaphorePermit>)>,
}

impl Transport {
    /// Without a connection yet.
    pub(super) fn new(settings: &CloudSettings) -> Arc<Self> {
        Arc::new(Self {
            connector: Connector::new(settings),
            io_timeout: settings.io_timeout(),
            chunks: Arc::new(Semaphore::new(settings.connections)),
            idle: Mutex::new(Some(Vec::new())),
        })
    }

    /// This transport, as OpenDAL takes it.
    pub(super) fn transporter(self: &Arc<Self>) -> HttpTransporter {
        HttpTransporter::new(Requests(self.clone()))
    }

    /// Closes idle connections now, and each other connection when its request ends. Later requests fail.
    pub(super) fn close(&self) {
        self.chunks.close();
        drop(self.idle().take());
    }

    fn idle(&self) -> MutexGuard<'_, Option<Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request for a chunk may use one more connection. Other requests never wait here: a request that has
    /// its connection may need credentials.
    async fn permit(&self, operation: Option<Operation>, headers: &HeaderMap) -> Result<Option<OwnedSemaphorePermit>> {
        let asks_only = || headers.get(RANGE).is_some_and(|range| range == FIRST_BYTE);
        match operation {
            Some(Operation::Read | Operation::Write) if !asks_only() => {
                self.chunks.clone().acquire_owned().await.map(Some).map_err(|_| Error::closed())
            }
            _ => Ok(None),
        }
    }

    /// The connection to this server that was idle for the shortest time.
    fn reuse(&self, origin: &Origin) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = self.idle();
                let idle = idle.as_mut()?;
                idle.retain(|idle| idle.since.elapsed() < LONGEST_IDLE);
                let newest = idle.iter().rposition(|idle| idle.origin == *origin)?;
                idle.remove(newest).connection
            };
            if connection.is_ready() {
                return Some(connection);
            }
        }
    }

    async fn open(&self, origin: &Origin) -> Result<Connection> {
        let uri = Uri::builder().scheme(origin.scheme.clone()).authority(origin.authority.clone()).path_and_query("/");
        let uri = uri.build().map_err(|e| wrong(&e))?;
        Connection::new(self.connector.connect(&uri).await?, self.io_timeout).await
    }

    /// Sends the request and reads the head of the response.
    async fn exchange(
        &self,
        origin: &Origin,
        parts: &request::Parts,
        body: Buffer,
    ) -> Result<(Response<Incoming>, Connection)> {
        // A server may close an idle connection while kvconn sends a request. kvconn then sends it once more, except for a
        // removal: the server may have the first one, and may run it after a later put.
        let is_repeatable = matches!(parts.method, Method::GET | Method::HEAD | Method::PUT);
        let mut reused = self.reuse(origin);
        loop {
            let may_repeat = is_repeatable && reused.is_some();
            let mut connection = match reused.take() {
                Some(connection) => connection,
                None => self.open(origin).await?,
            };
            match connection.send(self.request(origin, parts)?, body.clone()).await {
                Ok(response) => return Ok((response, connection)),
                Err(Failure::Broken(_)) if may_repeat => {}
                Err(Failure::Broken(e) | Failure::Other(e)) => return Err(e),
            }
        }
    }

    fn request(&self, origin: &Origin, parts: &request::Parts) -> Result<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.headers_mut() = parts.headers.clone();
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(origin.authority.as_str()).map_err(|e| wrong(&e))?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, USER_AGENT);
        match self.connector.forwarder(&parts.uri) {
            Some(proxy) => {
                if let Some(login) = proxy.basic_auth() {
                    headers.insert(header::PROXY_AUTHORIZATION, login.clone());
                }
                *request.uri_mut() = parts.uri.clone();
            }
            None => {
                let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                *request.uri_mut() = path.parse().map_err(|e: http::uri::InvalidUri| wrong(&e))?;
            }
        }
        Ok(request)
    }

    async fn fetch(self: &Arc<Self>, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let operation = parts.extensions.get::<Operation>().copied();
        let permit = self.permit(operation, &parts.headers).await.map_err(own)?;
        let (Some(scheme), Some(authority)) = (parts.uri.scheme().cloned(), parts.uri.authority().cloned()) else {
            return Err(opendal::Error::new(opendal::ErrorKind::ConfigInvalid, "a request names no server"));
        };
        let origin = Origin { scheme, authority };
        let (response, connection) = self.exchange(&origin, &parts, body).await.map_err(own)?;
        let (head, incoming) = response.into_parts();
        let connection = Some((connection, permit));
        let room = if operation == Some(Operation::Read) { usize::MAX } else { LONGEST_ANSWER };
        let mut receiving = Receiving { incoming, transport: self.clone(), origin, room, connection };
        match operation {
            Some(operation) if !head.status.is_success() => {
                let body = receiving.start().await;
                Err(refused(operation, &head, &body))
            }
            Some(_) if let Err(e) = check(&parts.headers, &head) => Err(own(e)),
            _ => Ok(Response::from_parts(head, HttpBody::new(receiving, None))),
        }
    }
}

/// Refuses a success that does not answer the request.
///
/// # Errors
/// `Unavailable` for a web page, as consoles and login pages send it for every path. `Corrupt` for other bytes of the object
/// than the range.
fn check(request: &HeaderMap, head: &response::Parts) -> Result<()> {
    let headers = &head.headers;
    let is_html = |text: &HeaderValue| text.as_bytes().to_ascii_lowercase().starts_with(b"text/html");
    // Moto gives this type to answers without a body.
    let is_empty =
        head.status == StatusCode::NO_CONTENT || headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    if !is_empty && headers.get(CONTENT_TYPE).is_some_and(is_html) {
        return Err(Error::new(ErrorKind::Unavailable, "the server answers with a web page")
            .with_hint("check the port: a server's console has another one than its object store"));
    }
    let (wanted, sent) = (start(request, &RANGE), start(headers, &CONTENT_RANGE));
    if wanted != sent {
        let why = format!("the server sends the bytes from {sent} on, and kvconn asked for those from {wanted} on");
        return Err(Error::new(ErrorKind::Corrupt, why)
            .with_hint("a server without ranges needs a `parallel_from_bytes` above the largest chunk"));
    }
    Ok(())
}

/// The first byte of a range: `bytes=5-9`, `bytes 5-9/100`. An object without a range starts at 0.
fn start(headers: &HeaderMap, name: &HeaderName) -> u64 {
    let range = headers.get(name).and_then(|value| value.to_str().ok());
    let range = range.and_then(|text| text.split(['=', ' ']).nth(1));
    range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
}

fn too_long() -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server's answer has more than {LONGEST_ANSWER} bytes"))
}

fn wrong(e: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("a request's URL has a wrong form: {e}"))
}

/// An error of kvconn on its way through OpenDAL.
fn own(e: Error) -> opendal::Error {
    let kind = opendal::ErrorKind::Unexpected;
    opendal::Error::new(kind, e.message().to_owned()).with_temporary(e.is_temporary()).set_source(e)
}

impl HttpTransport for Requests {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        self.0.fetch(request).await
    }
}

impl Receiving {
    /// The start of the body, as far as it comes.
    async fn start(&mut self) -> Vec<u8> {
        let mut start = Vec::new();
        while start.len() < MOST_OF_A_REFUSAL
            && let Some(Ok(part)) = self.next().await
        {
            for bytes in part {
                start.extend_from_slice(&bytes);
            }
        }
        start
    }
}

impl Stream for Receiving {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some((connection, _)) = &mut this.connection else { return Poll::Ready(None) };
        let part = match ready!(connection.poll_part(&mut this.incoming, cx)) {
            Ok(Some(part)) if part.len() <= this.room => {
                this.room -= part.len();
                return Poll::Ready(Some(Ok(Buffer::from(part))));
            }
            Ok(Some(_)) => Some(Err(own(too_long()))),
            Ok(None) => None,
            Err(e) => Some(Err(own(e))),
        };
        let ended = this.connection.take();
        if let (None, Some((mut connection, _permit))) = (&part, ended)
            && connection.is_ready()
            && let Some(idle) = &mut *this.transport.idle()
        {
            idle.push(Idle { origin: this.origin.clone(), since: Instant::now(), connection });
        }
        Poll::Ready(part)
    }
}
