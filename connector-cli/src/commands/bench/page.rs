//! The page of `kvconn bench --metrics-listen`: the metrics of this process, for Prometheus.

use std::net::SocketAddr;
use std::time::Duration;

use connectors::observe::{self, Recorder};
use connectors::{Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest request that the page reads.
const LONGEST_REQUEST: usize = 8 << 10;
/// How long a client may take for its request and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records metrics from now on and serves them until the process ends. Gives the address, with the port that the system chose
/// for port 0.
pub(super) async fn serve(address: SocketAddr) -> Result<SocketAddr, Error> {
    let (recorder, _) = observe::install();
    let listen = || format!("listen on {address}");
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("kvconn cannot {}: {e}", listen()))
            .with_hint("choose another port with --metrics-listen, or 0 for any")
    })?;
    let address = listener.local_addr().map_err(|e| Error::io(e, listen()))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(tokio::spawn(tokio::time::timeout(PATIENCE, answer(client, recorder)))),
                // The process may have no free descriptor.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(address)
}

async fn answer(mut client: TcpStream, recorder: &'static Recorder) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > LONGEST_REQUEST || client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let is_metrics =
        [&b"GET /metrics "[..], b"GET / ", b"GET /metrics?"].iter().any(|begin| request.starts_with(begin));
    let (status, content) = if is_metrics {
        ("200 OK", observe::page(&recorder.snapshot()))
    } else {
        ("404 Not Found", "the metrics are at /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    client.write_all(&[head.as_bytes(), content.as_bytes()].concat()).await?;
    client.shutdown().await
}
