//! The options of TLS, and the files that they name.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::SystemTime;

use connector_core::{Error, ErrorKind, Result, connector_options, redact};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::session::Session;
use super::transport::Address;
use crate::tls::{self, Hints};

/// The options of TLS to a redis or valkey server.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TlsSettings {
    /// Whether connections use TLS. The schemes `rediss`, `rediss-sentinel`, `rediss-cluster`, `resps` and `valkeys` use it.
    pub tls: Option<bool>,
    /// PEM file with certificates of authorities that kvconn trusts, beside those of the system.
    pub tls_ca: Option<String>,
    /// PEM file with the client's certificate, for a server that wants one. kvconn reads it again when it changes.
    pub tls_cert: Option<String>,
    /// PEM file with the private key of `tls_cert`. kvconn reads it again when it changes.
    pub tls_key: Option<String>,
    /// Name in the server's certificate, if it is not the URL's host.
    pub tls_server_name: Option<String>,
    /// Whether kvconn accepts every certificate. Then a server in between can read the password and the chunks.
    pub tls_insecure: bool,
}

/// TLS to the servers of one store.
pub(crate) struct Tls {
    settings: TlsSettings,
    /// None before the first connection.
    loaded: Mutex<Option<Loaded>>,
    /// Held by the thread that reads the files.
    reading: Mutex<()>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ClientConfig>,
    /// The state of the files when kvconn read them last.
    stamps: Vec<Option<Stamp>>,
}

/// The time of a file's last change, and its length.
type Stamp = (SystemTime, u64);

/// The scheme of the same store without TLS; `scheme` itself if it asks for none.
pub(crate) fn plain_scheme(scheme: &str) -> &str {
    match scheme {
        "rediss" => "redis",
        "rediss-sentinel" => "redis-sentinel",
        "rediss-cluster" => "redis-cluster",
        "resps" => "resp",
        "valkeys" => "valkey",
        other => other,
    }
}

impl TlsSettings {
    /// TLS, unless the URL's scheme and the options say otherwise.
    ///
    /// # Errors
    /// `InvalidOption` for options that contradict each other.
    pub(super) fn resolve(self, scheme: &str) -> Result<Option<Arc<Tls>>> {
        let wrong = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidOption, why).with_hint(hint));
        let plain = plain_scheme(scheme);
        let in_scheme = plain != scheme;
        match self.tls {
            Some(false) if in_scheme => {
                let why = format!("option `tls`: `false` contradicts the scheme `{scheme}`");
                return Err(Error::new(ErrorKind::InvalidOption, why)
                    .with_hint(format!("remove it, or write `{plain}://`, which has no TLS")));
            }
            Some(true) if scheme == "unix" => {
                return wrong("option `tls`: a unix socket has no TLS".into(), "remove it");
            }
            Some(true) => {}
            _ if in_scheme => {}
            _ => {
                return match self.first_set() {
                    None => Ok(None),
                    Some(option) if scheme == "unix" => {
                        wrong(format!("option `{option}`: a unix socket has no TLS"), "remove it")
                    }
                    Some(option) => wrong(
                        format!("option `{option}` has no use without TLS"),
                        "add `tls=true`, or write `rediss://`, `resps://` or `valkeys://`; else remove it",
                    ),
                };
            }
        }
        if self.tls_insecure && self.tls_ca.is_some() {
            return wrong("option `tls_ca` has no use with `tls_insecure`".into(), "remove one of them");
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let (there, missing) = match self.tls_cert {
                Some(_) => ("tls_cert", "tls_key"),
                None => ("tls_key", "tls_cert"),
            };
            return wrong(
                format!("option `{there}` needs `{missing}`"),
                "set both; if one file holds certificate and key, name it twice",
            );
        }
        if let Some(name) = &self.tls_server_name {
            server_name(name).map_err(|e| e.at("option `tls_server_name`"))?;
        }
        if self.tls_insecure {
            tracing::warn!(
                "`tls_insecure` is set: kvconn checks no certificate, so another server can read the password and the chunks"
            );
        }
        Ok(Some(Arc::new(Tls { settings: self, loaded: Mutex::default(), reading: Mutex::default() })))
    }

    /// The first option that only serves TLS.
    fn first_set(&self) -> Option<&'static str> {
        let set = [
            ("tls_ca", self.tls_ca.is_some()),
            ("tls_cert", self.tls_cert.is_some()),
            ("tls_key", self.tls_key.is_some()),
            ("tls_server_name", self.tls_server_name.is_some()),
            ("tls_insecure", self.tls_insecure),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(option, _)| option)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |file: &String| {
            let found = fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        [&self.tls_ca, &self.tls_cert, &self.tls_key].into_iter().flatten().map(stamp).collect()
    }

    /// Reads the files, unless they are as `known` has them.
    fn config_if(&self, known: Option<&Loaded>, stamps: &[Option<Stamp>]) -> Result<Arc<ClientConfig>> {
        match known {
            Some(known) if known.stamps == stamps => Ok(known.config.clone()),
            _ => self.config(),
        }
    }

    /// Reads the files.
    fn config(&self) -> Result<Arc<ClientConfig>> {
        let builder = match self.tls_insecure {
            true => {
                let builder = tls::builder()?;
                let verifier = Arc::new(AcceptAll(builder.crypto_provider().clone()));
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            false => tls::trusting(self.tls_ca.as_deref())?,
        };
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let configured = builder.with_client_auth_cert(tls::certificates("tls_cert", cert)?, private_key(key)?);
        configured.map(Arc::new).map_err(|e| {
            let why = match e {
                rustls::Error::InconsistentKeys(_) => {
                    format!("option `tls_key`: the key in `{key}` does not belong to the certificate in `{cert}`")
                }
                // The error may quote the key.
                _ => format!("option `tls_key`: kvconn cannot use the key in `{key}` with the certificate in `{cert}`"),
            };
            Error::new(ErrorKind::InvalidOption, why)
                .with_hint("the first certificate in the file of `tls_cert` must be the client's own")
        })
    }
}

