use connector_core::{
    CacheKey, Capabilities, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
};

use super::S3Options;
use crate::cloud::Store;

/// One object a chunk, in a bucket of S3 or of a server that speaks its protocol.
///
/// URL: `s3://BUCKET[/PREFIX]`.
#[external_connector(
    module = "kvconn.s3",
    name = "S3Connector",
    scheme = "s3",
    url = "s3://bucket/prefix",
    options = S3Options
)]
pub struct S3Connector(Store);

impl FromContext for S3Connector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: S3Options = ctx.options()?;
        let mut service = opendal::services::S3::default().bucket(ctx.url().host().unwrap_or_default());
        service = service.root(ctx.url().path());
        if let Some(endpoint) = &options.endpoint {
            service = service.endpoint(endpoint);
        }
        service = service.region(options.region.as_deref().unwrap_or("us-east-1"));
        if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
            service = service.access_key_id(id).secret_access_key(secret);
        }
        Store::new(service, &ctx).map(Self)
    }
}

impl RemoteConnector for S3Connector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_batch_concurrency(32)
    }
}
