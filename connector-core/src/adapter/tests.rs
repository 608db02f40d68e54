use super::*;
use crate::{CacheKey, ErrorKind, LMCacheEngineConfig, MemoryObj, RemoteConnector};

struct Nothing;

impl RemoteConnector for Nothing {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }
    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }
    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

/// `front://` opens the store behind it; `by-hand://` is an empty store.
struct ByHand;

impl ConnectorAdapter for ByHand {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        ["front", "by-hand"].contains(&url.scheme())
    }
    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        match ctx.url().query("behind") {
            Some(url) => ctx.open_behind(RemoteUrl::parse(url)?).await,
            None => Ok(Connector::new(ctx.connector_name(), Nothing)),
        }
    }
}

async fn open(url: &str) -> Result<Connector> {
    let plugin = serde_json::json!({ "remote_storage_plugin.x.url": "by-hand://x" });
    let mut config = LMCacheEngineConfig::default();
    config.set("extra_config", plugin)?;
    crate::builder(url).config(config).adapter(ByHand).open().await
}

#[tokio::test]
async fn an_adapter_of_the_builder_serves_stores_behind_other_stores_and_plugins() {
    for url in ["by-hand://x", "front://x/?behind=by-hand://y", "front://x/?behind=plugin://x", "plugin://x"] {
        assert_eq!(open(url).await.map(|c| c.name().to_owned()).unwrap(), "by-hand://", "{url}");
    }
}

#[tokio::test]
async fn a_url_that_leads_back_to_itself_is_an_error() {
    let behind = (0..9).fold("by-hand://x".to_owned(), |behind, _| {
        let encoded: String = url::form_urlencoded::byte_serialize(behind.as_bytes()).collect();
        format!("front://x/?behind={encoded}")
    });
    assert_eq!(open(&behind).await.unwrap_err().kind(), ErrorKind::InvalidUrl);
}
