//! kvconn's errors for those of OpenDAL.

use std::error::Error as StdError;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use connector_core::{Error, ErrorKind};

use super::meaning::meaning;
use super::refusal::{Reason, Refused, shown};

/// The place of a store, as its errors show it. No part of it is a secret.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) service: Service,
    /// The server's URL, without user and password: `http://127.0.0.1:9000`.
    pub(crate) endpoint: String,
    /// The bucket or the container.
    pub(crate) bucket: String,
    /// The region that kvconn signs for.
    pub(crate) region: Option<String>,
    /// Why the store's sources of credentials gave none.
    pub(crate) no_credentials: NoCredentials,
}

/// Why the sources of credentials gave none the last time.
#[derive(Debug, Clone, Default)]
pub(crate) struct NoCredentials(Arc<Mutex<Option<Error>>>);

impl NoCredentials {
    pub(crate) fn get(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg_attr(not(feature = "s3"), allow(dead_code))]
    pub(crate) fn set(&self, why: Option<Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// The protocol of a store.
#[cfg_attr(not(all(feature = "azure", feature = "gcs", feature = "s3")), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Gcs,
    Azure,
}

impl Service {
    /// The service's word for a bucket.
    pub(super) fn bucket(self) -> &'static str {
        match self {
            Self::S3 | Self::Gcs => "bucket",
            Self::Azure => "container",
        }
    }
}

/// The error of a store for one of OpenDAL. An error that kvconn's own transport made stays as it is.
#[cold]
pub(super) fn error(e: opendal::Error, place: &Place) -> Error {
    if let Some(refused) = cause::<Refused>(&e) {
        return of_refusal(refused, place).with_source(e);
    }
    if is_signing(&e) {
        return no_credentials(e, place);
    }
    if let Some(own) = cause::<Error>(&e) {
        return own.clone();
    }
    if let Some(code) = code_in_a_bulk_answer(e.message()) {
        let mut refused = Refused::of_code(code);
        refused.message = Some("the server refuses a part of the request".to_owned());
        return of_refusal(&refused, place).with_source(e);
    }
    let is_without_length = e.message() == "HTTP response does not contain file content length";
    let kind = match e.kind() {
        opendal::ErrorKind::ConfigInvalid => ErrorKind::InvalidOption,
        opendal::ErrorKind::Unsupported => ErrorKind::Unsupported,
        opendal::ErrorKind::PermissionDenied => ErrorKind::Denied,
        opendal::ErrorKind::RateLimited => ErrorKind::Throttled,
        _ => ErrorKind::Other,
    };
    // The message alone may say nothing, and the causes say why. All are empty for a success of the wrong kind, such as
    // 204 for a GET.
    let why = Some(chain(&e)).filter(|why| !why.is_empty());
    let why = why.unwrap_or_else(|| "the server's answer has a status that does not fit the request".to_owned());
    let message = format!("{} `{}` at {}: {why}", place.service.bucket(), place.bucket, place.endpoint);
    let error = Error::new(kind, message).temporary(e.is_temporary()).with_source(e);
    if is_without_length {
        return error
            .with_hint("the answer lacks `Content-Length`; a proxy in between must not compress or change answers");
    }
    error
}

