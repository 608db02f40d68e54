//! What the fuzzer calls: one function for each parser of foreign bytes. Each panics if the parser breaks its word.
//!
//! No code of libFuzzer's is in here, so the tests call the same functions with the corpus on the stable toolchain.
//! Where a format is simple, a second reading of it, written from the format's description and with no eye on the
//! parser, must come to the same verdict and the same values.
#![forbid(unsafe_code)]

mod chunk_header;
mod config;
mod file_name;
mod key;
mod object_key;
mod options;
mod resp_reply;
mod url;

pub use chunk_header::chunk_header;
pub use config::config;
pub use file_name::file_name;
pub use key::key;
pub use object_key::object_key;
pub use options::options;
pub use resp_reply::resp_reply;
pub use url::url;

/// A function that takes whatever the fuzzer makes up.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("url", url),
    ("key", key),
    ("object_key", object_key),
    ("file_name", file_name),
    ("chunk_header", chunk_header),
    ("config", config),
    ("options", options),
    ("resp_reply", resp_reply),
];

/// What stands for a password in the corpora: no parser may show it.
pub(crate) const SECRET: &str = "hunter2";

/// The bytes as text. What is no UTF-8 never gets to a parser of texts.
pub(crate) fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
