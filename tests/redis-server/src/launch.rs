//! How servers start.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::certificates::{Certificate, Certificates};
use crate::server::{Kind, RedisServer};

/// The program of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// `redis-server`, from `PATH`.
    #[default]
    Redis,
    /// `valkey-server` 8.1.8, which `tests/servers/install` installs. It has no TLS.
    Valkey,
}

/// The program, the arguments and the certificate of servers that belong together.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    pub(crate) program: Program,
    pub(crate) args: Vec<String>,
    pub(crate) tls: Option<Tls>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) certificate: Certificate,
}

impl Launch {
    /// A `redis-server` with further arguments: `["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]`,
    /// `["--requirepass", "secret"]`, `["--user", "reader", "on", ">secret", "~*", "+get", "+exists"]`. All servers of a
    /// cluster or of a sentinel group have the arguments.
    pub fn new(args: &[&str]) -> Self {
        Self { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Self::default() }
    }

    /// Another program.
    #[must_use]
    pub fn program(self, program: Program) -> Self {
        Self { program, ..self }
    }

    /// The servers also speak TLS, on a port of its own, by a certificate for `localhost`, 127.0.0.1 and `::1`. Servers also
    /// speak TLS to each other. They ask clients for no certificate, unless the arguments have `--tls-auth-clients yes`.
    ///
    /// # Panics
    /// As [`Certificates::local`].
    #[must_use]
    pub fn tls(self, certificates: &Arc<Certificates>) -> Self {
        let certificate = certificates.local();
        self.tls_by(certificates, certificate)
    }

    /// As [`tls`](Self::tls), by another certificate.
    #[must_use]
    pub fn tls_by(self, certificates: &Arc<Certificates>, certificate: Certificate) -> Self {
        Self { tls: Some(Tls { certificates: Arc::clone(certificates), certificate }), ..self }
    }

    /// Starts one server.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub fn server(&self) -> RedisServer {
        RedisServer::launch(self.clone(), Kind::Single)
    }

    /// The value of an argument of one value.
    pub(crate) fn arg(&self, name: &str) -> Option<&str> {
        self.args.iter().skip_while(|arg| *arg != name).nth(1).map(String::as_str)
    }
}

impl Tls {
    pub(crate) fn args(&self, port: u16) -> Vec<String> {
        let path = |path: &std::path::Path| path.to_str().expect("a temporary path is UTF-8").to_owned();
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", path(&self.certificate.cert)),
            ("--tls-key-file", path(&self.certificate.key)),
            ("--tls-ca-cert-file", path(&self.certificates.ca_pem())),
            ("--tls-auth-clients", "no".to_owned()),
            ("--tls-replication", "yes".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

/// `scheme://127.0.0.1:port,127.0.0.1:port`.
pub(crate) fn url(scheme: &str, ports: impl Iterator<Item = u16>) -> String {
    let hosts: Vec<_> = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()).collect();
    format!("{scheme}://{}", hosts.join(","))
}
