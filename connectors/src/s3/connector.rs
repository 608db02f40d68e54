use std::sync::Arc;

use connector_core::{ConnectorContext, FromContext, Result, external_connector};
use opendal::Operator;
use opendal::services::S3;
use reqsign_core::ProvideCredentialChain;

use super::S3Options;
use super::address::Address;
use super::credentials::{Chain, Seen};
use crate::cloud::{Names, Place, Service, Store, remote_connector, serve_roles, wrong_options};

/// One object a chunk, in a bucket of S3 or of a server that speaks its protocol.
///
/// URLs: `s3://BUCKET[/PREFIX]`, `s3://BUCKET.s3.REGION.amazonaws.com[/PREFIX]`.
#[external_connector(
    module = "kvconn.s3",
    name = "S3Connector",
    scheme = "s3",
    url = "s3://bucket/prefix",
    url = "s3://bucket.s3.region.amazonaws.com/prefix",
    url = "s3://bucket.host:9000/prefix",
    options = S3Options
)]
pub struct S3Connector(Arc<Store>);

impl FromContext for S3Connector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: S3Options = ctx.options()?;
        options.check_credentials()?;
        let address = Address::of(&options, &ctx)?;
        tracing::debug!("requests name the bucket in the {}", if address.is_virtual { "host" } else { "path" });
        let seen = Seen::default();
        let place = Place {
            service: Service::S3,
            endpoint: address.endpoint.clone(),
            bucket: address.bucket.clone(),
            region: Some(address.region.clone()),
            no_credentials: seen.failure.clone(),
        };
        let settings = options.cloud.clone();
        if options.role_arn.is_some() {
            serve_roles(&settings);
        }
        let again = ctx.clone();
        let service = move || {
            // The file of an option may hold a new token.
            let options = again.options().map_err(wrong_options)?;
            Operator::new(service(&options, &address, &seen))
        };
        Store::open(service, place, Names::Flat, &settings, &ctx).await.map(Self)
    }
}

/// OpenDAL's service.
pub(super) fn service(options: &S3Options, address: &Address, seen: &Seen) -> S3 {
    let text = |option: &Option<String>| option.clone().unwrap_or_default();
    let mut service = S3::default()
        .bucket(&address.bucket)
        .root(&address.prefix)
        .region(&address.region)
        // OpenDAL removes the bucket from the host's start, even if the server's own name starts with it (`kv.example.com`).
        .endpoint(&address.endpoint.replacen("://", &format!("://{}.", address.bucket), 1))
        .credential_provider_chain(ProvideCredentialChain::new().push(Chain::new(options, &address.region, seen)))
        .default_storage_class(&text(&options.storage_class))
        .server_side_encryption(&text(&options.server_side_encryption))
        .server_side_encryption_aws_kms_key_id(&text(&options.sse_kms_key_id));
    if address.is_virtual {
        service = service.enable_virtual_host_style();
    }
    if options.anonymous {
        service = service.skip_signature();
    }
    service
}

remote_connector!(S3Connector);