/// Whether the service refused the call's credentials, and may accept those that the files and the chain give now.
pub(super) fn is_renewable(e: &(dyn StdError + 'static)) -> bool {
    let reason = find::<Refused>(e).and_then(|refused| refused.reason);
    matches!(reason, Some(Reason::Expired | Reason::Unknown))
}

/// Whether the service refused a request without saying why, as it does for `HEAD`.
pub(super) fn is_unexplained(e: &opendal::Error) -> bool {
    cause::<Refused>(e).is_some_and(|refused| {
        refused.code.is_none() && refused.retry_after.is_none() && !refused.status.is_server_error()
    })
}

/// The error of a refusal.
fn of_refusal(refused: &Refused, place: &Place) -> Error {
    let meaning = meaning(refused, place);
    let bucket = place.service.bucket();
    let message = format!("{bucket} `{}` at {}: {refused}", place.bucket, place.endpoint);
    let mut e = Error::new(meaning.kind, message).temporary(meaning.temporary);
    if let Some(hint) = meaning.hint {
        e = e.with_hint(hint);
    }
    match refused.retry_after {
        Some(wait) if meaning.temporary => e.with_retry_after(wait),
        _ => e,
    }
}

/// Whether OpenDAL could not sign a request, so that it did not send it.
fn is_signing(e: &opendal::Error) -> bool {
    // OpenDAL gives these errors no kind of their own.
    ["signing http request", "loading credential", "failed to sign"].iter().any(|start| e.message().starts_with(start))
}

/// The error of a store that has no credentials.
fn no_credentials(e: opendal::Error, place: &Place) -> Error {
    let bucket = place.service.bucket();
    let own = place.no_credentials.get().or_else(|| cause::<Error>(&e).cloned());
    let why = match (&own, e.source()) {
        (Some(own), _) => format!(": {}", shown(own.message())),
        (None, Some(cause)) => format!(": {}", chain(cause)),
        (None, None) => String::new(),
    };
    let message = format!("kvconn has no credentials for {bucket} `{}` at {}{why}", place.bucket, place.endpoint);
    // A source that may answer later is not a lack of credentials.
    if let Some(own) = own.filter(Error::is_temporary) {
        return Error::new(own.kind(), message).temporary(true).with_source(e);
    }
    Error::new(ErrorKind::Denied, message).with_hint(where_credentials_come_from(place.service)).with_source(e)
}

fn where_credentials_come_from(service: Service) -> &'static str {
    match service {
        Service::S3 => {
            "set the options `access_key_id` and `secret_access_key`, the environment's `AWS_ACCESS_KEY_ID` and \
             `AWS_SECRET_ACCESS_KEY`, or a profile in `~/.aws`; `anonymous=true` reads a public bucket. kvconn looked at these, \
             web identity, and the credentials of the container and the machine"
        }
        Service::Gcs => {
            "set the option `credentials_file` or `token`, or the environment's `GOOGLE_APPLICATION_CREDENTIALS`; `anonymous=true` \
             reads a public bucket. kvconn looked at these, gcloud's own file, and the metadata server of the machine"
        }
        Service::Azure => {
            "set the option `connection_string`, `account_key` or `sas_token`, or the environment's `AZURE_STORAGE_ACCOUNT_NAME` and \
             `AZURE_STORAGE_ACCOUNT_KEY`; `anonymous=true` reads a public container. kvconn looked at these, service principals, \
             workload identities, and the identity of the machine"
        }
    }
}

/// The service's code for one object of a bulk request, which OpenDAL shows in `Debug` form.
fn code_in_a_bulk_answer(message: &str) -> Option<&str> {
    let (form, rest) = message.split_once(" { code: \"")?;
    matches!(form, "DeleteObjectsResultError" | "S3Error").then_some(())?;
    rest.split('"').next()
}

/// The error and its causes on one line, each text once.
fn chain(e: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(e);
    while let Some(e) = next {
        // The `Display` of OpenDAL's error repeats its causes, and shows OpenDAL's internal context.
        let said = e.downcast_ref::<opendal::Error>().map_or_else(|| e.to_string(), |e| e.message().to_owned());
        if !text.contains(&said) {
            let _ = write!(text, "{}{said}", if text.is_empty() { "" } else { ": " });
        }
        next = e.source();
    }
    shown(&text)
}

/// The first cause of this type.
fn cause<T: StdError + 'static>(e: &opendal::Error) -> Option<&T> {
    e.source().and_then(find)
}

pub(super) fn find<'e, T: StdError + 'static>(e: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref() {
            return Some(found);
        }
        next = e.source();
    }
    None
}

#[cfg(test)]
mod tests;
