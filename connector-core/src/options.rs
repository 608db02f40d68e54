//! A connector's options: one struct, filled from the URL's query and from LMCache's `extra_config`.
//!
//! [`#[connector_options]`](crate::connector_options) makes a struct an options type. `kvconn describe` shows the fields' doc
//! comments, types, units and defaults. A misspelt option is an error that names the nearest field:
//!
//! ```
//! use connector_core::{ConnectorOptions, connector_options};
//!
//! /// Options of `acme://`.
//! #[connector_options]
//! struct AcmeOptions {
//!     /// Connections to the server.
//!     connections: usize,
//!     /// Longest time until a connection is ready.
//!     #[option(unit = "ms")]
//!     connect_timeout_ms: u64,
//!     /// Password of the server.
//!     #[option(secret)]
//!     password: Option<String>,
//! }
//!
//! impl Default for AcmeOptions {
//!     fn default() -> Self {
//!         Self { connections: 8, connect_timeout_ms: 5_000, password: None }
//!     }
//! }
//!
//! impl ConnectorOptions for AcmeOptions {
//!     const EXTRA_CONFIG_PREFIX: &'static str = "acme_";
//! }
//! ```
//!
//! kvconn takes an option's value from the first of these places that sets it:
//!
//! 1. the URL's query: `?connections=4`;
//! 2. for `plugin://<name>`, the plugin's keys in `extra_config`: `remote_storage_plugin.<name>.connections`;
//! 3. `extra_config` under the prefix: `acme_connections`;
//! 4. `extra_config` under a [shared name](ConnectorOptions::EXTRA_CONFIG_SHARED).
//!
//! A value may hold `${NAME}`, which kvconn replaces by that environment variable; `$${` stands for `${`. Beside each secret
//! option `password` there is an option `password_file`, the absolute path of a file that holds the secret.
//!
//! An unknown query parameter is an error. LMCache and other connectors share `extra_config`, so kvconn checks only the keys
//! with the prefix. A connector without an options type reads its query itself, and kvconn does not check it.

mod credentials;
mod environment;
mod loose;
mod schema;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::adapter::PLUGIN_KEY_PREFIX;
use crate::config::LMCacheEngineConfig;
use crate::layer::{LayerOptions, NAMES, is_layer_option};
use crate::registry::did_you_mean;
use crate::url::{RemoteUrl, is_secret_name, redact};
use crate::{Error, ErrorKind, Result};
pub use credentials::{Credentials, Login};
use loose::Loose;
#[doc(hidden)]
pub use loose::flattened;
pub(crate) use loose::parse_bool;
pub use schema::{OptionInfo, OptionsSchema};

/// The type of a connector's options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a connector's options: `ConnectorOptions` is not implemented for it",
    label = "named as `options` of `#[external_connector]`",
    note = "put `#[connector_options]` on it, and write `impl ConnectorOptions for {Self} {{}}`"
)]
pub trait ConnectorOptions: DeserializeOwned + schemars::JsonSchema + Send + 'static {
    /// The prefix of this connector's keys in `extra_config`: `fs_connector_`. Empty for none.
    const EXTRA_CONFIG_PREFIX: &'static str = "";

    /// Further keys of `extra_config` that set an option, without the prefix: `(key, option)`.
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[];
}

/// The place that set an option. Errors name it.
#[derive(Clone)]
enum Place {
    Query,
    ExtraConfig(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Query => f.write_str("in the URL"),
            Self::ExtraConfig(key) => write!(f, "in extra_config key `{key}`"),
        }
    }
}

/// Fills `O`, a connector's own options, from all places that can set it.
pub(crate) fn read<O: ConnectorOptions>(
    url: &RemoteUrl,
    config: &LMCacheEngineConfig,
    plugin_name: Option<&str>,
) -> Result<O> {
    let own = |name: &str| !is_layer_option(name);
    fill(query_options(url).filter(|(name, _)| own(name)), Some(config), plugin_name, own)
}

/// Fills the options that every connector has. `query` holds the options of several URLs, the nearest first.
pub(crate) fn read_layers<'a>(
    query: impl Iterator<Item = (&'a str, &'a str)>,
    config: Option<&LMCacheEngineConfig>,
    plugin_name: Option<&str>,
) -> Result<LayerOptions> {
    fill(query, config, plugin_name, is_layer_option)
}

/// The query parameters of `url` that are options of layers.
pub(crate) fn layer_query(url: &RemoteUrl) -> impl Iterator<Item = (&str, &str)> {
    query_options(url).filter(|(name, _)| is_layer_option(name))
}

