//! LMCache's configuration file.

use connector_core::LMCacheEngineConfig;

use crate::{SECRET, text};

/// Reads the text as a configuration file, and as the value of every variable.
///
/// # Panics
/// If the output shows a password of a URL, or the configuration breaks an invariant.
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

/// Checks that `shown` has no secret, if every secret in `text` is a URL's password.
fn assert_hidden(text: &str, shown: &str) {
    if !text.replace(&format!("://u:{SECRET}@h:1"), "").contains(SECRET) {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
