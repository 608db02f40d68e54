//! Where kvconn looks for credentials, in which order, and why a source gave none.
//!
//! OpenDAL's own chain drops the errors of its sources, runs no `credential_process`, and takes an empty variable for a key.

use std::error::Error as StdError;
use std::fmt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use connector_core::ErrorKind;
use opendal::HttpTransporter;
use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    EnvCredentialProvider, IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider,
    RequestSigner, SSOCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, Error, OsEnv, ProvideCredential, ProvideCredentialDyn, Result, Signer,
    SigningCredential, time::Timestamp,
};
use reqsign_file_read_tokio::TokioFileRead;

use super::S3Options;
use crate::cloud::NoCredentials;

/// A host outside of EC2 has no metadata service, and its network may drop the packets.
const INSTANCE_WITHIN: Duration = Duration::from_secs(2);
/// The limit of each other source.
const WITHIN: Duration = Duration::from_secs(30);
/// Calls that waited for a source that failed fail with it.
const FAILS_FOR: Duration = Duration::from_millis(100);
const PROFILE: &str = "the profile";
const PROFILE_SSO: &str = "the profile's SSO";
const PROFILE_PROCESS: &str = "the profile's `credential_process`";
const INSTANCE: &str = "the metadata service of the EC2 instance";

/// The sources of credentials, in their order. A source that is set up and fails ends the search.
#[derive(Debug)]
pub(super) struct Chain {
    sources: Vec<Source>,
    seen: Seen,
}

struct Source {
    name: &'static str,
    provider: Box<dyn ProvideCredentialDyn<Credential = Credential>>,
}

/// What a store's sources gave so far. It outlives a [`Chain`].
#[derive(Clone, Default)]
pub(super) struct Seen {
    last: Arc<Mutex<Last>>,
    /// OpenDAL drops the errors of its sources, so the store takes them from here.
    pub(super) failure: NoCredentials,
}

#[derive(Default)]
struct Last {
    credential: Option<Credential>,
    failed: Option<Instant>,
}

/// Runs the command of `credential_process`.
#[derive(Debug)]
struct Commands;

impl Chain {
    /// The chain for these options: keys, and else the usual places, and the role that they assume.
    pub(super) fn new(options: &S3Options, region: &str, seen: &Seen) -> Self {
        let mut sources = Vec::new();
        match (&options.access_key_id, &options.secret_access_key) {
            (Some(id), Some(secret)) => {
                let mut keys = StaticCredentialProvider::new(id, secret);
                if let Some(token) = &options.session_token {
                    keys = keys.with_session_token(token);
                }
                sources.push(Source::new("the options", keys));
            }
            _ => match &options.profile {
                Some(profile) => sources.extend(of_profile(profile)),
                None => sources.extend(usual()),
            },
        }
        let chain = Self { sources, seen: seen.clone() };
        let Some(role) = &options.role_arn else { return chain };
        // The keys that a role gives are others than those that assume it.
        let own = Self { seen: Seen::default(), ..chain };
        let context = Context::new().with_file_read(TokioFileRead).with_env(OsEnv);
        let context = context.with_http_send(HttpTransporter::default());
        let signer = Signer::new(context, own, RequestSigner::new("sts", region));
        let mut provider = AssumeRoleCredentialProvider::new(role.clone(), signer)
            .with_region(region.to_owned())
            .with_regional_sts_endpoint();
        if let Some(id) = &options.external_id {
            provider = provider.with_external_id(id.clone());
        }
        if let Some(name) = &options.role_session_name {
            provider = provider.with_role_session_name(name.clone());
        }
        Self { sources: vec![Source::new("the role", provider)], seen: seen.clone() }
    }

    /// The error of a source that failed. The last credentials, if they are still valid.
    fn fall_back(&self, source: &Source, e: &Error) -> Result<Option<Credential>> {
        let mut last = self.seen.lock();
        // Most hosts have no metadata service. A missing answer is temporary only on a host where it has answered.
        let temporary = e.is_retryable() && (source.name != INSTANCE || last.credential.is_some());
        let kind = if temporary { ErrorKind::Unavailable } else { ErrorKind::Denied };
        let own = connector_core::Error::new(kind, format!("{}: {}", source.name, said(e))).temporary(temporary);
        let now = Timestamp::now();
        match last.credential.as_ref().filter(|last| temporary && last.expires_in.is_some() && last.is_valid_at(now)) {
            Some(last) => {
                tracing::debug!("kvconn uses its last credentials until they expire: {own}");
                Ok(Some(last.clone()))
            }
            None => {
                last.failed = Some(Instant::now());
                self.seen.failure.set(Some(own.clone()));
                Err(failed(&own))
            }
        }
    }
}

