//! Helpers of the whole-system tests. No other crate depends on this one.
//!
//! | test | shows | data |
//! |---|---|---|
//! | `vectors` | bytes, names and URLs are LMCache's | `vectors/`, written by LMCache |
//! | `engine_files` | names of files are those of vLLM and SGLang | `vectors/`, written by vLLM and SGLang |
//! | `configuration` | configuration files and variables are read as LMCache reads them | `vectors/configuration.json` |
//! | `round_trips` | any valid value is read back as it was written; no text makes a parser panic | |
//! | `fuzz_corpus` | no parser of foreign bytes panics or disagrees with a second parser of its format | `fuzz/corpus/` |
//! | `errors` | the errors that a caller gets for bad input | |
//! | `compile_fail` | the errors that an author gets for a wrong attribute | `ui/` |
//! | `linking` | the connectors in a binary | `linking/`, small crates |
//! | `documents` | links and paths of the documents lead to files | `docs/`, `README.md` |
//! | `troubleshoot` | errors and log lines of the page are in the sources | `docs/troubleshoot.md` |
//! | `store_pages` | the pages of the stores have the registry's URLs and options; URLs in documents open | `docs/`, `README.md` |
//! | `linking_full` | the same in every profile and with every linker (`--features slow`) | `linking/` |
#![forbid(unsafe_code)]

pub mod linking;

/// Every program in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}

/// Every program in the page for authors compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/connector/README.md")]
pub mod connector_page {}

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The golden vectors of one file: `vectors("cache_keys")` reads `cache_keys.json`.
///
/// The real LMCache, vLLM and SGLang wrote the files in `vectors/`. Set `KVCONN_VECTORS` to a folder with the vectors of another release.
///
/// # Panics
/// If the file is missing or is not JSON, because a test without its vectors tests nothing.
pub fn vectors(name: &str) -> Value {
    let folder = std::env::var_os("KVCONN_VECTORS").map_or_else(|| package_dir().join("vectors"), PathBuf::from);
    let path = folder.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{} is not JSON: {e}", path.display()))
}

/// The rows of one table of [`vectors`].
///
/// # Panics
/// If the table is missing or empty, because a loop over no rows would pass.
pub fn rows(vectors: &Value, table: &str) -> Vec<Value> {
    let rows = vectors[table].as_array().cloned().unwrap_or_default();
    assert!(!rows.is_empty(), "the vectors have no rows under `{table}`");
    rows
}

/// A text field of a row.
///
/// # Panics
/// If the row has no such field, or the field is not text.
pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {row}"))
}

/// A number field of a row.
///
/// # Panics
/// If the row has no such field, or the number does not fit.
pub fn number<T: TryFrom<i64>>(row: &Value, field: &str) -> T {
    let number = row[field].as_i64().and_then(|n| T::try_from(n).ok());
    number.unwrap_or_else(|| panic!("no number `{field}` that fits in {row}"))
}

/// The bytes of a field in hex.
///
/// # Panics
/// If the field is not hex.
pub fn hex(row: &Value, field: &str) -> Vec<u8> {
    let text = text(row, field);
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "`{field}` is not hex: {text}");
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap_or_else(|e| panic!("`{field}` is not hex: {e}")))
        .collect()
}

/// The Markdown files whose links and URLs the tests check: those of `docs`, sorted, and those beside the code.
///
/// # Panics
/// If a folder cannot be read.
pub fn documents() -> Vec<PathBuf> {
    let others = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "connector-cli/README.md",
        "connector-core/README.md",
        "connector-macros/README.md",
        "connector-python/README.md",
        "connectors/README.md",
        "tests/interop/README.md",
    ];
    let root = package_dir().join("..");
    pages().into_iter().chain(others.map(|name| root.join(name))).collect()
}

/// Every Markdown file below `docs`, sorted.
///
/// # Panics
/// If a folder cannot be read.
pub fn pages() -> Vec<PathBuf> {
    let (mut folders, mut pages) = (vec![package_dir().join("../docs")], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("the folder stays").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The folder of this package.
pub fn package_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Checks that `text` contains all `parts`.
///
/// # Panics
/// If a part is missing. The message shows the part and the text.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in this text:\n{text}");
    }
}
