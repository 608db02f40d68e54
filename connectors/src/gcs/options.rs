use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result, connector_options};
use opendal::services::Gcs;

use crate::cloud::{Bucket, CloudSettings, server_url};

const GOOGLE: &str = "https://storage.googleapis.com";

/// Options of `gs://`.
#[connector_options]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct GcsOptions {
    /// URL of the server, for an emulator or a private endpoint; Google's unless set.
    pub endpoint: Option<String>,
    /// Whether requests go out without credentials, as for a public bucket or an emulator.
    pub anonymous: bool,
    /// JSON text of a service account's key, or of other credentials that `gcloud` writes.
    #[option(secret)]
    pub credentials: Option<String>,
    /// OAuth 2 access token.
    #[option(secret)]
    pub token: Option<String>,
    /// Service account whose token the machine's metadata server gives; the machine's own unless set.
    pub service_account: Option<String>,
    /// The bucket, for `plugin://gcs` and `external://`.
    pub bucket: Option<String>,
    /// Prefix of all objects, for `plugin://gcs` and `external://`; the URL's path gives it otherwise.
    pub prefix: Option<String>,
    /// The requests.
    #[option(flatten)]
    pub cloud: CloudSettings,
}

/// Without credentials and URLs.
impl std::fmt::Debug for GcsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GcsOptions").field("cloud", &self.cloud).finish_non_exhaustive()
    }
}

impl ConnectorOptions for GcsOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "gcs_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[("save_chunk_meta", "save_chunk_meta")];
}

impl GcsOptions {
    /// The bucket and the prefix.
    pub(super) fn bucket(&self, ctx: &ConnectorContext) -> Result<Bucket> {
        Bucket::of(ctx, &["gs", "gcs"], ("bucket", self.bucket.as_deref()), self.prefix.as_deref())
    }

    /// The URL of the server.
    pub(super) fn endpoint(&self) -> Result<String> {
        self.endpoint.as_deref().map_or_else(|| Ok(GOOGLE.to_owned()), |url| server_url("endpoint", url))
    }

    /// OpenDAL's service of the bucket.
    pub(super) fn service(&self, bucket: &Bucket) -> Result<Gcs> {
        let mut service = Gcs::default().bucket(&bucket.name).root(&bucket.prefix).endpoint(&self.endpoint()?);
        let given = [self.anonymous, self.credentials.is_some(), self.token.is_some(), self.service_account.is_some()];
        if given.into_iter().filter(|is_given| *is_given).count() > 1 {
            let why = "the options give credentials more than once";
            return Err(Error::new(ErrorKind::InvalidOption, why)
                .with_hint("keep one of `anonymous`, `credentials`, `token` and `service_account`"));
        }
        // OpenDAL would try the credentials of the machine next.
        let only = |service: Gcs| service.disable_config_load().disable_vm_metadata();
        if self.anonymous {
            service = only(service).skip_signature();
        } else if let Some(token) = &self.token {
            service = only(service).token(token.trim().to_owned());
        } else if let Some(json) = &self.credentials {
            if !json.trim_start().starts_with('{') {
                return Err(Error::new(ErrorKind::InvalidOption, "option `credentials` is not JSON")
                    .with_hint("write `credentials_file=/path/of/key.json`"));
            }
            service = only(service).credential(&BASE64_STANDARD.encode(json));
        } else if let Some(account) = &self.service_account {
            service = service.disable_config_load().service_account(account);
        }
        Ok(service)
    }
}
