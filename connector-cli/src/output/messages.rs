//! Messages on stderr: errors and remarks, as text or as lines of JSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use anstream::AutoStream;
use connectors::{CacheKey, Error, redact};
use serde::Serialize;

use super::{Style, json_escaped, mode, progress};
use crate::escape::escaped;
use crate::exit::Failure;

/// The errors that [`Errors`] prints. It only counts the others.
const SHOWN: usize = 10;

/// An error as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    kind: &'static str,
    message: String,
    /// What to do or to write instead.
    hint: Option<String>,
    /// The key that the error is about.
    key: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind, message: message.into(), hint, key: None }
    }

    /// The chunk of this key does not exist.
    pub(crate) fn missing(key: &CacheKey, connector: &str) -> Self {
        let message = format!("`{key}` is not in {connector}");
        Self { kind: "missing", message, hint: None, key: Some(key.as_str().to_owned()) }
    }
}

impl From<&Error> for Problem {
    fn from(e: &Error) -> Self {
        let hint = e.hint().map(str::to_owned);
        let text = e.to_string();
        let message = hint.as_ref().and_then(|hint| text.strip_suffix(&**hint)?.strip_suffix("; "));
        let message = message.unwrap_or(&text).to_owned();
        Self { kind: e.kind().as_str(), message, hint, key: e.key().map(str::to_owned) }
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        (&e).into()
    }
}

impl From<fmt::Arguments<'_>> for Problem {
    fn from(text: fmt::Arguments<'_>) -> Self {
        Self::new("other", text.to_string(), None)
    }
}

/// A text of the user's, as messages show it: without the secrets of a URL, even of a broken or misplaced one. A key or
/// a path is shown as it is.
pub(crate) fn users(text: &str) -> Cow<'_, str> {
    let is_piece =
        text.contains([':', '?', '#']) && text.contains(['@', '=']) || text.contains('=') && !text.contains('/');
    let is_path = || Path::new(text).exists() || text.parse::<CacheKey>().is_ok();
    let may_be_url = text.contains("://") || is_piece && !is_path();
    if may_be_url { redact(text).into() } else { text.into() }
}

/// Hides the secrets of the URLs that the user wrote, on the command line or in a variable: the error of another crate may
/// repeat a URL that stands in the place of a file.
fn without_secrets(mut text: String) -> String {
    let is_ours = |name: &str| name.starts_with("LMCACHE_") || name.starts_with("KVCONN_");
    let variables = std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy()));
    for given in std::env::args_os().skip(1).chain(variables.map(|(_, value)| value)) {
        let given = given.to_string_lossy();
        let value = given.split_once('=').filter(|(name, _)| name.starts_with('-')).map_or(&*given, |(_, value)| value);
        text = text.replace(value, &users(value));
    }
    text
}

/// Prints an error to stderr, as one line. Ignores a closed stderr.
pub(crate) fn print_error(problem: impl Into<Problem>) {
    let mut problem = problem.into();
    problem.message = without_secrets(problem.message);
    problem.hint = problem.hint.map(without_secrets);
    if mode::is_json() {
        return print_json(&serde_json::json!({ "error": problem }));
    }
    let Style { red, plain, .. } = Style::of(AutoStream::choice(&io::stderr()));
    let Problem { message, hint, .. } = problem;
    let text = hint.map_or_else(|| message.clone(), |hint| format!("{message}; {hint}"));
    progress::above(|| {
        let _ = writeln!(io::stderr(), "{red}kvconn:{plain} {}", escaped(&text));
    });
}

/// Prints a remark to stderr, as one line. `--quiet` leaves it out.
pub(crate) fn print_note(text: impl fmt::Display) {
    let text = text.to_string();
    if mode::is_quiet() {
        return;
    }
    if mode::is_json() {
        return print_json(&serde_json::json!({ "note": text }));
    }
    progress::above(|| {
        let _ = writeln!(io::stderr(), "kvconn: {}", escaped(&text));
    });
}

/// Prints one line of JSON to stderr.
pub(crate) fn print_json(value: &serde_json::Value) {
    let _ = writeln!(io::stderr(), "{}", json_escaped(&value.to_string()));
}

/// The errors of a batch: prints the first ten, and the number of the others at the end.
#[derive(Default)]
pub(crate) struct Errors {
    all: usize,
    last: Option<Error>,
}

impl Errors {
    /// Counts the error, and prints it if it is one of the first ten.
    pub(crate) fn add(&mut self, e: Error) {
        self.all += 1;
        if self.all <= SHOWN {
            print_error(&e);
        }
        self.last = Some(e);
    }

    /// The number of errors so far.
    pub(crate) fn len(&self) -> usize {
        self.all
    }

    /// Prints the number of errors that are not shown. Gives the failure, whose exit code is that of the last error, or
    /// `None` without an error.
    pub(crate) fn finish(self) -> Option<Failure> {
        let last = self.last?;
        if self.all > SHOWN {
            let more = self.all - SHOWN;
            let noun = if more == 1 { "error" } else { "errors" };
            print_error(format_args!("{more} more {noun}, {} in all", self.all));
        }
        Some(Failure::Shown(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_paths_of_the_user_are_shown_and_urls_are_not() {
        for text in
            ["opt@1@0@1f2e@half", "llama3:8b@1@0@1f2e@half", "/data/day=1/opt@1.bin", "many", "4 parsecs", "a b"]
        {
            assert_eq!(users(text), text);
        }
        for text in [
            "redis://u:hunter2@h:1",
            "redis:u:hunter2@h:1",
            "u:hunter2@h",
            "redis//u:hunter2@h:1",
            "/tmp/u:hunter2@h",
            "redis://u:hunter2@1@0@ff@half",
        ] {
            assert!(!users(text).contains("hunter2"), "{}", users(text));
        }
    }
}
