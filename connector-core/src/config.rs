//! LMCache's engine configuration. kvconn reads the same YAML file and the same environment variables.
//!
//! Source: `lmcache/v1/config.py` and `config_base.py` of LMCache 0.5.6.

mod keys;
mod variables;

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::options::parse_bool;
use crate::registry::nearest;
use crate::url::{is_secret_name, redact};
use crate::{Error, ErrorKind, Result};

/// The environment variable that names the configuration file.
const CONFIG_FILE_VARIABLE: &str = "LMCACHE_CONFIG_FILE";

/// The part of LMCache's configuration that concerns a connector.
///
/// [`get`](Self::get) gives every other key that LMCache 0.5.6 knows.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::LMCacheEngineConfig;
/// let config = LMCacheEngineConfig::from_yaml("chunk_size: 128\nextra_config:\n  save_chunk_meta: false\n")?;
/// assert_eq!(config.chunk_size, 128);
/// assert!(!config.save_chunk_meta());
///
/// let e = LMCacheEngineConfig::from_yaml("chunk_sise: 128").unwrap_err();
/// assert!(e.to_string().contains("did you mean `chunk_size`?"), "{e}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct LMCacheEngineConfig {
    /// Tokens in a full chunk. Default 256.
    pub chunk_size: usize,
    /// Size of the local CPU backend in GiB. Default 5.
    pub max_local_cpu_size: f64,
    /// The store to open, if the configuration names one.
    pub remote_url: Option<String>,
    /// LMCache's encoding of chunks. Default `naive`, the only one that kvconn reads.
    pub remote_serde: String,
    /// Whether each layer is a separate chunk. Default false.
    pub use_layerwise: bool,
    /// Whether LMCache stores partial chunks. Default false.
    pub save_unfull_chunk: bool,
    /// LMCache's timeout for a connector, in seconds. Default 10.
    pub blocking_timeout_secs: u64,
    /// The URL of the store that `audit://` checks.
    pub audit_actual_remote_url: Option<String>,
    /// The instances of `plugin://`.
    pub remote_storage_plugins: Vec<String>,
    extra_config: Map<String, Value>,
    all: Map<String, Value>,
}

impl Default for LMCacheEngineConfig {
    fn default() -> Self {
        Self {
            chunk_size: 256,
            max_local_cpu_size: 5.0,
            remote_url: None,
            remote_serde: "naive".to_owned(),
            use_layerwise: false,
            save_unfull_chunk: false,
            blocking_timeout_secs: 10,
            audit_actual_remote_url: None,
            remote_storage_plugins: Vec::new(),
            extra_config: Map::new(),
            all: Map::new(),
        }
    }
}

impl LMCacheEngineConfig {
    /// The configuration as LMCache loads it, from the file that `LMCACHE_CONFIG_FILE` names, if it is set. Every
    /// `LMCACHE_<KEY>` variable overrides the file. Variables that look misspelt are logged.
    ///
    /// # Errors
    /// `InvalidOption` for a file that cannot be read and for a wrong value. The error names the file or the variable.
    pub fn load() -> Result<Self> {
        let mut config = match std::env::var_os(CONFIG_FILE_VARIABLE) {
            Some(path) if !path.is_empty() => Self::from_file(Path::new(&path))?,
            _ => Self::default(),
        };
        let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        for (variable, meant) in variables::misspelt(names.iter().map(String::as_str)) {
            tracing::warn!(variable, "this environment variable has no effect (did you mean `{meant}`?)");
        }
        config.apply_variables(|name| std::env::var(name).ok())?;
        Ok(config)
    }

