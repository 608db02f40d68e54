//! A connector's options, from a URL's query and from `extra_config`.

use std::sync::OnceLock;

use connector_core::layer::LayerOptions;
use connector_core::options::{ConnectorOptions, OptionsSchema};
use connector_core::{LMCacheEngineConfig, LocalCpuBackend};
use serde_json::Value;

use crate::{SECRET, text};

/// One option of each type that connectors have.
#[derive(Debug, Default, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
struct Options {
    /// A whole number.
    capacity: Option<u64>,
    /// A number.
    share: Option<f64>,
    /// A flag.
    direct: Option<bool>,
    /// A text.
    folder: Option<String>,
    /// A list.
    hosts: Vec<String>,
    /// One of two values.
    mode: Mode,
    /// A secret.
    #[schemars(extend("secret" = true))]
    password: Option<u8>,
}

#[derive(Debug, Default, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Fast,
    Safe,
}

impl ConnectorOptions for Options {
    const EXTRA_CONFIG_PREFIX: &'static str = "acme_";
}

/// Reads options. The first line of the input is a URL's query, and the rest is `extra_config` as a JSON object.
///
/// # Panics
/// If an unknown option is accepted, a value differs from its text, or an error shows the password.
pub fn options(data: &[u8]) {
    static OUTSIDE: OnceLock<(tokio::runtime::Runtime, LocalCpuBackend)> = OnceLock::new();
    let Some(text) = text(data) else { return };
    let (query, json) = text.split_once('\n').unwrap_or((text, ""));
    let Value::Object(extra) = serde_json::from_str(json).unwrap_or_else(|_| Value::Object(serde_json::Map::new()))
    else {
        return;
    };
    let (runtime, memory) = OUTSIDE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        (runtime, LocalCpuBackend::with_capacity(4096))
    });
    let config =
        extra.into_iter().fold(LMCacheEngineConfig::default(), |c, (key, value)| c.with_extra_config(key, value));
    let context = connector_core::builder(&format!("acme://h:1/?{query}"))
        .handle(runtime.handle().clone())
        .local_cpu_backend(memory.clone())
        .config(config)
        .build();
    let Ok(context) = context else { return };
    let password = context.url().query("password").unwrap_or_default();
    match context.options::<Options>() {
        Ok(options) => {
            let known = [OptionsSchema::of::<Options>(), OptionsSchema::of::<LayerOptions>()];
            let names = || context.url().query_pairs().map(|(name, _)| name).filter(|name| *name != "connector_name");
            assert!(
                names().all(|name| known.iter().any(|schema| schema.option(name).is_some())),
                "an unknown option is accepted"
            );
            // A text with `${NAME}` depends on the environment.
            let is_plain = |text: &&str| !text.replace("$${", "").contains("${");
            if let Some(folder) = context.url().query("folder").filter(is_plain) {
                assert_eq!(options.folder, Some(folder.replace("$${", "${")));
            }
            if let Some(capacity) = context.url().query("capacity").filter(is_plain) {
                assert_eq!(options.capacity, capacity.trim().parse().ok());
            }
        }
        // The error for an unset `${NAME}` shows the name.
        Err(_) if password.starts_with("${") => {}
        Err(e) if password.contains(SECRET) && text.matches(SECRET).count() == 1 => {
            assert!(!format!("{e} {e:?}").contains(SECRET), "{e}");
        }
        Err(_) => {}
    }
}
