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
//! A value may hold `${NAME}`, which kvconn replaces by that environment variable; `$${` stands for `${`. Beside each
//! secret option `password` there is an option `password_file`, the absolute path of a file that holds the secret.
//!
//! An unknown query parameter is an error. LMCache and other connectors share `extra_config`, so kvconn checks only the keys
//! with the prefix. A connector without an options type reads its query itself, and kvconn does not check it.

mod credentials;
mod environment;
pub(crate) use environment::is_variable;
mod loose;
mod quantity;
mod schema;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::adapter::{CONNECTOR_NAME, PLUGIN_KEY_PREFIX};
use crate::config::LMCacheEngineConfig;
use crate::layer::{LayerOptions, NAMES, is_layer_option};
use crate::registry::{is_identifier, nearest};
use crate::url::{RemoteUrl, is_harmless};
use crate::{Error, ErrorKind, Result};
pub use credentials::{Credentials, Login};
#[doc(hidden)]
pub use loose::flattened;
pub(crate) use loose::parse_bool;
use loose::{Loose, LooseError};
pub use schema::{OptionInfo, OptionsSchema};

/// The type of a connector's options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a connector's options: `ConnectorOptions` is not implemented for it",
    label = "used as a connector's options",
    note = "put `#[connector_options]` on it, and write `impl ConnectorOptions for {Self} {{}}`"
)]
pub trait ConnectorOptions: Described + Send + 'static {
    /// The prefix of this connector's keys in `extra_config`: `fs_connector_`. Empty for none.
    const EXTRA_CONFIG_PREFIX: &'static str = "";

    /// Further keys of `extra_config` that set an option, without the prefix: `(key, option)`.
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[];
}

/// A type that kvconn can fill from texts and describe. `#[connector_options]` implements it, and so do the derives of
/// `Deserialize` and `JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a connector's options: `#[connector_options]` is missing",
    label = "this type has no `#[connector_options]`",
    note = "put `#[connector_options]` on `{Self}`"
)]
pub trait Described: Sized {
    #[doc(hidden)]
    fn describe(generator: SchemaGenerator) -> Schema;

    #[doc(hidden)]
    fn read(values: Map<String, Value>) -> Result<Self, LooseError>;
}

// Without this attribute, and with serde's traits as supertraits, the compiler reports serde's bounds.
#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema> Described for T {
    fn describe(generator: SchemaGenerator) -> Schema {
        generator.into_root_schema_for::<T>()
    }

    fn read(values: Map<String, Value>) -> Result<Self, LooseError> {
        T::deserialize(Loose::new(Value::Object(values)))
    }
}

/// `Default`: the values of the options that nothing sets.
#[diagnostic::on_unimplemented(
    message = "the options `{Self}` have no defaults: `Default` is not implemented for `{Self}`",
    label = "needs `Default`",
    note = "put `#[derive(Default)]` on it, or write `impl Default for {Self} {{ .. }}`"
)]
pub trait Defaults: Sized {
    #[doc(hidden)]
    fn defaults() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> Defaults for T {
    fn defaults() -> Self {
        T::default()
    }
}

/// Fills `O`, a connector's own options, from all places that can set it.
pub(crate) fn read<O: ConnectorOptions>(
    url: &RemoteUrl,
    config: &LMCacheEngineConfig,
    plugin_name: Option<&str>,
) -> Result<O> {
    let schema = OptionsSchema::of::<O>();
    check_query(url, schema)?;
    let own = |name: &str| !is_layer_option(name);
    fill(query_options(url, Some(schema)).filter(|(name, _)| own(name)), Some(config), plugin_name, own)
}

/// Fills `O` from names and texts, as from a URL's query. It reads options that are not a store's.
///
/// # Errors
/// `InvalidOption` for a wrong value, naming the option. Every name must be one of `O`'s options.
pub fn of_pairs<'a, O: ConnectorOptions>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<O> {
    fill(pairs, None, None, |_| true)
}

/// Expands a URL that is one variable. Other URLs expand their parts when they are opened, so that no variable changes
/// where a part ends.
pub(crate) fn expand_url(text: String) -> Result<String, String> {
    if environment::is_variable(&text) { environment::expand(&text) } else { Ok(text) }
}

/// Expands a text, or the texts of a list.
fn expand_in(value: &mut Value, expand: fn(String) -> Result<String, String>) -> Result<(), String> {
    match value {
        Value::String(text) => *text = expand(std::mem::take(text))?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| expand_in(item, expand))?,
        _ => {}
    }
    Ok(())
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
    query_options(url, None).filter(|(name, _)| is_layer_option(name))
}

