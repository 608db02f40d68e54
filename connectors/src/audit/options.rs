use std::collections::HashSet;

use connector_core::connector::Operation;
use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, RemoteUrl, Result, connector_options};

/// Options of `audit://`.
#[connector_options]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuditOptions {
    /// The URL of the store behind; `audit_actual_remote_url` of LMCache's configuration unless set. Required.
    pub actual_remote_url: Option<RemoteUrl>,
    /// Whether the checksums of chunks that are put and read are logged.
    pub calc_checksum: bool,
    /// Whether a read fails with `Corrupt` if this connector put another chunk; false unless set. Calculates checksums, too.
    pub verify_checksum: Option<bool>,
    /// LMCache's old name for `verify_checksum`, which overrides it.
    pub verify: bool,
    /// Operations that are not logged, separated by commas. Their chunks are still verified.
    pub exclude_cmds: Vec<String>,
    /// The hash: BLAKE3, or XXH3 of 128 bits, which is faster but not safe from forgery.
    pub checksum: ChecksumKind,
    /// Limit of keys whose checksums are kept; the key put longest ago goes first.
    pub max_checksums: usize,
}

/// The hash of a checksum.
#[connector_options]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumKind {
    /// BLAKE3, 256 bits.
    #[default]
    Blake3,
    /// XXH3, 128 bits.
    Xxh3,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            actual_remote_url: None,
            calc_checksum: false,
            verify_checksum: None,
            verify: false,
            exclude_cmds: Vec::new(),
            checksum: ChecksumKind::default(),
            max_checksums: 100_000,
        }
    }
}

impl ConnectorOptions for AuditOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "audit_";
}

/// Other names that LMCache has for operations.
const LMCACHE_NAMES: [(&str, Operation); 4] = [
    ("exists_sync", Operation::Exists),
    ("remove_sync", Operation::Remove),
    ("batched_async_contains", Operation::BatchedContains),
    ("batched_get_non_blocking", Operation::BatchedGet),
];

impl AuditOptions {
    pub(super) fn verifies(&self) -> bool {
        self.verify_checksum.unwrap_or(self.verify)
    }

    /// The store behind.
    pub(super) fn behind(&self, ctx: &ConnectorContext) -> Result<RemoteUrl> {
        if let Some(url) = &self.actual_remote_url {
            return Ok(url.clone());
        }
        let url = ctx.config().audit_actual_remote_url.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::InvalidUrl, format!("`{}` does not name the store to audit", ctx.url())).with_hint(
                "set `audit_actual_remote_url` in LMCache's configuration, or write \
                 `audit://?actual_remote_url=` and its URL with `:`, `/` and `?` percent-encoded",
            )
        })?;
        RemoteUrl::parse(url).map_err(|e| e.at("configuration key `audit_actual_remote_url`"))
    }

    /// The operations that are not logged.
    pub(super) fn excluded(&self) -> HashSet<&'static str> {
        let find = |name: &str| {
            let named = Operation::ALL.into_iter().find(|operation| operation.as_str() == name);
            let found = named.or_else(|| LMCACHE_NAMES.iter().find(|(other, _)| *other == name).map(|(_, o)| *o));
            if found.is_none() && !name.is_empty() {
                // LMCache accepts any name, and has operations that kvconn does not have. Another text may be a secret.
                let name = if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') { name } else { "***" };
                tracing::warn!(name, "option `exclude_cmds` names no operation of a connector");
            }
            found.map(Operation::as_str)
        };
        self.exclude_cmds.iter().filter_map(|name| find(name.trim())).collect()
    }
}
