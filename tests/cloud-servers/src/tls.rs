//! TLS in front of a server, with certificates of an authority that no system knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::relay::{self, Listener};

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

/// The certificate of a [`TlsFront`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// For `localhost` and 127.0.0.1.
    Right,
    /// It ended years ago.
    Expired,
    /// For `other.test`.
    OtherName,
}

/// A port that speaks TLS, and passes the bytes on to a server without TLS.
pub struct TlsFront {
    listener: Listener,
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// If the machine has no folder for temporary files.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), dir }
    }

    /// The PEM file of the authority's own certificate.
    pub fn pem(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A folder that exists as long as the authority.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A front of the server at `port`.
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub fn front(&self, port: u16, certificate: Certificate) -> TlsFront {
        let names: &[&str] = match certificate {
            Certificate::OtherName => &["other.test"],
            _ => &["localhost", "127.0.0.1"],
        };
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("names");
        if certificate == Certificate::Expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("a key that fits the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        TlsFront {
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
}

impl TlsFront {
    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// `https://localhost:port`.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port())
    }
}
