//! URLs and options with a password in every place in which a user may put one.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use connector_core::options::Credentials;
use connector_core::{
    CacheKey, ConnectorContext, ConnectorOptions, Error, FromContext, LMCacheEngineConfig, LocalCpuBackend, MemoryObj,
    RemoteConnector, RemoteUrl, Result, connector_options, external_connector, redact, registry,
};
use serde_json::{Value, json};

/// The middle of the password. Around it are characters that cut a URL.
const PASSWORD: &str = "qzvJ7kxw";

const AROUND: [&str; 26] = [
    "", "a", "1", "/", "?", "#", "@", ":", "&", "=", "%", "+", ",", "\\", " ", "[", "]", "${", "%40", "%2F", "%", "'",
    "\"", "://", "\n", "é",
];
/// Without the stores that look for their server.
const SCHEMES: [&str; 10] =
    ["vault", "memory", "tiered", "audit", "blackhole", "external", "plugin", "rediss", "cassandra", ""];
const SLASHES: [&str; 6] = ["://", ":", ":/", "//", ":///", ""];
const USERS: [&str; 5] = ["", "u", "u@x", "u/1", "u%3A"];
const HOSTS: [&str; 8] = ["", "h", "h:1", "[::1]:1", "h:x", "h:0/kvconn.memory", "a:1,b:2", "h:0/fuzz.vault/"];
const SECRETS: [&str; 7] =
    ["password", "tenant_code", "username", "tenant_code_file", "pass%77ord", "pasword", "api_token"];
const OPTIONS: [&str; 9] = [
    "",
    "size=1",
    "size=x",
    "sise=1",
    "timeout_ms=5s",
    "connector_name=VaultConnector",
    "connector_name=",
    "front=memory://f",
    "label=${NOT_SET}",
];

/// Options of which two are secret.
#[connector_options]
#[derive(Default)]
struct VaultOptions {
    /// A number.
    size: Option<u8>,
    /// A text.
    label: Option<String>,
    /// A secret under an innocent name.
    #[option(secret)]
    tenant_code: Option<String>,
    /// The store behind.
    back: Option<RemoteUrl>,
    #[option(flatten)]
    login: Credentials,
}

impl ConnectorOptions for VaultOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "vault_";
}

/// An empty store that reads every part of its URL.
#[external_connector(
    module = "fuzz.vault",
    name = "VaultConnector",
    scheme = "vault",
    url = "vault://user:password@host:0/1",
    options = VaultOptions
)]
struct VaultConnector;

impl FromContext for VaultConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: VaultOptions = ctx.options()?;
        let _ = (options.size, options.label, options.tenant_code);
        options.login.resolve(ctx.url())?;
        match options.back {
            Some(url) => ctx.open_behind(url).await.map(|_| Self),
            None => Ok(Self),
        }
    }
}

