use std::sync::Arc;

use connector_core::{ConnectorContext, FromContext, Result, external_connector};
use opendal::Operator;

use super::GcsOptions;
use crate::cloud::{Names, Place, Service, Store, remote_connector, wrong_options};

/// One object a chunk, in a bucket of Google Cloud Storage.
///
/// URL: `gs://BUCKET[/PREFIX]`.
#[external_connector(
    module = "kvconn.gcs",
    name = "GCSConnector",
    scheme = "gs",
    scheme = "gcs",
    url = "gs://bucket/prefix",
    url = "gcs://bucket/prefix",
    options = GcsOptions
)]
pub struct GCSConnector(Arc<Store>);

impl FromContext for GCSConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: GcsOptions = ctx.options()?;
        let bucket = options.bucket(&ctx)?;
        let place = Place {
            service: Service::Gcs,
            endpoint: options.endpoint()?,
            bucket: bucket.name.clone(),
            region: None,
            no_credentials: Default::default(),
        };
        let again = ctx.clone();
        // Reads the options again, and with them the files of secrets.
        let service = move || {
            let service = again.options().and_then(|options: GcsOptions| options.service(&bucket));
            Operator::new(service.map_err(wrong_options)?)
        };
        Store::open(service, place, Names::Flat, &options.cloud, &ctx).await.map(Self)
    }
}

remote_connector!(GCSConnector);
