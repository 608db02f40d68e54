//! The functions that the fuzzer calls, one for each parser of foreign bytes. Each panics if the parser is wrong.
//!
//! This crate does not use libFuzzer, so the tests call the same functions with the corpus on the stable toolchain. For a
//! simple format, the target has a second parser, written only from the format's description. Both must give the same result.
#![forbid(unsafe_code)]

mod chunk_header;
mod config;
mod file_name;
mod key;
mod object_key;
mod options;
mod resp_reply;
mod secrets;
mod url;

pub use chunk_header::chunk_header;
pub use config::config;
pub use file_name::file_name;
pub use key::key;
pub use object_key::object_key;
pub use options::options;
pub use resp_reply::resp_reply;
pub use secrets::secrets;
pub use url::url;

/// A function that takes an input of the fuzzer.
pub type Target = fn(&[u8]);

/// All targets, by the name of their corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("url", url),
    ("key", key),
    ("object_key", object_key),
    ("file_name", file_name),
    ("chunk_header", chunk_header),
    ("config", config),
    ("options", options),
    ("resp_reply", resp_reply),
    ("secrets", secrets),
];

/// The password in the corpora. No parser may show it.
pub(crate) const SECRET: &str = "hunter2";

/// The bytes as text. A text parser never gets invalid UTF-8.
pub(crate) fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
