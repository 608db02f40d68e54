//! Names of stores: `@prod` stands for `[stores.prod]` in a file of the user's, and `@` for the store of `KVCONN_URL`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use connectors::registry::did_you_mean;
use connectors::{Error, ErrorKind, RemoteUrl, Result, redact};
use toml::{Table, Value};

use crate::output::{print_note, users};

/// The variable that holds the URL or the name of the default store.
pub(crate) const URL_VARIABLE: &str = "KVCONN_URL";
/// The variable that names the file of stores.
const FILE_VARIABLE: &str = "KVCONN_CONFIG";
/// The store that `@` stands for if the variable is not set.
const DEFAULT: &str = "default";
/// The most bytes of the file of stores.
const MOST_BYTES: u64 = 1 << 20;

/// A store on the command line: a URL, `@NAME` or `@`. Here it is a URL in every case.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl(String);

impl StoreUrl {
    /// The store of a command whose URL may be left out: `@` stands for it then.
    pub(crate) fn or_default(given: &Option<Self>) -> Result<Self> {
        given.clone().map_or_else(|| default().map(Self), Ok)
    }
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix('@') {
            None => Ok(Self(text.to_owned())),
            Some("") => default().map(Self),
            Some(name) => Stores::load()?.url(name).map(Self),
        }
    }
}

impl Deref for StoreUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Without secrets.
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(self))
    }
}

/// The value of `KVCONN_URL`, if it has one.
///
/// # Errors
/// `InvalidOption` if it is not UTF-8.
pub(crate) fn default_text() -> Result<Option<String>> {
    let Some(value) = std::env::var_os(URL_VARIABLE).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.into_string().map_err(|_| {
        wrong(format!("`{URL_VARIABLE}` is not UTF-8")).with_hint("percent-encode the other bytes of the URL")
    })?;
    Ok(Some(text))
}

fn default() -> Result<String> {
    match default_text()? {
        Some(text) => match text.strip_prefix('@') {
            None => Ok(text),
            Some("") => Err(wrong(format!("`{URL_VARIABLE}` is `@`, which stands for `{URL_VARIABLE}`"))
                .with_hint("write the store's URL, or `@NAME`")),
            Some(name) => Stores::load()?.url(name),
        },
        None => {
            let stores = Stores::load_if_there()?;
            match stores.filter(|stores| stores.stores.contains_key(DEFAULT)) {
                Some(stores) => stores.url(DEFAULT),
                None => Err(Error::new(ErrorKind::InvalidUrl, "no store is given").with_hint(format!(
                    "write its URL, or set `{URL_VARIABLE}`, or name a store `{DEFAULT}` in the file of stores"
                ))),
            }
        }
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOption, text.into())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

/// The file of stores.
#[derive(Debug)]
pub(crate) struct Stores {
    path: PathBuf,
    /// A table for each name.
    stores: Table,
}

impl Stores {
    /// # Errors
    /// Also if the file does not exist.
    fn load() -> Result<Self> {
        Self::load_if_there()?.ok_or_else(|| {
            let text = match path() {
                Some(path) => format!("the file of stores `{}` does not exist", shown(&path)),
                None => format!("neither `{FILE_VARIABLE}` nor `HOME` says where the file of stores is"),
            };
            wrong(text).with_hint("write it with `[stores.NAME]` and `url = \"..\"`, or write the store's URL")
        })
    }

    /// `None` if the file does not exist, unless `KVCONN_CONFIG` names it.
    pub(crate) fn load_if_there() -> Result<Option<Self>> {
        let Some(path) = path() else { return Ok(None) };
        let text = match read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named_path().is_none() => {
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let text = format!("the file of stores `{}` is not UTF-8", shown(&path));
                return Err(wrong(text).with_hint("save the file as UTF-8"));
            }
            Err(e) => return Err(Error::io(e, format_args!("read the file of stores `{}`", shown(&path)))),
        };
        Self::parse(path, &text).map(Some)
    }

    /// # Errors
    /// `InvalidOption`, with the line of an error of TOML. The text of the file may hold a secret, so no error shows it.
    fn parse(path: PathBuf, text: &str) -> Result<Self> {
        let mut all: Table = toml::from_str(text).map_err(|e: toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1));
            let column = before[start..].chars().count() + 1;
            wrong(format!("`{}`, line {line}, column {column}: {}", shown(&path), e.message().replace('\n', ", ")))
        })?;
        let stores = all.remove("stores");
        if let Some(name) = all.keys().next() {
            return Err(wrong(format!("`{}`: kvconn does not know the key `{}`", shown(&path), users(name)))
                .with_hint("write each store as `[stores.NAME]` with `url = \"..\"`"));
        }
        match stores {
            None => Ok(Self { path, stores: Table::new() }),
            Some(Value::Table(stores)) => Ok(Self { path, stores }),
            Some(_) => Err(wrong(format!("`{}`: `stores` is not a table", shown(&path)))
                .with_hint("write each store as `[stores.NAME]` with `url = \"..\"`")),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.stores.keys().map(String::as_str)
    }

    /// The URL of a store, with its options in the query.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown name, and for a table that is not a store.
    pub(crate) fn url(&self, name: &str) -> Result<String> {
        let Some(store) = self.stores.get(name) else {
            let known = self.names().collect::<Vec<_>>();
            let hint = match &known[..] {
                [] => "it names no store; write `[stores.NAME]` with `url = \"..\"`".to_owned(),
                known => {
                    format!("it has {}", known.iter().map(|name| format!("`@{name}`")).collect::<Vec<_>>().join(", "))
                }
            };
            let guess = did_you_mean(name, known.into_iter());
            let text = format!("`{}` has no store `{}`{guess}", shown(&self.path), users(name));
            return Err(wrong(text).with_hint(hint));
        };
        let place = format!("`{}`, store `{name}`", shown(&self.path));
        self.url_of(store).map_err(|e| e.at(place))
    }

    fn url_of(&self, store: &Value) -> Result<String> {
        let table = store.as_table().ok_or_else(|| wrong("it is not a table").with_hint("write `[stores.NAME]`"))?;
        let text = table.get("url").ok_or_else(|| wrong("it has no `url`").with_hint("write `url = \"..\"`"))?;
        let text = text.as_str().ok_or_else(|| wrong("`url` is not a text").with_hint("write `url = \"..\"`"))?;
        if text.starts_with('@') {
            return Err(wrong("`url` is the name of a store").with_hint("write its URL"));
        }
        let url = RemoteUrl::parse(text)?;
        let mut holds_secret = url.has_written_secret();
        let mut full = text.to_owned();
        for (name, value) in table.iter().filter(|(name, _)| *name != "url") {
            if url.query(name).is_some() {
                return Err(wrong(format!("`{name}` is in the query of `url` and beside it")).with_hint("remove one"));
            }
            if url.is_secret_option(name) {
                return Err(wrong(format!("`{name}` is a secret"))
                    .with_hint(format!("write `{name}_file = \"/path\"` with the path of a file that holds it")));
            }
            let value = as_text(value).ok_or_else(|| {
                wrong(format!("`{name}` is neither a text, a number, `true` nor `false`"))
                    .with_hint("write its value as the query of a URL has it")
            })?;
            holds_secret |= RemoteUrl::parse(&value).is_ok_and(|url| url.has_written_secret());
            full.push(if full.contains('?') { '&' } else { '?' });
            full.push_str(&format!("{}={}", encoded(name), encoded(&value)));
        }
        if holds_secret {
            self.warn_if_others_may_read();
        }
        Ok(full)
    }

    #[cfg(unix)]
    fn warn_if_others_may_read(&self) {
        use std::os::unix::fs::PermissionsExt;
        use std::sync::Once;
        static ONCE: Once = Once::new();
        let mode = std::fs::metadata(&self.path).map_or(0, |file| file.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let path = shown(&self.path);
            ONCE.call_once(|| {
                print_note(format_args!(
                    "`{path}` holds a secret, and its mode {mode:o} lets others use it; run `chmod 600 {path}`, or write \
                     `password_file`"
                ));
            });
        }
    }

    #[cfg(not(unix))]
    fn warn_if_others_may_read(&self) {}
}

