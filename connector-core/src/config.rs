//! LMCache's engine configuration. kvconn reads the same YAML file and the same environment variables.
//!
//! Source: `lmcache/v1/config.py` and `config_base.py` of LMCache 0.5.6.

mod keys;
mod values;
mod variables;
mod yaml;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use self::values::{flag, list, map, text};
use crate::options::parse_bool;
use crate::registry::nearest;
use crate::url::{is_harmless, redact};
use crate::{Error, ErrorKind, Result};

/// The keys whose values are shown: they hold no secret.
const FIELDS: [&str; 6] =
    ["chunk_size", "max_local_cpu_size", "remote_serde", "use_layerwise", "save_unfull_chunk", "blocking_timeout_secs"];

/// The environment variable that names the configuration file.
const CONFIG_FILE_VARIABLE: &str = "LMCACHE_CONFIG_FILE";

/// The part of LMCache's configuration that concerns a connector.
///
/// [`get`](Self::get) gives every key that LMCache 0.5.6 knows. Values are read as LMCache reads them: YAML 1.1,
/// `1_024` and `256.0` are whole numbers, and of the texts only `true` and `1` are true.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::LMCacheEngineConfig;
/// let config = LMCacheEngineConfig::from_yaml("chunk_size: 128\nextra_config:\n  save_chunk_meta: false\n")?;
/// assert_eq!(config.chunk_size, 128);
/// assert!(!config.save_chunk_meta());
///
/// let e = LMCacheEngineConfig::from_yaml("chunk_size: many").unwrap_err();
/// assert!(e.to_string().contains("`chunk_size`: `many` is not a number of tokens over 0"), "{e}");
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
    /// The keys without a field.
    others: Map<String, Value>,
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
            others: Map::new(),
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
        config.apply_environment()?;
        Ok(config)
    }

    /// Overrides this configuration with every `LMCACHE_<KEY>` variable of the process.
    ///
    /// # Errors
    /// `InvalidOption` for a wrong value. The error names the variable.
    pub fn apply_environment(&mut self) -> Result<()> {
        // A text that is not UTF-8 gives an error later, and is not left out.
        self.apply_variables(|name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned()))
    }

    /// The configuration of a YAML file of at most 16 MiB. The file may be a FIFO, as in `<(command)`.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml), and for a file that cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        let place = format!("configuration file `{}`", path.display());
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|e| Error::io(e, format_args!("read {place}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|e| invalid(format!("it is not UTF-8: {e}")).at(&place).with_hint("save the file as UTF-8"))?;
        Self::from_yaml(&text).map_err(|e| e.at(&place))
    }

    /// The configuration of a YAML text. An unknown key is logged, as in LMCache, because a later LMCache may know it.
    ///
    /// # Errors
    /// `InvalidOption` for a wrong value. Also for a text that is not a YAML map, nests deeper than 128 levels, or is
    /// over 16 MiB.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let map = match yaml::read(text).map_err(invalid)? {
            Value::Object(map) => map,
            value if values::is_false(&value) => Map::new(),
            _ => return Err(invalid("it is not a map of keys to values".to_owned())),
        };
        let mut config = Self::default();
        for (key, value) in map {
            config.set(&key, value)?;
        }
        config.adjust();
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
            let Some(text) = variable(&name) else { continue };
            let text = values::unquote(&text);
            // As in LMCache, an empty variable does not change a number.
            if !(text.is_empty() && keys::NUMBERS.contains(&key)) {
                self.set(key, Value::from(text)).map_err(|e| e.at(format_args!("environment variable {name}")))?;
            }
        }
        self.adjust();
        Ok(())
    }

    /// These modes of LMCache need partial chunks.
    fn adjust(&mut self) {
        let is_on = |key| self.others.get(key).is_some_and(|value| flag(key, value));
        self.save_unfull_chunk |= is_on("enable_blending") || is_on("enable_pd");
    }

    /// Sets one key, as a line of the YAML file does. `Null` sets its default. An unknown key is logged.
    ///
    /// # Errors
    /// `InvalidOption` for a value of the wrong type.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        let key = keys::current(key);
        if !keys::KEYS.contains(&key) {
            match nearest(key, keys::KEYS.iter().copied()) {
                Some(near) => tracing::warn!(key, "unknown configuration key (did you mean `{near}`?)"),
                None => tracing::warn!(key, "unknown configuration key"),
            }
            return Ok(());
        }
        let default = Self::default();
        let value = if value.is_null() { default.get(key).unwrap_or_default() } else { value };
        match key {
            "chunk_size" => self.chunk_size = whole(key, &value, "a number of tokens over 0")?,
            "max_local_cpu_size" => {
                let size = values::float(&value).filter(|n| n.is_finite() && *n >= 0.0);
                self.max_local_cpu_size = size.ok_or_else(|| wrong(key, &value, "a size in GiB"))?;
            }
            "blocking_timeout_secs" => self.blocking_timeout_secs = whole(key, &value, "a number of seconds over 0")?,
            "use_layerwise" => self.use_layerwise = flag(key, &value),
            "save_unfull_chunk" => self.save_unfull_chunk = flag(key, &value),
            "remote_url" => self.remote_url = text(key, &value)?,
            "audit_actual_remote_url" => self.audit_actual_remote_url = text(key, &value)?,
            "remote_serde" => self.remote_serde = text(key, &value)?.unwrap_or(default.remote_serde),
            "remote_storage_plugins" => self.remote_storage_plugins = list(key, &value)?,
            "extra_config" => self.extra_config = map(key, &value)?,
            _ if value.is_null() => drop(self.others.remove(key)),
            _ => drop(self.others.insert(key.to_owned(), value)),
        }
        Ok(())
    }

    /// The value of a key: of a field, or, as it was set, of a key without one. `None` for a key without a value.
    pub fn get(&self, key: &str) -> Option<Value> {
        match keys::current(key) {
            "chunk_size" => Some(self.chunk_size.into()),
            "max_local_cpu_size" => Some(self.max_local_cpu_size.into()),
            "blocking_timeout_secs" => Some(self.blocking_timeout_secs.into()),
            "use_layerwise" => Some(self.use_layerwise.into()),
            "save_unfull_chunk" => Some(self.save_unfull_chunk.into()),
            "remote_url" => self.remote_url.clone().map(Value::from),
            "audit_actual_remote_url" => self.audit_actual_remote_url.clone().map(Value::from),
            "remote_serde" => Some(self.remote_serde.clone().into()),
            "remote_storage_plugins" => Some(self.remote_storage_plugins.clone().into()),
            "extra_config" => Some(self.extra_config.clone().into()),
            key => self.others.get(key).cloned(),
        }
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

/// Shows the keys whose values are not the default. It shows only the values that cannot hold a secret.
impl fmt::Debug for LMCacheEngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |key: &str, value: &Value| match value {
            Value::String(text) if ["remote_url", "audit_actual_remote_url"].contains(&key) => {
                Value::from(redact(text))
            }
            Value::String(text) if is_harmless(text) && FIELDS.contains(&key) => value.clone(),
            Value::Number(_) | Value::Bool(_) if FIELDS.contains(&key) => value.clone(),
            _ => Value::from("***"),
        };
        f.write_str("LMCacheEngineConfig ")?;
        let default = Self::default();
        let set = keys::KEYS.into_iter().filter(|key| *key != "extra_config");
        let set = set.filter_map(|key| {
            self.get(key)
                .filter(|value| default.get(key).as_ref() != Some(value))
                .map(|value| (key.to_owned(), shown(key, &value)))
        });
        let extra = self.extra_config.keys().map(|key| (format!("extra_config.{key}"), Value::from("***")));
        f.debug_map().entries(set.chain(extra)).finish()
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOption, message)
}

