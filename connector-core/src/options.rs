//! A connector's options: one struct, filled from the URL's query and from LMCache's `extra_config`.
//!
//! The struct derives `serde::Deserialize` and `schemars::JsonSchema`; its doc comments, types and defaults are what
//! `kvconn describe` shows, and what a misspelt option is compared with:
//!
//! ```
//! use connector_core::options::ConnectorOptions;
//!
//! /// Options of `acme://`.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(default)]
//! struct AcmeOptions {
//!     /// Connections to the server.
//!     connections: usize,
//!     /// What the server asks for.
//!     password: Option<String>,
//! }
//!
//! impl Default for AcmeOptions {
//!     fn default() -> Self {
//!         Self { connections: 8, password: None }
//!     }
//! }
//!
//! impl ConnectorOptions for AcmeOptions {
//!     const EXTRA_CONFIG_PREFIX: &'static str = "acme_";
//! }
//! ```
//!
//! An option is looked for, in this order, in the URL's query (`?connections=4`), in `extra_config` under the plugin's
//! name (`remote_storage_plugin.<name>.connections`, for `plugin://<name>`), and in `extra_config` under the prefix
//! (`acme_connections`) or under a [shared name](ConnectorOptions::EXTRA_CONFIG_SHARED). A query parameter that is no
//! option is an error; `extra_config` is LMCache's shared space, so there only keys with the prefix are checked. The query of a
//! connector that names no options type is its own to read, and is not checked.

mod loose;
mod schema;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::adapter::PLUGIN_KEY_PREFIX;
use crate::config::LMCacheEngineConfig;
use crate::layer::{LayerOptions, NAMES, is_layer_option};
use crate::registry::did_you_mean;
use crate::url::{RemoteUrl, redact};
use crate::{Error, ErrorKind, Result};
use loose::Loose;
pub(crate) use loose::parse_bool;
pub use schema::{OptionInfo, OptionsSchema};

/// The type of a connector's options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a connector's options: `ConnectorOptions` is not implemented for it",
    label = "named as `options` of `#[external_connector]`",
    note = "derive `serde::Deserialize` and `schemars::JsonSchema` for it, and write `impl ConnectorOptions for {Self} {{}}`"
)]
pub trait ConnectorOptions: DeserializeOwned + schemars::JsonSchema + Send + 'static {
    /// What this connector's keys in `extra_config` start with: `fs_connector_`. Empty if it has none there.
    const EXTRA_CONFIG_PREFIX: &'static str = "";

    /// Keys of `extra_config` without the prefix that set an option too: `(key, option)`.
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[];
}

/// Where an option's value came from; errors name it.
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

/// Fills `O`, a connector's own options, from everything that can set it.
pub(crate) fn read<O: ConnectorOptions>(
    url: &RemoteUrl,
    config: &LMCacheEngineConfig,
    plugin_name: Option<&str>,
) -> Result<O> {
    fill(url, Some(config), plugin_name, |name| !is_layer_option(name))
}

/// Fills the options that every connector has.
pub(crate) fn read_layers(
    url: &RemoteUrl,
    config: Option<&LMCacheEngineConfig>,
    plugin_name: Option<&str>,
) -> Result<LayerOptions> {
    fill(url, config, plugin_name, is_layer_option)
}

/// Fills `O` from the options that are its business: a connector and its layers share the URL's query and a plugin's keys.
fn fill<O: ConnectorOptions>(
    url: &RemoteUrl,
    config: Option<&LMCacheEngineConfig>,
    plugin_name: Option<&str>,
    is_ours: impl Fn(&str) -> bool,
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
    for (name, value) in query_options(url).filter(|(name, _)| is_ours(name)) {
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
            // `remote_storage_plugin.fs.primary.base_path` is an option of the instance `fs.primary`, not of `fs`.
            if of_plugin
                && (option.contains('.') || crate::adapter::PLUGIN_OWN_KEYS.contains(&option) || !is_ours(option))
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
    O::deserialize(Loose::new(Value::Object(values))).map_err(|e| {
        let place = e.field.as_ref().and_then(|f| places.iter().find(|(name, _)| name == f)).map(|(_, place)| place);
        let mut message = String::from("option");
        if let Some(field) = &e.field {
            message = format!("option `{field}`");
        }
        if let Some(place) = place {
            message = format!("{message} {place}");
        }
        let secret = e.field.as_deref().and_then(|f| schema.option(f)).is_some_and(|option| option.secret);
        let why = if secret { "is not what it should be".to_owned() } else { redact(&e.message).into_owned() };
        let error = Error::new(ErrorKind::InvalidOption, format!("{message}: {why}"));
        match e.field.as_deref().and_then(|f| schema.option(f)) {
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

fn article(word: &str) -> &'static str {
    match word {
        _ if word.starts_with("one of ") => "",
        _ if word.starts_with(['a', 'e', 'i', 'o', 'u']) => "an ",
        _ => "a ",
    }
}

/// Refuses the query parameters that are no options of `schema`, and those that would set nothing.
pub(crate) fn check_query(url: &RemoteUrl, schema: &OptionsSchema) -> Result<()> {
    if let Some(name) = url.query_without_value().next() {
        return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` has no value"))
            .with_hint(format!("write `{name}=value`, or leave it out")));
    }
    let names: Vec<&str> = query_options(url).map(|(name, _)| name).collect();
    if let Some((_, name)) = names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)) {
        return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` is set more than once"))
            .with_hint("leave one of its values"));
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
        // In a URL and among a plugin's keys stand every connector's options, too.
        let shared: &[&str] = if prefix.is_empty() || prefix.starts_with(PLUGIN_KEY_PREFIX) { &NAMES } else { &[] };
        let guess = did_you_mean(name, own.clone().chain(shared.iter().copied()));
        let guess = if prefix.is_empty() { guess } else { guess.replace("mean `", &format!("mean `{prefix}")) };
        let own: Vec<&str> = own.collect();
        let mut known = if own.is_empty() {
            "it has none of its own".to_owned()
        } else {
            format!("its options are {}", own.join(", "))
        };
        if !shared.is_empty() {
            known.push_str(&format!("; every connector has {}", shared.join(", ")));
        }
        Err(Error::new(ErrorKind::InvalidOption, format!("unknown {what} `{prefix}{name}`{guess}")).with_hint(known))
    }
}
