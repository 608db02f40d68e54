//! Finds two registrations of one name in one crate, while it is compiled.
//!
//! A crate is one run of the compiler, and a run keeps its macros loaded: what was registered is remembered here. Should
//! a compiler ever run each macro in a process of its own, nothing breaks: the registry's index finds the same mistake
//! when it is built.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

static SEEN: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// Remembers `claim` (`connector acme.kv/X`, `scheme acme`); gives the place that made the same claim before.
pub(crate) fn first_place_of(claim: String) -> Option<String> {
    // An editor's macro server lives across many versions of the same text.
    let in_editor = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.file_stem().map(|s| s.to_string_lossy().starts_with("rust-analyzer")))
        .unwrap_or(false);
    if in_editor {
        return None;
    }
    let span = proc_macro::Span::call_site();
    let here = format!("{}:{}", span.file(), span.line());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.get_or_insert_default();
    match seen.get(&claim) {
        Some(first) => Some(first.clone()),
        None => {
            seen.insert(claim, here);
            None
        }
    }
}
