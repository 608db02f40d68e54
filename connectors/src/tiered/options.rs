use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, RemoteUrl, Result, connector_options};

/// Options of `tiered://`.
#[connector_options]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TieredOptions {
    /// The URL of the front store. Required.
    pub front: Option<RemoteUrl>,
    /// The URL of the back store. Required.
    pub back: Option<RemoteUrl>,
    /// When a put ends: after the write to the back store (`write_through`) or before it (`write_back`).
    pub mode: WriteMode,
    /// The largest size of the write-back buffer.
    #[option(unit = "bytes")]
    pub write_back_bytes: u64,
}

/// When a put ends.
#[connector_options]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// When the back store has the chunk.
    #[default]
    WriteThrough,
    /// When the front store and the write-back buffer have the chunk.
    WriteBack,
}

impl Default for TieredOptions {
    fn default() -> Self {
        Self { front: None, back: None, mode: WriteMode::default(), write_back_bytes: 256 << 20 }
    }
}

impl ConnectorOptions for TieredOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "tiered_connector_";
}

impl TieredOptions {
    /// The URLs of the front and of the back.
    pub(super) fn urls(&self, ctx: &ConnectorContext) -> Result<(RemoteUrl, RemoteUrl)> {
        let url = |name: &str, url: &Option<RemoteUrl>| {
            url.clone().ok_or_else(|| {
                Error::new(ErrorKind::InvalidUrl, format!("`{}` does not name its `{name}`", ctx.url())).with_hint(
                    "write `tiered://?front=URL&back=URL` with `:`, `/`, `?` and `&` of both URLs percent-encoded",
                )
            })
        };
        Ok((url("front", &self.front)?, url("back", &self.back)?))
    }
}
