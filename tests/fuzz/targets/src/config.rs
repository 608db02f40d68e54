//! LMCache's configuration file.

use connector_core::LMCacheEngineConfig;
use serde_json::json;

use crate::{SECRET, text};

/// Reads the text as a configuration file, and as the value of every variable.
///
/// # Panics
/// If the output shows a password of a URL, or the configuration breaks an invariant: `get` gives the value of the
/// field, and what `get` gives can be set.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let shown = match LMCacheEngineConfig::from_yaml(text) {
        Ok(config) => {
            assert!(config.chunk_size > 0 && config.blocking_timeout_secs > 0 && config.max_local_cpu_size >= 0.0);
            assert!(!config.use_layerwise || config.save_chunk_meta(), "layerwise mode forces the header");
            check_get(&config);
            format!("{config:?}")
        }
        Err(e) => format!("{e} {e:?}"),
    };
    assert_hidden(text, &shown);

    let mut config = LMCacheEngineConfig::default();
    let shown = match config.apply_variables(|_| Some(text.to_owned())) {
        Ok(()) => {
            check_get(&config);
            format!("{config:?}")
        }
        Err(e) => format!("{e} {e:?}"),
    };
    assert_hidden(text, &shown);
}

fn check_get(config: &LMCacheEngineConfig) {
    let fields = [
        ("chunk_size", json!(config.chunk_size)),
        ("max_local_cpu_size", json!(config.max_local_cpu_size)),
        ("remote_url", json!(config.remote_url)),
        ("remote_serde", json!(config.remote_serde)),
        ("use_layerwise", json!(config.use_layerwise)),
        ("save_unfull_chunk", json!(config.save_unfull_chunk)),
        ("blocking_timeout_secs", json!(config.blocking_timeout_secs)),
        ("audit_actual_remote_url", json!(config.audit_actual_remote_url)),
        ("remote_storage_plugins", json!(config.remote_storage_plugins)),
    ];
    let extra = config.get("extra_config").expect("a map");
    let mut again = LMCacheEngineConfig::default();
    for (key, value) in fields.into_iter().chain([("extra_config", extra)]) {
        assert_eq!(config.get(key).unwrap_or_default(), value, "{key}");
        again.set(key, value).expect("a value that was read");
        assert_eq!(again.get(key), config.get(key), "{key}");
    }
}

/// Checks that `shown` has no secret, if every secret in `text` is a URL's password.
fn assert_hidden(text: &str, shown: &str) {
    if !text.replace(&format!("://u:{SECRET}@h:1"), "").contains(SECRET) {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