fn wrong(key: &str, value: &Value, want: &str) -> Error {
    let shown = match value {
        Value::Number(_) | Value::Bool(_) => format!("`{value}`"),
        // A longer text may be a URL with a password.
        Value::String(text) if is_harmless(text) && text.len() < 40 => format!("`{}`", text.escape_debug()),
        _ => "its value".to_owned(),
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

fn whole<T: TryFrom<i128> + PartialOrd + Default>(key: &str, value: &Value, want: &str) -> Result<T> {
    let n = values::int(value).and_then(|n| T::try_from(n).ok()).filter(|n| *n > T::default());
    n.ok_or_else(|| wrong(key, value, want))
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
        assert_eq!(config.get("enable_p2p"), Some(Value::Bool(false)));
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
        assert_eq!(config.get("storage_plugins"), Some(Value::String("a,b".into())));
    }

    #[test]
    fn debug_shows_no_secret() {
        let yaml = "remote_url: redis://u:hunter2@h:1\nextra_config: {redis_password: hunter2, n: 3, back: redis://:hunter2@h:1, r: {password: hunter2}, l: [redis://u:hunter2@a:1, redis://u:hunter2@b:1]}";
        let shown = format!("{:?}", LMCacheEngineConfig::from_yaml(yaml).unwrap());
        assert!(
            shown.contains("redis://***") && shown.contains("extra_config.n") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn the_error_of_a_wrong_value_names_the_key_and_hides_secrets() {
        for (yaml, why) in [
            ("chunk_size: 0", "`chunk_size`: `0` is not a number of tokens over 0"),
            ("chunk_size: many", "not a number of tokens"),
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
