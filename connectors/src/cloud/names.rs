//! The name of a key's object, and the key of a name.

use std::borrow::Cow;

use connector_core::{CacheKey, KeyKind};
use percent_encoding as _;

/// The name of the key's object, as LMCache writes it: an in-process key's `/` becomes `_`, an object key's text is its name.
pub(super) fn name(key: &CacheKey) -> Cow<'_, str> {
    match key.kind() {
        KeyKind::Object => Cow::Borrowed(key.as_str()),
        _ => Cow::Owned(key.as_str().replace('/', "_")),
    }
}
