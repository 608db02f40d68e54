//! TLS as a client: the authorities that kvconn trusts, and the hint for a failed handshake.
//!
//! rustls and webpki check certificates against the system's authorities. `rustls-platform-verifier` does the same on
//! Linux with one more dependency.

use std::io;
use std::sync::Arc;

use connector_core::{Error, ErrorKind, Result, redact};
use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{AlertDescription, CertificateError, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_native_certs::CertificateResult;

/// A configuration without authorities. A program may hold several providers of cryptography, so kvconn always names its
/// own.
///
/// # Errors
/// `Other` if the provider lacks every version of TLS.
pub(crate) fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Other, "cannot set up TLS").with_source(e))
}

/// Reads files on a thread that may block. A disk that hangs then ends with the caller's limit.
///
/// # Errors
/// The error of `read`.
pub(crate) async fn reading<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the task that reads the files of TLS panicked")))
}

/// A configuration that trusts the system's authorities, and those in the file of the option `tls_ca`.
///
/// # Errors
/// `InvalidOption` for a file that kvconn cannot read, and if no authority is left.
pub(crate) fn trusting(tls_ca: Option<&str>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().any(|name| std::env::var_os(name).is_some());
    let known = authorities(rustls_native_certs::load_native_certs(), named, tls_ca)?;
    Ok(builder()?.with_root_certificates(known))
}

/// `named`: whether the environment names the system's files.
fn authorities(system: CertificateResult, named: bool, tls_ca: Option<&str>) -> Result<RootCertStore> {
    let mut known = RootCertStore::empty();
    known.add_parsable_certificates(system.certs);
    // Files that the environment names may be meant to trust less.
    if known.is_empty() && !named {
        known.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(file) = tls_ca
        && known.add_parsable_certificates(certificates("tls_ca", file)?).0 == 0
    {
        return Err(no_certificate("tls_ca", file));
    }
    if known.is_empty() {
        let why = system.errors.first().map_or_else(String::new, |e| format!(": {e}"));
        let why = format!("`SSL_CERT_FILE` or `SSL_CERT_DIR` names no TLS certificate that kvconn can read{why}");
        return Err(Error::new(ErrorKind::InvalidOption, why)
            .with_hint("correct or unset the variable, or set the option `tls_ca`"));
    }
    Ok(known)
}

/// The certificates in the PEM file that an option names.
///
/// # Errors
/// `InvalidOption` for a file that kvconn cannot read, or that has none.
pub(crate) fn certificates(option: &str, file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(no_certificate(option, file)),
        Ok(all) => Ok(all),
        Err(e) => Err(unreadable(option, file, &e).with_hint(CERTIFICATES)),
    }
}

const CERTIFICATES: &str = "write the path of a PEM file, which has lines `-----BEGIN CERTIFICATE-----`";

fn no_certificate(option: &str, file: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("option `{option}`: `{file}` has no certificate"))
        .with_hint(CERTIFICATES)
}

/// The error of a file that is not PEM. It quotes nothing of the file, which may hold a key. `file` may be the key itself,
/// in place of a path.
pub(crate) fn unreadable(option: &str, file: &str, e: &pem::Error) -> Error {
    let why = match e {
        pem::Error::Io(e) => e.to_string(),
        _ => "it is not PEM".to_owned(),
    };
    Error::new(ErrorKind::InvalidOption, format!("option `{option}`: kvconn cannot read `{}`: {why}", redact(file)))
}

/// The hint for a server that lacks kvconn's versions of TLS and their ciphers.
const VERSIONS: &str = "kvconn speaks TLS 1.2 and 1.3 with AES-GCM or ChaCha20; allow one of them on the server";

/// Hints that depend on the store.
pub(crate) struct Hints {
    /// The certificate does not have the name.
    pub(crate) other_name: &'static str,
    /// The server does not speak TLS.
    pub(crate) no_tls: &'static str,
    /// The server refuses the client's certificate, or wants one.
    pub(crate) client: &'static str,
}

/// The error of a handshake with the server `to`.
pub(crate) fn failed_handshake(to: &str, tls: &rustls::Error, hints: &Hints) -> Error {
    use CertificateError as Certificate;
    let new = |kind| Error::new(kind, format!("the TLS handshake with {to} failed: {tls}"));
    let failed = |hint| new(ErrorKind::Unavailable).with_hint(hint);
    match tls {
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => failed("renew the server's certificate, or set this host's clock"),
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => failed(hints.other_name),
        // rustls has no variant for it.
        rustls::Error::InvalidCertificate(Certificate::Other(e)) if e.to_string().contains("CaUsedAsEndEntity") => {
            failed(
                "the server shows the certificate of an authority (`CA:TRUE`); let the authority sign a certificate for the server",
            )
        }
        rustls::Error::InvalidCertificate(_) => failed(
            "set `tls_ca` to a PEM file with the certificate of the server's authority, or add it to the system's",
        ),
        rustls::Error::InvalidMessage(_) => failed(hints.no_tls),
        // A server with TLS 1.2 says no more than this if it wants a certificate.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            new(ErrorKind::Denied).with_hint(format!("{}; {VERSIONS}", hints.client))
        }
        rustls::Error::AlertReceived(alert) if is_about_client(*alert) => {
            new(ErrorKind::Denied).with_hint(hints.client)
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) | rustls::Error::PeerIncompatible(_) => {
            failed(VERSIONS)
        }
        _ => new(ErrorKind::Unavailable).temporary(true),
    }
}

/// The error of TLS that is the cause of `e`.
pub(crate) fn cause<'e>(e: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    root(e).downcast_ref()
}

/// The innermost cause. An `io::Error` gives the source of the error in it, and not that error.
pub(crate) fn root<'e>(mut e: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    loop {
        let inner = match e.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => e.source(),
        };
        match inner {
            Some(inner) => e = inner,
            None => return e,
        }
    }
}

/// Whether the server refuses the client's certificate, or the lack of one.
fn is_about_client(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            // The signature in the certificate is not the authority's.
            | Alert::DecryptError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_authorities_has_the_bundled_ones() {
        let bundled = authorities(CertificateResult::default(), false, None).unwrap();
        assert_eq!(bundled.len(), webpki_roots::TLS_SERVER_ROOTS.len());
        let e = authorities(CertificateResult::default(), true, None).expect_err("the environment names none");
        assert!(e.to_string().contains("SSL_CERT_FILE"), "{e}");
    }
}
