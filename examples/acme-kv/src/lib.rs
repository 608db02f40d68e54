//! A connector in its own crate. A program links it with `use acme_kv as _;` and opens
//! `external://localhost:0/acme.kv/?connector_name=AcmeConnector`, or `acme://localhost:0` for short.
//!
//! `mod conformance` below tests the connector. Its one line makes a test for each rule of the contract.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use connector_core::{
    CacheKey, Capabilities, ConnectorContext, ConnectorOptions, Error, ErrorKind, FromContext, MemoryObj,
    RemoteConnector, Result, connector_options, external_connector,
};

/// Options of `acme://`. `kvconn describe` shows them, and the error for a misspelt option suggests one of them.
#[connector_options]
#[derive(Debug)]
pub struct AcmeOptions {
    /// Most chunks to keep.
    max_chunks: usize,
}

impl Default for AcmeOptions {
    fn default() -> Self {
        Self { max_chunks: 10_000 }
    }
}

impl ConnectorOptions for AcmeOptions {
    // `acme_max_chunks` in LMCache's extra_config sets the option, too.
    const EXTRA_CONFIG_PREFIX: &'static str = "acme_";
}

/// Keeps chunks in a map.
#[external_connector(module = "acme.kv", name = "AcmeConnector", scheme = "acme", options = AcmeOptions)]
pub struct AcmeConnector {
    chunks: Mutex<HashMap<CacheKey, MemoryObj>>,
    max_chunks: usize,
}

impl AcmeConnector {
    fn chunks(&self) -> MutexGuard<'_, HashMap<CacheKey, MemoryObj>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromContext for AcmeConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: AcmeOptions = ctx.options()?;
        Ok(Self { chunks: Mutex::default(), max_chunks: options.max_chunks })
    }
}

impl RemoteConnector for AcmeConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.chunks().contains_key(key))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(self.chunks().get(key).cloned())
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        // The chunk may be a view of the caller's pool, so a store in memory must copy the bytes.
        let copy = MemoryObj::from_vec(chunk.to_vec(), chunk.layout().clone())?;
        let mut chunks = self.chunks();
        if chunks.len() >= self.max_chunks && !chunks.contains_key(key) {
            return Err(Error::new(ErrorKind::StoreFull, format!("the store holds {} chunks already", chunks.len()))
                .with_hint("raise `max_chunks`"));
        }
        chunks.insert(key.clone(), copy);
        Ok(())
    }

    // The other methods are optional. A connector declares the ones that it implements.
    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_layout_kept().with_remove()
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.chunks().remove(key).is_some())
    }
}

/// Makes a test for each rule of the contract.
#[cfg(test)]
mod conformance {
    connector_core::conformance_tests!("acme://localhost:0");
}

#[cfg(test)]
mod tests {
    // `#[tokio::test]` needs the name.
    use connector_core::tokio;

    use super::*;

    /// Finds two connectors with the same name or scheme among all crates that this binary links.
    #[test]
    fn every_name_and_scheme_is_unique() -> Result<()> {
        connector_core::registry::validate()
    }

    #[tokio::test]
    async fn get_returns_the_chunk_that_was_put_and_a_full_store_refuses_a_put() -> Result<()> {
        let connector = connector_core::open("acme://localhost:0?max_chunks=1").await?;
        let key: CacheKey = "meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16".parse()?;
        connector.put(&key, MemoryObj::from(b"hello".to_vec())).await?;
        assert_eq!(connector.get(&key).await?.as_deref(), Some(&b"hello"[..]));

        let other: CacheKey = "meta-llama/Llama-3.1-8B@1@0@1f2e3e@bfloat16".parse()?;
        let full = connector.put(&other, MemoryObj::from(b"hello".to_vec())).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StoreFull);
        assert!(connector.remove(&key).await?);
        Ok(())
    }
}