/// Fills `O`. A connector and its layers share a plugin's keys, so `is_own` selects the keys of `O`.
fn fill<'a, O: ConnectorOptions>(
    query: impl Iterator<Item = (&'a str, &'a str)>,
    config: Option<&LMCacheEngineConfig>,
    plugin_name: Option<&str>,
    is_own: impl Fn(&str) -> bool,
) -> Result<O> {
    let schema = OptionsSchema::of::<O>();
    let mut places: Vec<(String, Place)> = Vec::new();
    let mut values = Map::new();
    let mut set = |option: &str, value: Value, place: Place| {
        if !values.contains_key(option) {
            values.insert(option.to_owned(), value);
            places.push((option.to_owned(), place));
        }
    };
    for (name, value) in query {
        schema.check(name, "URL option")?;
        set(name, Value::String(value.to_owned()), Place::Query);
    }
    let nothing = Map::new();
    let extra = config.map_or(&nothing, LMCacheEngineConfig::extra_config);
    let mut prefixes: Vec<String> = Vec::new();
    if let Some(plugin) = plugin_name {
        prefixes.push(format!("{}{plugin}.", PLUGIN_KEY_PREFIX));
    }
    if !O::EXTRA_CONFIG_PREFIX.is_empty() {
        prefixes.push(O::EXTRA_CONFIG_PREFIX.to_owned());
    }
    for (at, prefix) in prefixes.iter().enumerate() {
        let of_plugin = at == 0 && plugin_name.is_some();
        for (key, value) in extra {
            let Some(option) = key.strip_prefix(prefix.as_str()) else { continue };
            // `remote_storage_plugin.fs.primary.base_path` belongs to the instance `fs.primary`, not to `fs`.
            if of_plugin
                && (option.contains('.') || crate::adapter::PLUGIN_OWN_KEYS.contains(&option) || !is_own(option))
            {
                continue;
            }
            schema.check_in(option, "extra_config key", prefix)?;
            set(option, value.clone(), Place::ExtraConfig(key.clone()));
        }
    }
    for &(key, option) in O::EXTRA_CONFIG_SHARED {
        if let Some(value) = extra.get(key) {
            set(option, value.clone(), Place::ExtraConfig(key.to_owned()));
        }
    }
    // A null in YAML is "not set".
    values.retain(|_, value| !value.is_null());
    let place_of = |option: &str| places.iter().find(|(name, _)| name == option).map(|(_, place)| place);
    for (name, value) in &mut values {
        let Value::String(text) = value else { continue };
        // The store behind expands the parts of its own URL, so that no variable changes where a part ends.
        if schema.option(name).is_some_and(|option| option.url) && !environment::is_variable(text) {
            continue;
        }
        *text = environment::expand(text).map_err(|why| wrong(name, place_of(name), &why))?;
    }
    for option in schema.options() {
        let Some(secret) = &option.file_of else { continue };
        let Some(file) = values.remove(&option.name) else { continue };
        if values.contains_key(secret) {
            return Err(credentials::text_and_file(secret));
        }
        let text = file.as_str().map_or_else(|| Err("its value is not text".to_owned()), credentials::read_secret);
        let text = text.map_err(|why| credentials::wrong_file(&option.name, &why))?;
        values.insert(secret.clone(), Value::String(text));
    }
    O::deserialize(Loose::new(Value::Object(values))).map_err(|e| {
        let option = e.field.as_deref().and_then(|field| schema.option(field));
        // An author may have forgotten the mark, so a name that URLs hide is hidden here, too.
        let secret = option.is_some_and(|option| option.secret || is_secret_name(&option.name));
        let why = if secret { "the value is wrong (it is secret)".into() } else { redact(&e.message) };
        let error = match &e.field {
            Some(field) => wrong(field, place_of(field), &why),
            None => Error::new(ErrorKind::InvalidOption, format!("option: {why}")),
        };
        match option {
            Some(option) => error.with_hint(format!(
                "it takes {}{}: {}",
                article(&option.type_name),
                option.type_name,
                option.summary()
            )),
            None => error,
        }
    })
}

fn wrong(option: &str, place: Option<&Place>, why: &str) -> Error {
    let place = place.map(|place| format!(" {place}")).unwrap_or_default();
    Error::new(ErrorKind::InvalidOption, format!("option `{option}`{place}: {why}"))
}

fn article(word: &str) -> &'static str {
    match word {
        _ if word.starts_with("one of ") => "",
        _ if word.starts_with(['a', 'e', 'i', 'o', 'u']) => "an ",
        _ => "a ",
    }
}

/// Refuses query parameters that are not in `schema`, have no value, or occur twice.
pub(crate) fn check_query(url: &RemoteUrl, schema: &OptionsSchema) -> Result<()> {
    if let Some(name) = url.query_without_value().next() {
        return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` has no value"))
            .with_hint(format!("write `{name}=value`, or remove it")));
    }
    let names: Vec<&str> = query_options(url).map(|(name, _)| name).collect();
    if let Some((_, name)) = names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)) {
        return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` is set more than once"))
            .with_hint("keep one of its values"));
    }
    let mut own = query_options(url).filter(|(name, _)| !is_layer_option(name));
    own.try_for_each(|(name, _)| schema.check(name, "URL option"))
}

/// The query parameters that are options: all but the one that names the connector.
fn query_options(url: &RemoteUrl) -> impl Iterator<Item = (&str, &str)> {
    url.query_pairs().filter(|(name, _)| *name != crate::adapter::CONNECTOR_NAME)
}

impl OptionsSchema {
    fn check(&self, name: &str, what: &str) -> Result<()> {
        self.check_in(name, what, "")
    }

    fn check_in(&self, name: &str, what: &str, prefix: &str) -> Result<()> {
        if self.option(name).is_some() {
            return Ok(());
        }
        let own = self.options().iter().map(|o| o.name.as_str());
        // The URL and a plugin's keys hold the options of the layers, too.
        let shared: &[&str] = if prefix.is_empty() || prefix.starts_with(PLUGIN_KEY_PREFIX) { &NAMES } else { &[] };
        let guess = did_you_mean(name, own.clone().chain(shared.iter().copied()));
        let guess = if prefix.is_empty() { guess } else { guess.replace("mean `", &format!("mean `{prefix}")) };
        let own: Vec<&str> = own.collect();
        if name == "namespace" {
            let message = format!("unknown {what} `{prefix}{name}`: the connector keeps no chunks of its own");
            let hint = "write it in the URL of the store inside, if there is one";
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(hint));
        }
        let mut known = if own.is_empty() {
            "the connector itself has no options".to_owned()
        } else {
            format!("its options are {}", own.join(", "))
        };
        if !shared.is_empty() {
            known.push_str(&format!("; every connector has {}", shared.join(", ")));
        }
        Err(Error::new(ErrorKind::InvalidOption, format!("unknown {what} `{prefix}{name}`{guess}")).with_hint(known))
    }
}