impl RemoteConnector for VaultConnector {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

/// Takes choices from the input. An input that has ended gives the first choice.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn number(&mut self, below: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % below)
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.number(of.len())]
    }

    fn password(&mut self) -> String {
        [self.one(&AROUND), self.one(&AROUND), PASSWORD, self.one(&AROUND), self.one(&AROUND)].concat()
    }

    fn options(&mut self) -> String {
        [self.one(&OPTIONS), self.one(&OPTIONS)].join("&")
    }

    /// A URL, or a text that was meant to be one. `depth` is the number of URLs that it is inside of.
    fn url(&mut self, depth: usize) -> String {
        let (scheme, slashes, host) = (self.one(&SCHEMES), self.one(&SLASHES), self.one(&HOSTS));
        let (user, password, options) = (self.one(&USERS), self.password(), self.options());
        let before = format!("{scheme}{slashes}");
        match self.number(if depth < 2 { 9 } else { 7 }) {
            0 => format!("{before}{user}:{password}@{host}?{options}"),
            1 => format!("{before}{password}@{host}/?{options}"),
            2 => format!("{before}{host}?{options}&{}={password}&{}", self.one(&SECRETS), self.one(&OPTIONS)),
            3 => format!("{before}{host}?{options}#{password}"),
            4 => format!("{before}{host}?{password}&{options}"),
            5 => format!("{before}{host}?{}={password}&{}={password}", self.one(&SECRETS), self.one(&SECRETS)),
            6 => format!("{user}:{password}@{host}?{options}"),
            place => {
                let option = self.one(&["back", "actual_remote_url", "front"]);
                let inner = self.url(depth + 1);
                let inner = if place == 7 { url_encoded(&inner) } else { inner };
                format!("{before}{host}?{options}&{option}={inner}")
            }
        }
    }

    fn extra_config(&mut self) -> (String, Value) {
        let password = self.password();
        let value = match self.number(4) {
            0 => json!(password),
            1 => json!([password]),
            2 => json!({ &*password: password }),
            _ => json!(self.url(1)),
        };
        let secret = self.one(&["tenant_code", "tenant_code_file", "password", "password_file", "username"]);
        match self.number(3) {
            0 => (format!("vault_{secret}"), value),
            1 => (format!("remote_storage_plugin.h.{secret}"), value),
            _ => ("remote_storage_plugin.h.url".to_owned(), json!(self.url(1))),
        }
    }
}

fn url_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02X}");
        out
    })
}

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic holds the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Builds a URL and a configuration from the choices that the bytes are, and opens the store.
///
/// # Panics
/// If an error, a log line, or the text of a URL, a context or a configuration shows the password.
pub fn secrets(data: &[u8]) {
    static OUTSIDE: OnceLock<(tokio::runtime::Runtime, LocalCpuBackend)> = OnceLock::new();
    let (runtime, memory) = OUTSIDE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        (runtime, LocalCpuBackend::with_capacity(4096))
    });
    let mut choices = Choices(data.iter());
    let url = choices.url(0);
    let (key, value) = choices.extra_config();

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let mut shown = tracing::subscriber::with_default(subscriber, || {
        let mut shown = vec![redact(&url)];
        let config = LMCacheEngineConfig::default().with_extra_config(key.clone(), value.clone());
        shown.push(format!("{config:?} {config:#?}"));
        let yaml = format!("remote_url: {}\nextra_config:\n  {key}: {value}\n", json!(url));
        match LMCacheEngineConfig::from_yaml(&yaml) {
            Ok(config) => shown.push(format!("{config:?}")),
            Err(e) => shown.push(all_of(&e)),
        }
        match RemoteUrl::parse(&url) {
            Ok(url) => {
                shown.push(format!("{url} {url:?}"));
                shown.extend(url.require_host_port().err().map(|e| all_of(&e)));
                shown.extend(registry::resolve(&url).err().map(|e| all_of(&e)));
            }
            Err(e) => shown.push(all_of(&e)),
        }
        shown.extend(registry::search(&url).err().map(|e| all_of(&e)));
        for url in [&url, "plugin://h"] {
            let builder = connectors::builder(url)
                .handle(runtime.handle().clone())
                .local_cpu_backend(memory.clone())
                .config(config.clone());
            shown.push(format!("{builder:?}"));
            let Ok(context) = builder.clone().build() else { continue };
            shown.push(format!("{context:?} {}", context.connector_name()));
            shown.extend(context.options::<VaultOptions>().err().map(|e| all_of(&e)));
            let opened = runtime.block_on(builder.open());
            shown.push(opened.map_or_else(|e| all_of(&e), |store| format!("{store:?} {}", store.name())));
        }
        shown
    });
    shown.push(String::from_utf8_lossy(&log.0.lock().expect("no panic holds the lock")).into_owned());
    for text in shown {
        assert!(!text.contains(PASSWORD), "{url:?} with {key} = {value} is shown as\n{text}");
    }
}

/// The error with all of its causes.
fn all_of(e: &Error) -> String {
    let mut text = format!("{e} {e:?}");
    let mut cause = e.source();
    while let Some(c) = cause {
        let _ = write!(text, " {c} {c:?}");
        cause = c.source();
    }
    text
}
