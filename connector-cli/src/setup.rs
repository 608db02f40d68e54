//! The settings from the global options. Opens stores and parses keys with them.

use connectors::{CacheKey, Connector, ContextBuilder, KeyKind, LMCacheEngineConfig, LocalCpuBackend};

use crate::args::Global;
use crate::output::Failure;

/// The settings that all commands share.
pub(crate) struct Setup {
    config: LMCacheEngineConfig,
    key_kind: Option<KeyKind>,
    /// One pool for all stores of a command, so the configured size bounds the command's memory.
    backend: LocalCpuBackend,
}

impl Setup {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let config = match &global.config {
            Some(path) => {
                let mut config = LMCacheEngineConfig::from_file(path)?;
                config.apply_variables(|name| std::env::var(name).ok())?;
                config
            }
            None => LMCacheEngineConfig::load()?,
        };
        let backend = LocalCpuBackend::from_config(&config);
        Ok(Self { config, key_kind: global.key_kind.map(KeyKind::from), backend })
    }

    /// The capacity of the pool, in bytes. `get` takes its chunks from the pool.
    pub(crate) fn pool_bytes(&self) -> usize {
        self.config.max_local_cpu_bytes()
    }

    pub(crate) fn builder(&self, url: &str) -> ContextBuilder {
        connectors::builder(url).config(self.config.clone()).local_cpu_backend(self.backend.clone())
    }

    /// Opens the store, runs `work` on it, and closes it even if `work` failed.
    pub(crate) async fn with_store<T>(
        &self,
        url: &str,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_opened(self.builder(url), work).await
    }

    /// Does the same as [`with_store`](Self::with_store), for a store that needs more than its URL.
    pub(crate) async fn with_opened<T>(
        &self,
        builder: ContextBuilder,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let store = builder.open().await?;
        let done = work(&store).await;
        let closed = store.close().await;
        let done = done?;
        closed?;
        Ok(done)
    }

    pub(crate) fn key(&self, text: &str) -> Result<CacheKey, Failure> {
        let key = match self.key_kind {
            Some(kind) => CacheKey::parse(text, kind),
            None => text.parse(),
        };
        Ok(key?)
    }

    pub(crate) fn keys(&self, texts: &[String]) -> Result<Vec<CacheKey>, Failure> {
        texts.iter().map(|text| self.key(text)).collect()
    }
}