    /// The configuration of a YAML file.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml), and for a file that cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(e, format_args!("read configuration file `{}`", path.display())))?;
        Self::from_yaml(&text).map_err(|e| e.at(format_args!("configuration file `{}`", path.display())))
    }

    /// The configuration of a YAML text.
    ///
    /// # Errors
    /// `InvalidOption` for a text that is not a YAML map, for a wrong value, and for an unknown key that looks
    /// misspelt. Other unknown keys are only logged, as in LMCache, because a later LMCache may know them.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let value: Value =
            serde_norway::from_str(text).map_err(|e| invalid(format!("it is not YAML: {}", redact(&e.to_string()))))?;
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            _ => return Err(invalid("it is not a map of keys to values".to_owned())),
        };
        let mut config = Self::default();
        for (key, value) in map {
            config.set(&key, value)?;
        }
        Ok(config)
    }

    /// Overrides this configuration with every `LMCACHE_<KEY>` variable. `variable` gives a variable's value by its
    /// name.
    ///
    /// # Errors
    /// `InvalidOption` for a wrong value. The error names the variable.
    pub fn apply_variables(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
        for key in variables::all_keys() {
            let name = variables::variable_of(key);
            if let Some(text) = variable(&name) {
                self.set(key, Value::String(unquote(&text).to_owned()))
                    .map_err(|e| e.at(format_args!("environment variable {name}")))?;
            }
        }
        Ok(())
    }

    /// Sets one key, as a line of the YAML file does.
    ///
    /// # Errors
    /// `InvalidOption` for a value of the wrong type, and for an unknown key that looks misspelt.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        let key = keys::ALIASES.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new);
        if !keys::KEYS.contains(&key) {
            if let Some(near) = nearest(key, keys::KEYS.iter().copied()) {
                return Err(invalid(format!("unknown key `{key}` (did you mean `{near}`?)")));
            }
            tracing::warn!(key, "unknown configuration key");
            return Ok(());
        }
        if value.is_null() {
            return Ok(());
        }
        let default = Self::default();
        match key {
            "chunk_size" => self.chunk_size = number(key, &value, |n: &usize| *n > 0, "a number of tokens over 0")?,
            "max_local_cpu_size" => {
                self.max_local_cpu_size = number(key, &value, |n: &f64| n.is_finite() && *n >= 0.0, "a size in GiB")?;
            }
            "remote_url" => self.remote_url = text(key, &value)?,
            "remote_serde" => self.remote_serde = text(key, &value)?.unwrap_or(default.remote_serde),
            "use_layerwise" => self.use_layerwise = flag(key, &value)?,
            "save_unfull_chunk" => self.save_unfull_chunk = flag(key, &value)?,
            "blocking_timeout_secs" => {
                self.blocking_timeout_secs = number(key, &value, |n: &u64| *n > 0, "a number of seconds over 0")?;
            }
            "audit_actual_remote_url" => self.audit_actual_remote_url = text(key, &value)?,
            "remote_storage_plugins" => self.remote_storage_plugins = list(key, &value)?,
            "extra_config" => self.extra_config = map(key, &value)?,
            _ => {}
        }
        self.all.insert(key.to_owned(), value);
        Ok(())
    }

    /// The value of any key that is set, including keys without a field here.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.all.get(key)
    }

    /// LMCache's `extra_config`: the options of connectors and plugins.
    pub(crate) fn extra_config(&self) -> &Map<String, Value> {
        &self.extra_config
    }

    /// The same configuration with one key of `extra_config` set.
    #[must_use]
    pub fn with_extra_config(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra_config.insert(key.into(), value.into());
        self
    }

    /// Whether stores keep chunks with their header: `extra_config.save_chunk_meta`, by default true. Layerwise mode
    /// always has headers.
    pub fn save_chunk_meta(&self) -> bool {
        let set = self.extra_config.get("save_chunk_meta");
        self.use_layerwise || set.and_then(as_flag).unwrap_or(true)
    }

    /// [`max_local_cpu_size`](Self::max_local_cpu_size) in bytes.
    pub fn max_local_cpu_bytes(&self) -> usize {
        (self.max_local_cpu_size * 1024.0 * 1024.0 * 1024.0) as usize
    }
}

fn without_secrets(key: &str, value: &Value) -> Value {
    match value {
        _ if is_secret_name(key) => Value::from("***"),
        Value::String(text) => Value::from(redact(text).into_owned()),
        Value::Array(items) => items.iter().map(|item| without_secrets("", item)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), without_secrets(key, value))).collect(),
        other => other.clone(),
    }
}

/// Shows the keys that are set, without passwords and other secrets.
impl fmt::Debug for LMCacheEngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LMCacheEngineConfig ")?;
        let set = self.all.iter().filter(|(key, _)| *key != "extra_config");
        let extra = self.extra_config.iter().map(|(key, value)| (format!("extra_config.{key}"), value));
        f.debug_map()
            .entries(set.map(|(key, value)| (key.clone(), value)).chain(extra).map(|(key, value)| {
                let shown = without_secrets(&key, value);
                (key, shown)
            }))
            .finish()
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOption, message)
}

fn wrong(key: &str, value: &Value, want: &str) -> Error {
    // A URL may contain a password, even in a key that is not for URLs.
    let shown = match value.to_string() {
        text if key.contains("url") || text.contains("://") => "its value".to_owned(),
        text => format!("`{}`", redact(&text)),
    };
    invalid(format!("key `{key}`: {shown} is not {want}"))
}

fn as_flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(n) => n.as_u64().filter(|n| *n < 2).map(|n| n == 1),
        Value::String(text) => parse_bool(text),
        _ => None,
    }
}

fn flag(key: &str, value: &Value) -> Result<bool> {
    as_flag(value).ok_or_else(|| wrong(key, value, "true or false"))
}

