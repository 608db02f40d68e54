//! New connections to a server: its addresses, TLS, and the proxy that the environment names.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use super::settings::CloudSettings;
use crate::tls::{self, Hints};

/// Time without a byte after which the system probes the server. Firewalls and load balancers forget idle connections.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The system closes the connection after this number of probes without an answer.
const KEEPALIVE_PROBES: u32 = 4;

/// Opens connections.
pub(super) struct Connector {
    http: HttpConnector,
    tls: OnceLock<Arc<ClientConfig>>,
    tls_ca: Option<String>,
    proxies: Matcher,
    timeout: Duration,
}

/// A socket that counts its reads and writes.
pub(super) struct Socket {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    moved: Arc<AtomicUsize>,
}

impl Connector {
    pub(super) fn new(settings: &CloudSettings) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(settings.connect_timeout()));
        http.set_keepalive(Some(KEEPALIVE_IDLE));
        http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        http.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        // Linux also counts the time in which the server's buffer is full, and ends the keepalive probes after this time.
        #[cfg(target_os = "linux")]
        {
            let probes = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
            http.set_tcp_user_timeout(Some(settings.io_timeout().max(probes)));
        }
        let (tls_ca, timeout) = (settings.tls_ca.clone(), settings.connect_timeout());
        Self { http, tls: OnceLock::new(), tls_ca, proxies: Matcher::from_env(), timeout }
    }

    /// The proxy that takes a request of plain HTTP to `uri` as it is. A request over TLS goes through a tunnel.
    pub(super) fn forwarder(&self, uri: &Uri) -> Option<Intercept> {
        self.proxies.intercept(uri).filter(|_| uri.scheme() != Some(&Scheme::HTTPS))
    }

    /// A connection to the server of `uri`.
    ///
    /// # Errors
    /// `Timeout`, `Unavailable`. `InvalidOption` for a proxy that kvconn cannot use, and if the system has no certificates.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<Socket> {
        let proxy = self.proxies.intercept(uri);
        match tokio::time::timeout(self.timeout, self.stream(uri, proxy.as_ref())).await {
            Ok(stream) => Ok(Socket { stream: stream?, moved: Arc::default() }),
            Err(_) => {
                let why = format!("{} did not accept a connection in {:?}", shown(uri, proxy.as_ref()), self.timeout);
                let hint = match uri.scheme() == Some(&Scheme::HTTPS) {
                    true => {
                        "check host, port and firewalls; a server without TLS has an endpoint that starts with `http://`"
                    }
                    false => "check host, port and firewalls",
                };
                Err(Error::new(ErrorKind::Timeout, why).temporary(true).with_hint(hint))
            }
        }
    }

    async fn stream(&self, uri: &Uri, proxy: Option<&Intercept>) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>> {
        let http = self.http.clone();
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        if let Some(scheme) = proxy.and_then(|proxy| proxy.uri().scheme_str()).filter(|scheme| *scheme != "http") {
            let why = format!("the environment names a proxy of the scheme `{scheme}` for {}", shown(uri, None));
            return Err(Error::new(ErrorKind::InvalidOption, why)
                .with_hint("use a proxy of the scheme `http`, or add the server's host to `NO_PROXY`"));
        }
        let connected = match proxy {
            Some(proxy) if is_tls => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
                if let Some(login) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(login.clone());
                }
                HttpsConnector::from((tunnel, self.tls().await?)).call(uri.clone()).await
            }
            None if is_tls => HttpsConnector::from((http, self.tls().await?)).call(uri.clone()).await,
            Some(proxy) => plain(http, proxy.uri()).await,
            None => plain(http, uri).await,
        };
        connected.map_err(|e| failed(uri, proxy, e))
    }

    /// TLS with the known authorities, read when the first connection needs them.
    async fn tls(&self) -> Result<Arc<ClientConfig>> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let tls_ca = self.tls_ca.clone();
        let config = tls::reading(move || Ok(tls::trusting(tls_ca.as_deref())?.with_no_client_auth())).await?;
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}

type ConnectError = Box<dyn std::error::Error + Send + Sync>;

async fn plain(
    mut http: HttpConnector,
    to: &Uri,
) -> std::result::Result<MaybeHttpsStream<TokioIo<TcpStream>>, ConnectError> {
    Ok(MaybeHttpsStream::Http(http.call(to.clone()).await?))
}

/// The server, and the proxy in front of it, without logins.
fn shown(uri: &Uri, proxy: Option<&Intercept>) -> String {
    let host = |uri: &Uri| {
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        format!("`{}{port}`", uri.host().unwrap_or_default())
    };
    match proxy {
        Some(proxy) => format!("{} through the proxy {}", host(uri), host(proxy.uri())),
        None => host(uri),
    }
}

fn failed(uri: &Uri, proxy: Option<&Intercept>, e: ConnectError) -> Error {
    let (cause, to) = (tls::root(&*e), shown(uri, proxy));
    if let Some(e) = tls::cause(&*e) {
        return tls::failed_handshake(&to, e, &HINTS);
    }
    let failed = Error::new(ErrorKind::Unavailable, format!("cannot connect to {to}: {cause}")).temporary(true);
    if let Some(proxy) = proxy {
        return failed_proxy(failed, proxy, &cause.to_string());
    }
    if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        return failed.with_hint("check host and port of the endpoint, and whether the server runs");
    }
    // A bucket before an IP address is not a name, so TLS refuses it.
    if e.to_string().contains("dns error") || cause.to_string() == "invalid dns name" {
        return failed.with_hint(
            "check the host of the endpoint, on Azure the account's name; if an S3 bucket stands in the host's name, try \
             `style=path`",
        );
    }
    failed
}

fn failed_proxy(failed: Error, proxy: &Intercept, cause: &str) -> Error {
    // hyper's error for tunnels is private.
    if cause.ends_with("proxy authorization required") {
        let why = format!("{}: the proxy asks for a login", failed.message());
        let hint = match proxy.basic_auth() {
            Some(_) => "correct the user and the password of the proxy in `HTTPS_PROXY`",
            None => "write `http://USER:PASSWORD@HOST:PORT` in `HTTPS_PROXY`",
        };
        return Error::new(ErrorKind::Denied, why).with_hint(hint);
    }
    failed.with_hint("check the proxy that the environment names, or add the server's host to `NO_PROXY`")
}

const HINTS: Hints = Hints {
    other_name: "write the endpoint with a host that the server's certificate names",
    no_tls: "a server without TLS has an endpoint that starts with `http://`",
    client: "kvconn has no certificate of its own for object stores; allow clients without one on the server",
};

impl Socket {
    /// Grows with each read and write that moved something.
    pub(super) fn moved(&self) -> Arc<AtomicUsize> {
        self.moved.clone()
    }

    fn count(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            self.moved.fetch_add(1, Relaxed);
        }
        wrote
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.moved.fetch_add(1, Relaxed);
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.count(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
