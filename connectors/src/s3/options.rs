use connector_core::{ConnectorOptions, connector_options};

use crate::cloud::CloudSettings;

/// Options of `s3://`.
#[connector_options]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct S3Options {
    /// URL of the server, `http://host:9000`; Amazon's own unless set.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Access key.
    #[option(secret)]
    pub access_key_id: Option<String>,
    /// Secret key.
    #[option(secret)]
    pub secret_access_key: Option<String>,
    /// The requests.
    #[option(flatten)]
    pub cloud: CloudSettings,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl ConnectorOptions for S3Options {
    const EXTRA_CONFIG_PREFIX: &'static str = "s3_";
}
