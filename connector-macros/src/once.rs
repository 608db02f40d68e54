//! Finds two registrations of one name in one crate, while the compiler runs.
//!
//! One run of the compiler compiles one crate and keeps its macros loaded, so this static sees all of the crate's
//! attributes. A compiler that ran each macro in a separate process would find nothing here. The registry's index
//! finds the same mistake at run time.
//!
//! The same place twice is one claim: an editor's macro server expands an attribute after each edit, and gives all places as
//! line 1.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

static SEEN: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// Remembers `claim` (`connector acme.kv/X`, `scheme acme`). Returns the other place that made the same claim before.
pub(crate) fn first_place_of(claim: String) -> Option<String> {
    let span = proc_macro::Span::call_site();
    let here = format!("{}:{}:{}", span.file(), span.line(), span.column());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = seen.get_or_insert_default().entry(claim).or_insert_with(|| here.clone());
    (*first != here).then(|| first.clone())
}
