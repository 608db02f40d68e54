//! LMCache's configuration file.

use connector_core::LMCacheEngineConfig;

use crate::{SECRET, text};

/// Reads a configuration, and every text in it as a variable's value.
///
/// # Panics
/// If a password in a URL is shown, or a configuration is not equal to itself.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let shown = match LMCacheEngineConfig::from_yaml(text) {
        Ok(config) => {
            assert!(config.chunk_size > 0 && config.blocking_timeout_secs > 0 && config.max_local_cpu_size >= 0.0);
            assert!(!config.use_layerwise || config.save_chunk_meta(), "layerwise mode forces the header");
            format!("{config:?}")
        }
        Err(e) => format!("{e} {e:?}"),
    };
    assert_hidden(text, &shown);

    let mut config = LMCacheEngineConfig::default();
    let shown = match config.apply_variables(|_| Some(text.to_owned())) {
        Ok(()) => format!("{config:?}"),
        Err(e) => format!("{e} {e:?}"),
    };
    assert_hidden(text, &shown);
}

/// If each secret in `text` is a URL's password, none is in `shown`.
fn assert_hidden(text: &str, shown: &str) {
    if !text.replace(&format!("://u:{SECRET}@h:1"), "").contains(SECRET) {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