/// The end of the search in a profile that the options name.
#[derive(Debug)]
struct EmptyProfile(String);

impl ProvideCredential for EmptyProfile {
    type Credential = Credential;

    async fn provide_credential(&self, _: &Context) -> Result<Option<Credential>> {
        let why = format!("`{}` has no credentials in `~/.aws/credentials` and `~/.aws/config`", self.0);
        Err(Error::credential_invalid(why))
    }
}

/// The places of this profile, and no others: their credentials may have other rights.
fn of_profile(profile: &str) -> Vec<Source> {
    vec![
        Source::new(PROFILE, ProfileCredentialProvider::new().with_profile(profile)),
        Source::new(PROFILE_SSO, SSOCredentialProvider::new().with_profile(profile)),
        Source::new(PROFILE_PROCESS, ProcessCredentialProvider::new().with_profile(profile)),
        Source::new(PROFILE, EmptyProfile(profile.to_owned())),
    ]
}

/// The places where Amazon's tools look.
fn usual() -> Vec<Source> {
    let mut sources = vec![
        Source::new("the environment", EnvCredentialProvider::new()),
        Source::new(PROFILE, ProfileCredentialProvider::new()),
        Source::new(PROFILE_SSO, SSOCredentialProvider::new()),
        Source::new("the web identity", AssumeRoleWithWebIdentityCredentialProvider::new()),
        Source::new(PROFILE_PROCESS, ProcessCredentialProvider::new()),
        Source::new("the container's credentials", ECSCredentialProvider::new()),
    ];
    // As in Amazon's tools.
    let is_off = std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if !is_off {
        sources.push(Source::new(INSTANCE, IMDSv2CredentialProvider::new()));
    }
    sources
}

impl ProvideCredential for Chain {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Credential>> {
        let failed_now = self.seen.lock().failed.is_some_and(|at| at.elapsed() < FAILS_FOR);
        if let Some(own) = self.seen.failure.get().filter(|_| failed_now) {
            return Err(failed(&own));
        }
        let context = context.clone().with_command_execute(Commands);
        for source in &self.sources {
            let limit = if source.name == INSTANCE { INSTANCE_WITHIN } else { WITHIN };
            let late = |_| Err(Error::unexpected(format!("no answer within {limit:?}")).set_retryable(true));
            let found = tokio::time::timeout(limit, source.provider.provide_credential_dyn(&context)).await;
            match found.unwrap_or_else(late) {
                // An empty variable is not set.
                Ok(Some(found)) if !found.access_key_id.is_empty() && !found.secret_access_key.is_empty() => {
                    tracing::debug!("credentials come from {}", source.name);
                    *self.seen.lock() = Last { credential: Some(found.clone()), failed: None };
                    self.seen.failure.set(None);
                    return Ok(Some(found));
                }
                Ok(_) => {}
                Err(e) => return self.fall_back(source, &e),
            }
        }
        self.seen.failure.set(None);
        Ok(None)
    }
}

impl CommandExecute for Commands {
    async fn command_execute(&self, program: &str, args: &[&str]) -> Result<CommandOutput> {
        let mut command = tokio::process::Command::new(program);
        let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.map_err(|e| Error::config_invalid(format!("cannot run `{program}`")).with_source(e))?;
        let status = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { status, stdout: output.stdout, stderr: output.stderr })
    }
}

impl Source {
    fn new(name: &'static str, provider: impl ProvideCredential<Credential = Credential>) -> Self {
        Self { name, provider: Box::new(provider) }
    }
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error, as reqsign takes it.
fn failed(own: &connector_core::Error) -> Error {
    Error::credential_invalid(own.message()).with_source(own.clone()).set_retryable(own.is_temporary())
}

/// The error and its causes, each text once.
fn said(e: &Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let said = cause.downcast_ref::<opendal::Error>().map_or_else(|| cause.to_string(), |e| e.message().to_owned());
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// Without credentials.
impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
