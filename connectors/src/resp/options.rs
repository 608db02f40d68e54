use connector_core::{ConnectorOptions, connector_options};

use super::PlainSettings;

/// Options of `resp://`. The environment's `LMCACHE_RESP_USERNAME` and `LMCACHE_RESP_PASSWORD` set user and password, too; the
/// URL and the options win.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RespOptions {
    /// All options.
    #[option(flatten)]
    pub plain: PlainSettings,
}

impl ConnectorOptions for RespOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "resp_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[
        ("resp_num_threads", "connections"),
        ("username", "username"),
        ("password", "password"),
        ("save_chunk_meta", "save_chunk_meta"),
    ];
}

impl RespOptions {
    /// The options, with user and password of the environment where nothing else sets them.
    pub(super) fn with_environment(mut self) -> PlainSettings {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let login = &mut self.plain.wire.login;
        if login.username_file.is_none() {
            login.username = login.username.take().or_else(|| variable("LMCACHE_RESP_USERNAME"));
        }
        if login.password_file.is_none() {
            login.password = login.password.take().or_else(|| variable("LMCACHE_RESP_PASSWORD"));
        }
        self.plain
    }
}
