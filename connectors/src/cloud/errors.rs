//! kvconn's errors for those of OpenDAL.

use std::error::Error as StdError;

use connector_core::{Error, ErrorKind};

use super::refusal::Refused;

/// The place of a store, as its errors show it. No part of it is a secret.
#[allow(dead_code, reason = "the hints of errors will read it")]
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) service: Service,
    /// The server's URL, without user and password: `http://127.0.0.1:9000`.
    pub(crate) endpoint: String,
    /// The bucket or the container.
    pub(crate) bucket: String,
    /// The region that kvconn signs for.
    pub(crate) region: Option<String>,
}

/// The protocol of a store.
#[allow(dead_code, reason = "the hints of errors will read it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Gcs,
    Azure,
}

/// The error of a store for one of OpenDAL. An error that kvconn's own transport made stays as it is.
#[cold]
pub(super) fn error(e: opendal::Error, place: &Place) -> Error {
    if let Some(own) = cause::<Error>(&e) {
        return own.clone();
    }
    if let Some(refused) = cause::<Refused>(&e) {
        tracing::trace!(%refused, "refused");
    }
    let kind = match e.kind() {
        opendal::ErrorKind::PermissionDenied => ErrorKind::Denied,
        opendal::ErrorKind::RateLimited => ErrorKind::Throttled,
        opendal::ErrorKind::ConfigInvalid => ErrorKind::InvalidOption,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, e.message().to_owned()).at(&place.endpoint).temporary(e.is_temporary()).with_source(e)
}

/// The first cause of this type.
fn cause<T: StdError + 'static>(e: &opendal::Error) -> Option<&T> {
    let mut cause = e.source();
    while let Some(c) = cause {
        if let Some(found) = c.downcast_ref() {
            return Some(found);
        }
        cause = c.source();
    }
    None
}