fn private_key(file: &str) -> Result<PrivateKeyDer<'static>> {
    const HINT: &str =
        "write the path of a PEM file, which has a line `-----BEGIN PRIVATE KEY-----`; the key must have no password";
    PrivateKeyDer::from_pem_file(file).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            Error::new(ErrorKind::InvalidOption, format!("option `tls_key`: `{file}` has no private key"))
                .with_hint(HINT)
        }
        e => tls::unreadable("tls_key", file, &e).with_hint(HINT),
    })
}

fn server_name(host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|_| {
        Error::new(ErrorKind::InvalidOption, format!("`{}` is not a name that a certificate can have", redact(host)))
            .with_hint("set `tls_server_name` to a name in the server's certificate")
    })
}

impl Tls {
    /// The session of a new connection to `to`. Reads the files again if they changed. Keeps the last ones while
    /// the new ones do not fit together, as in the middle of a change.
    ///
    /// # Errors
    /// `InvalidOption` for a host that no certificate can name, and for files that kvconn has never read.
    pub(super) async fn session(self: &Arc<Self>, host: &str) -> Result<Session> {
        let name = server_name(self.settings.tls_server_name.as_deref().unwrap_or(host))?;
        let config = self.load().await?;
        Session::new(config, name).map_err(|e| Error::new(ErrorKind::Other, "cannot set up TLS").with_source(e))
    }

    /// Reads the files, unless they are as they were.
    ///
    /// # Errors
    /// `InvalidOption` for files that kvconn has never read.
    pub(super) async fn load(self: &Arc<Self>) -> Result<Arc<ClientConfig>> {
        let this = self.clone();
        tls::reading(move || this.config()).await
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        let _reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => match self.loaded().clone() {
                // Another thread reads the files, and their disk may hang.
                Some(known) => return Ok(known.config),
                None => self.reading.lock().unwrap_or_else(PoisonError::into_inner),
            },
        };
        let known = self.loaded().clone();
        let stamps = self.settings.stamps();
        let config = match (self.settings.config_if(known.as_ref(), &stamps), known) {
            (Ok(config), _) => config,
            (Err(e), None) => return Err(e),
            (Err(e), Some(known)) => {
                tracing::warn!("kvconn keeps the TLS files that it read before: {e}");
                known.config
            }
        };
        *self.loaded() = Some(Loaded { config: config.clone(), stamps });
        Ok(config)
    }

    fn loaded(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a handshake that failed with `e`.
    pub(super) fn failed(&self, to: &Address, e: &io::Error) -> Error {
        match tls::cause(e) {
            Some(e) => self.refused(to, e),
            None => {
                let why = format!("the server at {to} closed the connection in the TLS handshake: {e}");
                Error::new(ErrorKind::Unavailable, why).temporary(true).with_hint(NO_TLS)
            }
        }
    }

    /// The error of a handshake. A server with TLS 1.3 refuses a client's certificate only after it.
    pub(super) fn refused(&self, to: &Address, e: &rustls::Error) -> Error {
        let hints = Hints {
            other_name: "set `tls_server_name` to a name in the server's certificate, or write that name as the host",
            no_tls: NO_TLS,
            client: match self.settings.tls_cert {
                Some(_) => {
                    "the server refuses the client's certificate: check `tls_cert`, and the authority that the server trusts"
                }
                None => "if the server wants a client's certificate, set `tls_cert` and `tls_key`",
            },
        };
        tls::failed_handshake(&to.to_string(), e, &hints)
    }
}

/// The hint for a server without TLS.
pub(super) const NO_TLS: &str =
    "for a server without TLS, leave out `tls=true`, and write `redis://`, `resp://` or `valkey://`";
/// The hint for a server with TLS.
pub(super) const WITH_TLS: &str =
    "for a server with TLS, add `tls=true`, or write `rediss://`, `resps://` or `valkeys://`";

/// Accepts every certificate, and checks that the server has its key.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
