//! kvconn's errors for those of OpenDAL.

use connector_core::{Error, ErrorKind};

/// The error of a store for one of OpenDAL.
pub(super) fn error(e: opendal::Error) -> Error {
    let kind = match e.kind() {
        opendal::ErrorKind::PermissionDenied => ErrorKind::Denied,
        opendal::ErrorKind::RateLimited => ErrorKind::Throttled,
        opendal::ErrorKind::ConfigInvalid => ErrorKind::InvalidOption,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, e.message().to_owned()).temporary(e.is_temporary()).with_source(e)
}
