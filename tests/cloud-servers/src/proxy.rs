//! An HTTP proxy for tunnels.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::relay::{self, Listener};

/// An HTTP proxy that knows `CONNECT`. Every tunnel of it ends at this machine.
pub struct Proxy {
    listener: Listener,
    tunnels: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy. With a login, `user:password`, it refuses other ones.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub fn start(login: Option<&str>) -> Self {
        let login = login.map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)));
        let tunnels = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&tunnels);
        let listener = Listener::start(move |client| {
            let (login, seen) = (login.clone(), Arc::clone(&seen));
            async move {
                // A client that leaves is part of the tests.
                let _ = serve(client, login, &seen).await;
            }
        });
        Self { listener, tunnels }
    }

    /// `http://[login@]127.0.0.1:port`.
    pub fn url(&self, login: Option<&str>) -> String {
        let login = login.map_or_else(String::new, |login| format!("{login}@"));
        format!("http://{login}127.0.0.1:{}", self.listener.port)
    }

    /// The targets of the tunnels, `host:port`.
    pub fn tunnels(&self) -> Vec<String> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut client: TcpStream, login: Option<String>, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let given = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    if login.is_some() && given != login.as_deref() {
        let answer =
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(answer.as_bytes()).await;
    }
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let port = target.and_then(|target| target.rsplit_once(':')?.1.parse().ok());
    let (Some(target), Some(port)) = (target, port) else {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let mut server = relay::to(port).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