/// Fills `O`. A connector and its layers share a plugin's keys, so `is_own` selects the keys of `O`.
fn fill<'a, O: ConnectorOptions>(
    query: impl Iterator<Item = (&'a str, &'a str)>,
    config: Option<&LMCacheEngineConfig>,
    plugin_name: Option<&str>,
    is_own: impl Fn(&str) -> bool,
) -> Result<O> {
    let schema = OptionsSchema::of::<O>();
    // The key of `extra_config` that set an option. Errors name it. An option of a Python program or an engine's JSON comes
    // as part of the URL, so errors name no place for those.
    let mut keys: Vec<(String, String)> = Vec::new();
    let mut values = Map::new();
    for (name, value) in query {
        values.entry(name).or_insert_with(|| Value::String(value.to_owned()));
    }
    let mut set = |option: &str, value: &Value, key: &str| {
        if !values.contains_key(option) {
            values.insert(option.to_owned(), value.clone());
            keys.push((option.to_owned(), key.to_owned()));
        }
    };
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
            schema.check(option, prefix)?;
            set(option, value, key);
        }
    }
    for &(key, option) in O::EXTRA_CONFIG_SHARED {
        if let Some(value) = extra.get(key) {
            set(option, value, key);
        }
    }
    // A null in YAML is "not set".
    values.retain(|_, value| !value.is_null());
    let key_of = |option: &str| keys.iter().find(|(name, _)| name == option).map(|(_, key)| key.as_str());
    // The caller wrote only the name of a variable, which may hold a secret.
    let mut from_environment = Vec::new();
    for (name, value) in &mut values {
        let is_url = schema.option(name).is_some_and(|option| option.url);
        let expand = if is_url { expand_url } else { |text: String| environment::expand(&text) };
        let written = value.clone();
        expand_in(value, expand).map_err(|why| wrong(name, key_of(name), &why))?;
        // The errors of a URL show its secrets nowhere.
        let is_safe = is_url && value.as_str().is_some_and(|text| text.contains("://"));
        if *value != written && !is_safe {
            from_environment.push(name.clone());
        }
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
    O::read(values.clone()).map_err(|e| {
        let Some(field) = &e.field else {
            let why = e.message.unwrap_or_else(|| "their values do not fit together".to_owned());
            return Error::new(ErrorKind::InvalidOption, format!("options: {why}"));
        };
        let Some(option) = schema.option(field) else {
            return wrong(field, key_of(field), "its value is wrong");
        };
        let is_hidden = from_environment.contains(field);
        let text = values.get(field).and_then(Value::as_str).filter(|_| !is_hidden);
        let shown = match values.get(field) {
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "a map".to_owned(),
            Some(Value::String(text)) if !is_harmless(text) => "its value".to_owned(),
            Some(Value::String(text)) => format!("`{}`", text.escape_debug()),
            Some(other) => format!("`{other}`"),
            None => "nothing".to_owned(),
        };
        let why = match e.message {
            _ if schema.hides(field) => "the value is wrong (it is secret)".to_owned(),
            _ if is_hidden => format!("the value of its environment variable is not {}", option.takes),
            Some(why) if option.url || text.is_none_or(is_harmless) => why,
            _ => format!("{shown} is not {}", option.takes),
        };
        let unit = option.unit.as_deref();
        let number = text.zip(unit).and_then(|(text, unit)| quantity::in_unit(text, unit));
        let number = number.map(|number| format!("write `{field}={number}`; ")).unwrap_or_default();
        let unit = unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
        let (kind, meaning) = (&option.type_name, option.summary());
        let takes = format!("it takes {}{kind}{unit}", article(kind));
        // The message of an enum names its values already.
        let takes =
            if kind.starts_with("one of ") && why.ends_with(kind.as_str()) { format!("`{field}`") } else { takes };
        wrong(field, key_of(field), &why).with_hint(format!("{number}{takes}: {meaning}"))
    })
}

