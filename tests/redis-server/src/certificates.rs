//! Certificates of an authority that no system knows.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// The names of a server on this machine.
const LOCAL: &[&str] = &["localhost", "127.0.0.1", "::1"];

/// An authority, and the PEM files that it signs. The files exist as long as the authority.
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
    signed: AtomicUsize,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The PEM file of the certificate.
    pub cert: PathBuf,
    /// The PEM file of its key.
    pub key: PathBuf,
}

impl Certificates {
    /// A new authority.
    ///
    /// # Panics
    /// If the machine has no folder for temporary files.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let mut params = params(&[], "kvconn's authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let dir = TempDir::with_prefix("kvconn-certificates-").expect("a directory can be made");
        fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("a file can be written");
        Self { issuer: Issuer::new(params, key), dir, signed: AtomicUsize::new(0) }
    }

    /// The PEM file of the authority's own certificate.
    pub fn ca_pem(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A folder that exists as long as the authority.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A certificate for `localhost`, 127.0.0.1 and `::1`.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn local(&self) -> Certificate {
        self.server_cert(LOCAL)
    }

    /// A certificate for host names and addresses: `["node-1.test", "127.0.0.1"]`.
    ///
    /// # Panics
    /// As [`new`](Self::new), and if a name is not a host name.
    pub fn server_cert(&self, names: &[&str]) -> Certificate {
        self.sign(params(names, "a server of kvconn's tests"))
    }

    /// A certificate of a client. It has no host name.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn client_cert(&self) -> Certificate {
        self.sign(params(&[], "a client of kvconn's tests"))
    }

    /// As [`local`](Self::local), but the certificate ended years ago.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn expired(&self) -> Certificate {
        let mut params = params(LOCAL, "a server of kvconn's tests");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign(params)
    }

    /// As [`local`](Self::local), but it may sign others, as the certificate that `openssl req -x509` makes.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn intermediate(&self) -> Certificate {
        let mut params = params(LOCAL, "a server of kvconn's tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let number = self.signed.fetch_add(1, Ordering::Relaxed);
        let file = |name, text| {
            let path = self.dir.path().join(format!("{number}-{name}.pem"));
            fs::write(&path, text).expect("a file can be written");
            path
        };
        Certificate { cert: file("cert", signed.pem()), key: file("key", key.serialize_pem()) }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("dir", &self.dir.path()).finish_non_exhaustive()
    }
}

/// The common name differs from the authority's, because OpenSSL takes a certificate that names itself as its issuer to be
/// self-signed.
fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("host names and addresses");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
