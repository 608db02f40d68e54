use std::sync::Arc;

use connector_core::{ConnectorContext, FromContext, Result, external_connector};
use opendal::Operator;
use opendal::services::S3;

use super::S3Options;
use crate::cloud::{Names, Place, Service, Store, remote_connector};

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
pub struct S3Connector(Arc<Store>);

impl FromContext for S3Connector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: S3Options = ctx.options()?;
        let cloud = options.cloud.clone();
        let (bucket, root) = (ctx.url().host().unwrap_or_default().to_owned(), ctx.url().path().to_owned());
        let place = Place {
            service: Service::S3,
            endpoint: options.endpoint.clone().unwrap_or_else(|| "https://s3.amazonaws.com".to_owned()),
            bucket: bucket.clone(),
            region: options.region.clone(),
        };
        let service = move || {
            let mut service = S3::default().bucket(&bucket).root(&root);
            if let Some(endpoint) = &options.endpoint {
                service = service.endpoint(endpoint);
            }
            service = service.region(options.region.as_deref().unwrap_or("us-east-1"));
            if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
                service = service.access_key_id(id).secret_access_key(secret);
            }
            Operator::new(service)
        };
        Store::open(service, place, Names::Flat, &cloud, &ctx).await.map(Self)
    }
}

remote_connector!(S3Connector);