fn wrong(option: &str, key: Option<&str>, why: &str) -> Error {
    let place = key.map(|key| format!(" in extra_config key `{key}`")).unwrap_or_default();
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
    // The rest of a secret with an unescaped character.
    let mut may_be_secret = url.may_hold_a_loose_secret();
    let mut seen = Vec::new();
    for (name, value) in all_options(url) {
        let looks_like_a_name = name.len() <= 40 && name.split('-').all(is_identifier) && !value.is_empty();
        let is_known =
            is_layer_option(name) || schema.option(name).is_some() || name == PATH && is_path(url, Some(schema));
        if !is_known {
            // The guess is a name of kvconn's, so it shows no secret.
            let near = schema.near(name, "");
            // Without a known name like it, the name may be a password that lost its option.
            let is_known_elsewhere = [NAMESPACE, CONNECTOR_NAME].contains(&name) || near.is_some();
            if looks_like_a_name && !may_be_secret && is_known_elsewhere {
                return schema.check(name, "");
            }
            let number = seen.len() + 1;
            let guess = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
            let message = format!("option {number} of the URL is unknown{guess}; its name may be a part of a secret");
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(format!(
                "write `&` and `#` in a value as `%26` and `%23`, and `?` in a password as `%3F`; {}",
                schema.known("")
            )));
        }
        if value.is_empty() {
            return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` has no value"))
                .with_hint(format!("write `{name}=value`, or remove it")));
        }
        if seen.contains(&name) {
            return Err(Error::new(ErrorKind::InvalidOption, format!("URL option `{name}` is set more than once"))
                .with_hint("keep one of its values"));
        }
        may_be_secret |= schema.hides(name);
        seen.push(name);
    }
    Ok(())
}

/// The query parameters that are options, also without a value: all but the one that names the connector.
fn all_options(url: &RemoteUrl) -> impl Iterator<Item = (&str, &str)> {
    url.all_pairs().filter(|(name, _)| *name != CONNECTOR_NAME || url.scheme() != "external")
}

/// The query parameters that are options and have a value, without the [path](PATH).
pub(crate) fn query_options<'a>(
    url: &'a RemoteUrl,
    schema: Option<&OptionsSchema>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let has_path = is_path(url, schema);
    all_options(url).filter(move |(name, value)| !(value.is_empty() || has_path && *name == PATH))
}

/// The query parameter of `external://` that holds the connector's path.
pub(crate) const PATH: &str = "path";

/// Whether the parameter [`PATH`] is the connector's path: in `external://`, unless the connector has such an option.
pub(crate) fn is_path(url: &RemoteUrl, schema: Option<&OptionsSchema>) -> bool {
    url.scheme() == "external" && schema.is_none_or(|schema| schema.option(PATH).is_none())
}

impl OptionsSchema {
    /// Refuses an unknown option. `prefix` is that of a key in `extra_config`; it is empty for an option of the URL.
    fn check(&self, name: &str, prefix: &str) -> Result<()> {
        if self.option(name).is_some() {
            return Ok(());
        }
        let near = self.near(name, prefix);
        let what = if prefix.is_empty() { "URL option" } else { "extra_config key" };
        if name == NAMESPACE {
            let message = format!("unknown {what} `{prefix}{name}`: the connector has no namespaces");
            let hint = "write it into the URL of an inner store, if the connector has one; on an object store, write it \
                        as the prefix, as in `s3://bucket/team-a`";
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(hint));
        }
        let message = format!("unknown {what} `{prefix}{name}`");
        Err(match near {
            Some(near) => Error::new(ErrorKind::InvalidOption, format!("{message} (did you mean `{prefix}{near}`?)"))
                .with_hint(format!("write `{prefix}{near}`")),
            None => Error::new(ErrorKind::InvalidOption, message).with_hint(self.known(prefix)),
        })
    }

    /// The option with the most similar name.
    fn near(&self, name: &str, prefix: &str) -> Option<&str> {
        let shared: &[&str] = if has_layers(prefix) { &NAMES } else { &[] };
        let own = self.options().iter().map(|o| o.name.as_str());
        nearest(name, own.chain(shared.iter().copied()))
    }

    /// The names of all options, in words.
    fn known(&self, prefix: &str) -> String {
        let own: Vec<&str> = self.options().iter().map(|o| o.name.as_str()).collect();
        let mut known = if own.is_empty() {
            "the connector itself has no options".to_owned()
        } else {
            format!("its options are {}", own.join(", "))
        };
        if has_layers(prefix) {
            known.push_str(&format!("; every connector has {}", NAMES.join(", ")));
        }
        known
    }
}

/// The option of many stores, which has an error of its own where it is unknown.
const NAMESPACE: &str = "namespace";

/// Whether the options of the layers stand beside a connector's own: in the URL and in a plugin's keys.
fn has_layers(prefix: &str) -> bool {
    prefix.is_empty() || prefix.starts_with(PLUGIN_KEY_PREFIX)
}
