//! TLS in front of a server.

use std::sync::Arc;

use kvconn_redis_server::Certificate;
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::relay::{self, Listener};

/// A port that speaks TLS, and passes the bytes on to a server without TLS.
pub struct TlsFront {
    listener: Listener,
}

impl TlsFront {
    /// A front of the server at `port`, with a certificate.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub fn start(port: u16, certificate: &Certificate) -> Self {
        let signed = CertificateDer::from_pem_file(&certificate.cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![signed], key)
            .expect("a key that fits the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self {
            listener: Listener::start(move |client| {
                let acceptor = acceptor.clone();
                async move {
                    // A client that leaves is part of the tests.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = relay::to(port).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            }),
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// `https://localhost:port`.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port())
    }
}
