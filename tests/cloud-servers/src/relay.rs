//! Sockets that pass bytes on to a server.

use std::future::Future;
use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// A listener on 127.0.0.1 with a thread of its own. Its connections end when it is dropped.
pub(crate) struct Listener {
    pub(crate) port: u16,
    runtime: Option<Runtime>,
}

impl Listener {
    /// Serves each connection by a task.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_io().build().expect("a runtime");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        listener.set_nonblocking(true).expect("a socket of the runtime");
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("a socket of the runtime");
        drop(entered);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { port, runtime: Some(runtime) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An asynchronous test cannot wait for a runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection to a port of this machine.
pub(crate) async fn to(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}