/// The file that the user's variable names.
fn named_path() -> Option<PathBuf> {
    path_in(FILE_VARIABLE)
}

fn path_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The path of the file of stores.
fn path() -> Option<PathBuf> {
    named_path().or_else(|| {
        let base = path_in("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let base = base.or_else(|| Some(path_in("HOME")?.join(".config")))?;
        Some(base.join("kvconn").join("config.toml"))
    })
}

fn shown(path: &Path) -> String {
    users(&path.to_string_lossy()).into_owned()
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(n) => Some(n.to_string()),
        Value::Float(n) => Some(n.to_string()),
        Value::Boolean(is) => Some(is.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// The text as a part of a URL's query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte.into()),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(text: &str) -> Result<Stores> {
        Stores::parse("/stores.toml".into(), text)
    }

    #[test]
    fn the_options_of_a_store_are_the_query_of_its_url() {
        let text = "[stores.a]\nurl = 'memory://x'\ncapacity = 4096\nnamespace = 'a b&c'\n\
                    [stores.b]\nurl = 'memory://x?capacity=1'\ntimeout_ms = 5";
        let stores = stores(text).expect("it is TOML");
        assert_eq!(stores.url("a").expect("it is a store"), "memory://x?capacity=4096&namespace=a%20b%26c");
        assert_eq!(stores.url("b").expect("it is a store"), "memory://x?capacity=1&timeout_ms=5");
    }

    #[test]
    fn an_error_of_toml_has_its_line_and_none_of_the_text() {
        for (text, line) in [("\n[stores.a]\nurl = 'redis://:hunter2@h:1\n", "line 3"), ("a = hunter2", "line 1")] {
            let e = stores(text).expect_err("it is not TOML").to_string();
            assert!(e.contains(line) && e.contains("/stores.toml") && !e.contains("hunter2"), "{e}");
        }
    }

    #[test]
    fn a_table_that_is_not_a_store_is_an_error_that_names_it() {
        for (text, words) in [
            ("[stores.a]", "has no `url`"),
            ("[stores.a]\nurl = 1", "`url` is not a text"),
            ("[stores]\na = 1", "not a table"),
            ("[stores.a]\nurl = '@b'", "write its URL"),
            ("[stores.a]\nurl = 'memory://x'\ncapacity = [1]", "`capacity` is neither"),
            ("[stores.a]\nurl = 'memory://x?capacity=1'\ncapacity = 2", "`capacity` is in the query"),
        ] {
            let e = stores(text).expect("it is TOML").url("a").expect_err(text).to_string();
            assert!(e.contains(words) && e.contains("store `a`"), "{e}");
        }
        for text in ["store = 1", "stores = 1"] {
            let e = stores(text).expect_err(text).to_string();
            assert!(e.contains("[stores.NAME]"), "{e}");
        }
    }
}