fn number<T: std::str::FromStr>(key: &str, value: &Value, allowed: impl Fn(&T) -> bool, want: &str) -> Result<T> {
    let text = match value {
        Value::Number(n) => n.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return Err(wrong(key, value, want)),
    };
    text.parse().ok().filter(allowed).ok_or_else(|| wrong(key, value, want))
}

fn text(key: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::String(text) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
        _ => Err(wrong(key, value, "text")),
    }
}

fn list(key: &str, value: &Value) -> Result<Vec<String>> {
    match value {
        Value::String(text) => {
            Ok(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect())
        }
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(key, value, "a list of texts")))
            .collect(),
        _ => Err(wrong(key, value, "a list of texts")),
    }
}

fn map(key: &str, value: &Value) -> Result<Map<String, Value>> {
    let parsed;
    let value = match value {
        Value::String(text) => {
            parsed = serde_json::from_str(text).map_err(|e| invalid(format!("key `{key}`: it is not JSON: {e}")))?;
            &parsed
        }
        other => other,
    };
    match value {
        Value::Object(map) => Ok(map.clone()),
        _ => Err(invalid(format!("key `{key}` is not a map of keys to values"))),
    }
}

/// Removes one pair of quotes around a variable's value, as LMCache does.
fn unquote(text: &str) -> &str {
    let text = text.trim();
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_keys_that_do_not_concern_connectors_loads() {
        let config = LMCacheEngineConfig::from_yaml(
            "chunk_size: 16\nlocal_cpu: yes\nmax_local_cpu_size: 0.5\nremote_url: \"redis://u:pw@h:1\"\nenable_p2p: false\n\
             save_unfull_chunk: 1\nblocking_timeout_secs: \"3\"\nremote_storage_plugins: fs.a, fs.b\n\
             extra_config:\n  save_chunk_meta: \"false\"\n  fs_connector_use_odirect: true\n",
        )
        .unwrap();
        assert_eq!((config.chunk_size, config.blocking_timeout_secs, config.save_unfull_chunk), (16, 3, true));
        assert_eq!(config.max_local_cpu_bytes(), 512 << 20);
        assert_eq!(config.remote_storage_plugins, ["fs.a", "fs.b"]);
        assert_eq!(config.get("enable_p2p"), Some(&Value::Bool(false)));
        assert!(!config.save_chunk_meta());
        assert_eq!(LMCacheEngineConfig::from_yaml("").unwrap(), LMCacheEngineConfig::default());
    }

    #[test]
    fn layerwise_mode_always_has_headers() {
        let yaml = "use_layerwise: true\nextra_config: {save_chunk_meta: false}";
        assert!(LMCacheEngineConfig::from_yaml(yaml).unwrap().save_chunk_meta());
    }

    #[test]
    fn variables_override_the_file() {
        let mut config = LMCacheEngineConfig::from_yaml("chunk_size: 16").unwrap();
        let variables = [
            ("LMCACHE_CHUNK_SIZE", "'32'"),
            ("LMCACHE_EXTRA_CONFIG", r#"{"save_chunk_meta": false}"#),
            ("LMCACHE_EXTERNAL_BACKENDS", "a,b"),
        ];
        config
            .apply_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
            .unwrap();
        assert_eq!(config.chunk_size, 32);
        assert!(!config.save_chunk_meta());
        assert_eq!(config.get("storage_plugins"), Some(&Value::String("a,b".into())));
    }

    #[test]
    fn debug_shows_no_secret() {
        let yaml = "remote_url: redis://u:hunter2@h:1\nextra_config: {redis_password: hunter2, n: 3, back: redis://:hunter2@h:1, r: {password: hunter2}, l: [redis://u:hunter2@a:1, redis://u:hunter2@b:1]}";
        let shown = format!("{:?}", LMCacheEngineConfig::from_yaml(yaml).unwrap());
        assert!(
            shown.contains("u:***@h:1") && shown.contains("extra_config.n") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn the_error_of_a_wrong_value_names_the_key_and_hides_secrets() {
        for (yaml, why) in [
            ("chunk_size: 0", "`chunk_size`: `0` is not a number of tokens over 0"),
            ("chunk_size: many", "not a number of tokens"),
            ("save_unfull_chunk: perhaps", "not true or false"),
            ("remote_url: [redis://u:hunter2@h:1]", "is not text"),
            ("- a list", "not a map"),
            ("a: b: c", "not YAML"),
            ("extra_config: 3", "not a map"),
        ] {
            let e = LMCacheEngineConfig::from_yaml(yaml).unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains(why), "{yaml}: {e}");
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
    }
}
