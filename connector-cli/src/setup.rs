//! The settings from the global options. Opens stores and parses keys with them.

use std::future::ready;

use connectors::{
    BoxStream, CacheKey, Connector, ContextBuilder, Error, KeyKind, LMCacheEngineConfig, ListEntry, LocalCpuBackend,
};
use futures::{StreamExt, TryStreamExt};

use crate::args::Global;
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::print_error;
use crate::stores::StoreUrl;

/// The settings that all commands share.
pub(crate) struct Setup {
    config: LMCacheEngineConfig,
    key_kind: Option<KeyKind>,
    /// One pool for all stores of a command, so the configured size bounds the command's memory.
    backend: LocalCpuBackend,
    pub(crate) interrupt: Interrupt,
}

impl Setup {
    pub(crate) fn new(global: Global, interrupt: Interrupt) -> Result<Self, Failure> {
        let load = || match &global.config {
            Some(path) => {
                let mut config = LMCacheEngineConfig::from_file(path)?;
                config.apply_environment()?;
                Ok(config)
            }
            None => LMCacheEngineConfig::load(),
        };
        // The file may be a pipe.
        let config = interrupt.blocking(load)?;
        let backend = LocalCpuBackend::from_config(&config);
        Ok(Self { config, key_kind: global.key_kind.map(KeyKind::from), backend, interrupt })
    }

    /// The capacity of the pool, in bytes. `get` takes its chunks from the pool.
    pub(crate) fn pool_bytes(&self) -> usize {
        self.config.max_local_cpu_bytes()
    }

    /// The given store, or the default store without one. An interrupt ends the read, because the file of stores may be a pipe.
    pub(crate) fn store(&self, given: &Option<StoreUrl>) -> Result<StoreUrl, Failure> {
        Ok(self.interrupt.blocking(|| StoreUrl::or_default(given))?)
    }

    pub(crate) fn builder(&self, url: &str) -> ContextBuilder {
        connectors::builder(url).config(self.config.clone()).local_cpu_backend(self.backend.clone())
    }

    /// Opens a store that exists, runs `work` on it until an interrupt, and closes it even if `work` failed.
    pub(crate) async fn with_store<T>(
        &self,
        url: &str,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_opened(self.builder(url).existing(true), async |store| self.interrupt.stops(work(store)).await?).await
    }

    /// Does the same for a store that a put may make.
    pub(crate) async fn with_new_store<T>(
        &self,
        url: &str,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_opened(self.builder(url), async |store| self.interrupt.stops(work(store)).await?).await
    }

    /// Does the same for `work` that cleans up after an interrupt, and for a store that needs more than its URL.
    pub(crate) async fn with_opened<T>(
        &self,
        builder: ContextBuilder,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let store = self.interrupt.stops(builder.open()).await??;
        self.with(store, work).await
    }

    /// Does the same for a store that is open already.
    pub(crate) async fn with<T>(
        &self,
        store: Connector,
        work: impl AsyncFnOnce(&Connector) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = self.interrupt.in_time(work(&store)).await?;
        match (done, self.interrupt.in_time(store.close()).await?) {
            (Ok(_), Err(e)) => Err(e.into()),
            (Err(failure), Err(e)) => {
                print_error(e);
                Err(failure)
            }
            (done, Ok(())) => done,
        }
    }

    pub(crate) fn key(&self, text: &str) -> Result<CacheKey, Failure> {
        let key = match self.key_kind {
            Some(kind) => CacheKey::parse(text, kind),
            None => text.parse(),
        };
        Ok(key?)
    }

    /// Whether a listed key is of the kind that the user wants.
    pub(crate) fn wants(&self) -> impl Fn(&CacheKey) -> bool + Clone + Send + 'static {
        let wanted = self.key_kind;
        move |key| wanted.is_none_or(|kind| key.kind() == kind)
    }

    /// The keys of the store that start with `prefix` and that the user wants.
    pub(crate) fn list<'a>(&self, store: &'a Connector, prefix: &'a str) -> BoxStream<'a, Result<CacheKey, Error>> {
        let wants = self.wants();
        store.list(prefix).try_filter(move |key| ready(wants(key))).boxed()
    }

    /// As [`list`](Self::list), with sizes and times.
    pub(crate) fn list_entries<'a>(
        &self,
        store: &'a Connector,
        prefix: &'a str,
    ) -> BoxStream<'a, Result<ListEntry, Error>> {
        let wants = self.wants();
        store.list_entries(prefix).try_filter(move |entry| ready(wants(&entry.key))).boxed()
    }

    pub(crate) fn keys(&self, texts: &[String]) -> Result<Vec<CacheKey>, Failure> {
        texts.iter().map(|text| self.key(text)).collect()
    }
}
