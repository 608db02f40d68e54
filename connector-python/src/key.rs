//! The keys that Python gives.

use connectors::{CacheKey, Error, ErrorKind, KeyKind, Result};
use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;

use crate::errors::{OrRaise, invalid, refused};

/// The key of a text. Without a kind, the text decides.
///
/// # Errors
/// `InvalidError` for anything else.
pub(crate) fn key_of(text: &Bound<'_, PyAny>, kind: Option<KeyKind>) -> PyResult<CacheKey> {
    let read = |text: String| match kind {
        Some(kind) => CacheKey::parse(&text, kind),
        None => text.parse(),
    };
    text_of(text)?.and_then(read).or_raise(text.py())
}

/// `"engine"` or `"object"`.
pub(crate) fn kind_of(py: Python<'_>, name: &str) -> PyResult<KeyKind> {
    match name {
        "engine" => Ok(KeyKind::Engine),
        "object" => Ok(KeyKind::Object),
        _ => Err(invalid(py, format!("`{name}` is not a kind of key; write `engine` or `object`"))),
    }
}

/// The text of a key. The inner error is that of text with an unpaired surrogate.
///
/// # Errors
/// `InvalidError` for an object of another type.
pub(crate) fn text_of(text: &Bound<'_, PyAny>) -> PyResult<Result<String>> {
    match text.extract::<String>() {
        Ok(text) => Ok(Ok(text)),
        Err(e) if e.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let message = format!("{} is not a key: it has an unpaired surrogate", text.repr()?);
            Ok(
                Err(Error::new(ErrorKind::InvalidKey, message)
                    .with_hint("was the text decoded with `surrogateescape`?")),
            )
        }
        Err(e) => Err(refused(text.py(), ErrorKind::InvalidKey, e)),
    }
}
