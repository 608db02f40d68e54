use std::sync::Arc;

use connector_core::{ConnectorContext, FromContext, Result, external_connector};
use opendal::Operator;

use super::AzureOptions;
use crate::cloud::{Names, Place, Service, Store, remote_connector, wrong_options};

/// One blob a chunk, in a container of Azure Blob Storage.
///
/// URL: `azure://CONTAINER[/PREFIX]`.
#[external_connector(
    module = "kvconn.azure",
    name = "AzureConnector",
    scheme = "azure",
    url = "azure://container/prefix",
    options = AzureOptions
)]
pub struct AzureConnector(Arc<Store>);

impl FromContext for AzureConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: AzureOptions = ctx.options()?;
        let bucket = options.bucket(&ctx)?;
        let place = Place {
            service: Service::Azure,
            endpoint: options.account()?.url,
            bucket: bucket.name.clone(),
            region: None,
            no_credentials: Default::default(),
        };
        let again = ctx.clone();
        // Reads the options again, and with them the files of secrets.
        let service = move || {
            let service = again.options().and_then(|options: AzureOptions| options.service(&bucket));
            Operator::new(service.map_err(wrong_options)?)
        };
        Store::open(service, place, Names::Encoded, &options.cloud, &ctx).await.map(Self)
    }
}

remote_connector!(AzureConnector);
