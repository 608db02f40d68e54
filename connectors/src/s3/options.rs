use std::fmt;

use connector_core::{ConnectorOptions, Error, ErrorKind, Result, connector_options};

use crate::cloud::CloudSettings;

/// Options of `s3://`.
#[connector_options]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct S3Options {
    /// URL of the server, `http://host:9000`; Amazon's own unless set here or in `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Region of the bucket; `AWS_REGION` or `us-east-1` unless the host names it.
    pub region: Option<String>,
    /// Whether requests name the bucket in the path or in the host.
    pub style: Style,
    /// Whether a server without `http://` or `https://` before its name is asked without TLS.
    pub disable_tls: Option<bool>,
    /// The bucket, for `plugin://s3` and `external://`.
    pub bucket: Option<String>,
    /// Prefix of all objects, for `plugin://s3` and `external://`; the URL's path gives it otherwise.
    pub prefix: Option<String>,
    /// Whether requests go without credentials: for public buckets.
    pub anonymous: bool,
    /// Access key. Without it, kvconn looks for credentials where Amazon's tools do.
    #[option(secret)]
    pub access_key_id: Option<String>,
    /// Secret key.
    #[option(secret)]
    pub secret_access_key: Option<String>,
    /// Token of temporary keys.
    #[option(secret)]
    pub session_token: Option<String>,
    /// Profile of `~/.aws/config` and `~/.aws/credentials`. With it, kvconn uses no other credentials.
    pub profile: Option<String>,
    /// Role that kvconn assumes with its credentials.
    pub role_arn: Option<String>,
    /// Identifier that the role asks for.
    pub external_id: Option<String>,
    /// Name of the role's session in Amazon's logs.
    pub role_session_name: Option<String>,
    /// Class of new objects, such as `ONEZONE_IA`.
    pub storage_class: Option<String>,
    /// Encryption of new objects by the server: `AES256` or `aws:kms`.
    pub server_side_encryption: Option<String>,
    /// Key of `aws:kms`; Amazon's own unless set.
    pub sse_kms_key_id: Option<String>,
    /// The requests.
    #[option(flatten)]
    pub cloud: CloudSettings,
}

/// How requests name the bucket.
#[connector_options]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// In the host on Amazon's servers, and where the URL has it in the host. In the path on other servers.
    #[default]
    Auto,
    /// In the path: `http://host/bucket/object`.
    Path,
    /// In the host: `http://bucket.host/object`.
    Virtual,
}

/// Without keys.
impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("S3Options");
        shown.field("endpoint", &self.endpoint).field("region", &self.region).field("style", &self.style);
        shown.field("cloud", &self.cloud).finish_non_exhaustive()
    }
}

impl ConnectorOptions for S3Options {
    const EXTRA_CONFIG_PREFIX: &'static str = "s3_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[
        ("s3_endpoint", "endpoint"),
        ("s3_region", "region"),
        ("s3_num_io_threads", "connections"),
        ("disable_tls", "disable_tls"),
        ("aws_access_key_id", "access_key_id"),
        ("aws_secret_access_key", "secret_access_key"),
        ("save_chunk_meta", "save_chunk_meta"),
    ];
}

impl S3Options {
    /// Refuses options of credentials that do not fit together.
    pub(super) fn check_credentials(&self) -> Result<()> {
        let set: Vec<&str> = [
            ("access_key_id", self.access_key_id.is_some()),
            ("secret_access_key", self.secret_access_key.is_some()),
            ("session_token", self.session_token.is_some()),
            ("profile", self.profile.is_some()),
            ("role_arn", self.role_arn.is_some()),
            ("external_id", self.external_id.is_some()),
            ("role_session_name", self.role_session_name.is_some()),
        ]
        .into_iter()
        .filter_map(|(option, is_set)| is_set.then_some(option))
        .collect();
        let has = |option: &str| set.contains(&option);
        let wrong = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidOption, why).with_hint(hint));
        if let (true, Some(option)) = (self.anonymous, set.first()) {
            return wrong(format!("options `anonymous` and `{option}` are both set"), "keep one of them");
        }
        for (one, other) in [("access_key_id", "secret_access_key"), ("secret_access_key", "access_key_id")] {
            if has(one) && !has(other) {
                return wrong(format!("option `{one}` is set without `{other}`"), "set both, or none of them");
            }
        }
        if has("session_token") && !has("access_key_id") {
            return wrong(
                "option `session_token` is set without `access_key_id`".to_owned(),
                "set the keys that belong to the token",
            );
        }
        if has("profile") && has("access_key_id") {
            return wrong("options `profile` and `access_key_id` are both set".to_owned(), "keep one of them");
        }
        for option in ["external_id", "role_session_name"] {
            if has(option) && !has("role_arn") {
                return wrong(format!("option `{option}` is set without `role_arn`"), "set the role, too");
            }
        }
        if self.sse_kms_key_id.is_some() && self.server_side_encryption.as_deref() != Some("aws:kms") {
            return wrong(
                "option `sse_kms_key_id` needs `server_side_encryption=aws:kms`".to_owned(),
                "set both, or none of them",
            );
        }
        Ok(())
    }
}
