//! The parts of a URL that belong to the connector, whatever form the URL has.

use std::fmt;

use super::ConnectorContext;
use crate::adapter::{PLUGIN_KEY_PREFIX, PLUGIN_OWN_KEYS};
use crate::layer::is_layer_option;
use crate::options::{self, PATH};
use crate::registry;
use crate::url::{HostPort, RemoteUrl};
use crate::{Error, ErrorKind, Result};

/// The place of a store, and its connector's own options: the parts of the URL that belong to the connector.
///
/// One store has one location, whatever form its URL has:
///
/// | URL | host | port | path | option `x` |
/// |---|---|---|---|---|
/// | `acme://h:1/dir?x=1` | `h` | 1 | `/dir` | `1` |
/// | `external://h:1/acme.kv/?connector_name=AcmeConnector&path=/dir&x=1` | `h` | 1 | `/dir` | `1` |
/// | `plugin://name`, with `remote_storage_plugin.name.x` in `extra_config` | | | | `1` |
///
/// In an `external://` URL the path names the module, so the option `path` holds the connector's path. Port 0
/// means no port, because LMCache's `external://` needs one. `plugin://name` does not name a place. A plugin of a store with
/// a place has the key `url`, and the connector sees that URL.
///
/// `Display` and `Debug` show the URL without its secrets.
///
/// ```
/// # use connector_core::*;
/// # struct Acme;
/// # impl RemoteConnector for Acme {
/// #     async fn exists(&self, _: &CacheKey) -> Result<bool> { Ok(false) }
/// #     async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> { Ok(None) }
/// #     async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> { Ok(()) }
/// # }
/// #[external_connector(module = "acme.kv", name = "AcmeConnector", scheme = "acme")]
/// struct AcmeConnector;
///
/// impl FromContext for AcmeConnector {
///     async fn from_context(ctx: ConnectorContext) -> Result<Self> {
///         let location = ctx.location();
///         let (host, port) = location.require_host_port()?;
///         assert_eq!((host, port, location.path(), location.option("x")), ("h", 1, "/dir", Some("1")));
///         Ok(Self)
///     }
/// }
/// # impl RemoteConnector for AcmeConnector {
/// #     async fn exists(&self, _: &CacheKey) -> Result<bool> { Ok(false) }
/// #     async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> { Ok(None) }
/// #     async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> { Ok(()) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// open("acme://h:1/dir?x=1").await?;
/// open("external://h:1/acme.kv/?connector_name=AcmeConnector&path=/dir&x=1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Location {
    url: RemoteUrl,
    form: Form,
    hosts: Vec<HostPort>,
    path: String,
    options: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `acme://..`
    Short,
    External,
    Plugin,
}

impl Location {
    pub(super) fn of(ctx: &ConnectorContext) -> Self {
        let url = ctx.url();
        let form = match url.scheme() {
            "external" => Form::External,
            "plugin" => Form::Plugin,
            _ => Form::Short,
        };
        let entry = ctx.0.entry.or_else(|| registry::entry_of(url));
        let schema = entry.and_then(|entry| entry.options());
        let path = match form {
            Form::Short => url.path(),
            Form::External if options::is_path(url, schema) => url.query(PATH).unwrap_or_default(),
            Form::External | Form::Plugin => "",
        };
        let hosts = match form {
            // The name of a plugin is not a host.
            Form::Plugin => Vec::new(),
            _ => url.hosts().iter().map(|h| HostPort { port: h.port.filter(|port| *port != 0), ..h.clone() }).collect(),
        };
        let in_url = options::query_options(url, schema).filter(|(name, _)| !is_layer_option(name));
        let in_url: Vec<_> = in_url.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let in_plugin = ctx.plugin_name().into_iter().flat_map(|plugin| {
            let prefix = format!("{PLUGIN_KEY_PREFIX}{plugin}.");
            ctx.config().extra_config().iter().filter_map(move |(key, value)| {
                let name = key.strip_prefix(&prefix)?;
                let is_own = !name.contains('.') && !PLUGIN_OWN_KEYS.contains(&name) && !is_layer_option(name);
                let text = match value {
                    serde_json::Value::String(text) => text.clone(),
                    serde_json::Value::Number(_) | serde_json::Value::Bool(_) => value.to_string(),
                    _ => return None,
                };
                is_own.then(|| (name.to_owned(), text))
            })
        });
        // The URL wins, as in `ConnectorContext::options`.
        let in_plugin = in_plugin.filter(|(name, _)| in_url.iter().all(|(in_url, _)| in_url != name));
        let options = in_url.iter().cloned().chain(in_plugin).collect();
        Self { form, hosts, path: path.to_owned(), options, url: url.clone() }
    }

    /// The scheme by which the URL names the connector, in lower case. `None` for `external://` and `plugin://`.
    pub fn scheme(&self) -> Option<&str> {
        (self.form == Form::Short).then(|| self.url.scheme())
    }

    /// All hosts, in the order written. Empty for `fs:///kv` and for `plugin://name`.
    pub fn hosts(&self) -> &[HostPort] {
        &self.hosts
    }

    /// The first host: lower case, an IPv6 address without brackets. An `external://` URL always has a host; a store
    /// without a server ignores it.
    pub fn host(&self) -> Option<&str> {
        self.hosts.first().map(|h| h.host.as_str())
    }

    /// The first host's port. `None` for port 0.
    pub fn port(&self) -> Option<u16> {
        self.hosts.first().and_then(|h| h.port)
    }

    /// The connector's path as written, with nothing decoded; empty if there is none. In an `external://` URL it is the
    /// option `path`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The user name as written, nothing decoded.
    pub fn username(&self) -> Option<&str> {
        self.url.username()
    }

    /// The password as written, nothing decoded. Do not print it.
    pub fn password(&self) -> Option<&str> {
        self.url.password()
    }

    /// One of the connector's own options, as text. [`ConnectorContext::options`] gives all of them as a struct, with their
    /// types, with defaults and with `${NAME}` replaced.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All of the connector's own options that the URL or the plugin's keys in `extra_config` set, as text. The options of
    /// the [layers](crate::layer) are not among them.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The one host and its port.
    ///
    /// # Errors
    /// `InvalidUrl` if the host or the port is missing, or if there are several hosts.
    pub fn require_host_port(&self) -> Result<(&str, u16)> {
        let missing = |what: &str| {
            let hint = match self.form {
                Form::Short => format!("write `{}://host:port`", self.url.scheme()),
                Form::External => "write `external://host:port/module_path/?connector_name=ConnectorName`".to_owned(),
                Form::Plugin => format!("set `{PLUGIN_KEY_PREFIX}<name>.url` in extra_config, with host and port"),
            };
            Error::new(ErrorKind::InvalidUrl, format!("`{}` has no {what}", self.url)).with_hint(hint)
        };
        match self.hosts() {
            [] => Err(missing("host")),
            [one] => Ok((&one.host, one.port.ok_or_else(|| missing("port"))?)),
            several => {
                let why = format!("only one host is supported here, but `{}` names {}", self.url, several.len());
                Err(Error::new(ErrorKind::InvalidUrl, why))
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location(\"{}\")", self.url)
    }
}
