//! Remote URLs, read as LMCache reads them and never shown with a secret in them.
//!
//! The grammar is `scheme://[user[:password]@]host:port[,host:port..]/path?query`. The `url` crate reads hosts, ports
//! and queries. The path stays as written: LMCache does not decode it, and `url` would fold `..` and encode spaces.
//!
//! Source: `parse_remote_url` of LMCache 0.5.6; its answers are the test vectors in `remote_urls.json`.

mod redact;
mod secrets;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use url::form_urlencoded;

use crate::{Error, ErrorKind, Result, registry};
pub use redact::redact;
pub(crate) use redact::{is_harmless, is_like_a_url};
use redact::{known_scheme, scheme_alone, shown, shown_path, shown_place};

/// A host and its port as the URL names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// In lower case; an IPv6 address without its brackets.
    pub host: String,
    /// `None` if the URL gives none.
    pub port: Option<u16>,
}

/// A parsed remote URL.
///
/// `Display` and `Debug` show only the parts that cannot hold a secret: see [`redact`]. [`expose`](Self::expose) gives
/// the text as written. Cheap to clone.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// let url: connector_core::RemoteUrl = "redis://user:hunter2@H:6379/2?timeout=3".parse()?;
/// assert_eq!((url.scheme(), url.host(), url.port(), url.path()), ("redis", Some("h"), Some(6379), "/2"));
/// assert_eq!(url.query("timeout"), Some("3"));
/// assert_eq!(url.to_string(), "redis://***", "no linked crate serves `redis`, so its options are not known");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemoteUrl(Arc<Parts>);

struct Parts {
    text: String,
    /// Where the authority ends in `text`.
    authority_end: usize,
    scheme: String,
    hosts: Vec<HostPort>,
    path: String,
    username: Option<String>,
    password: Option<String>,
    query: Vec<(String, String)>,
    fragment: Option<String>,
}

impl RemoteUrl {
    /// Reads a URL.
    ///
    /// A URL may lack host and port, as `fs:///kv` does. A connector that needs them calls
    /// [`require_host_port`](Self::require_host_port).
    ///
    /// # Errors
    /// `InvalidUrl` for a text without a scheme, or with a port that is not a number up to 65535. Also for spaces or
    /// control characters around or inside the authority.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why: String| {
            let message = format!("`{}` is not a remote URL: {why}", scheme_alone(text));
            Error::new(ErrorKind::InvalidUrl, message).with_hint(how_to_write(text))
        };
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(fail(format!("it holds the control character {c:?}")));
        }
        if text.trim() != text {
            return Err(fail("it starts or ends with a space".into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let Some(scheme) = known_scheme(text) else { return Err(fail("it has no `scheme://`".into())) };
            let message =
                format!("a text that starts with `{scheme}` is not a remote URL: no `://` follows the scheme");
            return Err(Error::new(ErrorKind::InvalidUrl, message).with_hint(how_to_write(text)));
        };
        if !is_scheme(scheme) {
            return Err(fail("a scheme is letters, digits, `+`, `-` and `.`, and starts with a letter".into()));
        }
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
        if fragment.is_some_and(|fragment| fragment.contains('@')) {
            return Err(fail("an `@` follows a `#`; write the `#` of a password as `%23`".into()));
        }
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before_query.find('/').map_or((before_query, ""), |i| before_query.split_at(i));
        let (userinfo, hosts) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
        let (username, password) = match userinfo.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            None => (None, None),
            Some((user, "")) => (some(user), None),
            Some((user, password)) => (some(user), some(password)),
        };
        let hosts = match hosts {
            "" => Vec::new(),
            several => several.split(',').map(|one| parse_host(one).map_err(fail)).collect::<Result<_>>()?,
        };
        let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Ok(Self(Arc::new(Parts {
            text: text.to_owned(),
            authority_end: scheme.len() + "://".len() + authority.len(),
            scheme: scheme.to_ascii_lowercase(),
            hosts,
            path: path.to_owned(),
            username,
            password,
            query,
            fragment: fragment.map(str::to_owned),
        })))
    }

    /// The scheme in lower case: `redis`.
    pub fn scheme(&self) -> &str {
        &self.0.scheme
    }

    /// All hosts, in the order written. Empty for `fs:///kv`.
    pub fn hosts(&self) -> &[HostPort] {
        &self.0.hosts
    }

    /// The first host: lower case, an IPv6 address without brackets.
    pub fn host(&self) -> Option<&str> {
        self.0.hosts.first().map(|h| h.host.as_str())
    }

    /// The first host's port.
    pub fn port(&self) -> Option<u16> {
        self.0.hosts.first().and_then(|h| h.port)
    }

    /// The path as written, with its leading slash and nothing decoded; empty if there is none.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The user name as written, nothing decoded.
    pub fn username(&self) -> Option<&str> {
        self.0.username.as_deref()
    }

    /// The password as written, nothing decoded. Do not print it.
    pub fn password(&self) -> Option<&str> {
        self.0.password.as_deref()
    }

    /// The first value of a query parameter, decoded. A parameter without a value counts as absent.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query_pairs().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All query parameters that have a value, decoded, in the order written. Like Python's `parse_qs`, it leaves out
    /// parameters without a value (`a=` and `a`).
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all_pairs().filter(|(_, value)| !value.is_empty())
    }

    /// All query parameters, also those without a value.
    pub(crate) fn all_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.query.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Path, query and fragment as written.
    fn behind_authority(&self) -> &str {
        &self.0.text[self.0.authority_end..]
    }

    fn raw_query(&self) -> &str {
        let behind = self.behind_authority().split('#').next().unwrap_or_default();
        behind.split_once('?').map_or("", |(_, query)| query)
    }

    /// Whether an unescaped `/`, `?` or `#` may have cut a password, so that a piece of it is in another part of the
    /// URL.
    pub fn may_hold_a_loose_secret(&self) -> bool {
        self.fragment().is_some() || self.behind_authority().contains('@')
    }

    /// The text behind the first `#`, if there is one. LMCache drops it silently. kvconn refuses such a URL, because
    /// the text may be meant as a part of the path or of the options.
    pub(crate) fn fragment(&self) -> Option<&str> {
        self.0.fragment.as_deref()
    }

    /// The text as given, with its secrets: for the connection, not for a log.
    pub fn expose(&self) -> &str {
        &self.0.text
    }

    /// The hosts and the path, as [`redact`] shows them: `h:6379/2`. Empty if the URL has neither.
    pub(crate) fn place(&self) -> String {
        shown_place(self)
    }

    /// The one host and its port.
    ///
    /// # Errors
    /// `InvalidUrl` if the host or the port is missing, or if there are several hosts.
    pub fn require_host_port(&self) -> Result<(&str, u16)> {
        let missing = |what: &str| {
            Error::new(ErrorKind::InvalidUrl, format!("`{self}` has no {what}")).with_hint(format!(
                "write `{}://host:port{}`; a store without a port takes `:0`",
                self.scheme(),
                shown_path(self)
            ))
        };
        match self.hosts() {
            [] => Err(missing("host")),
            [one] => Ok((&one.host, one.port.ok_or_else(|| missing("port"))?)),
            several => Err(Error::new(
                ErrorKind::InvalidUrl,
                format!("only one host is supported here, but `{self}` names {}", several.len()),
            )),
        }
    }
}

/// The form of a URL, for the error of a text that is not a URL.
fn how_to_write(text: &str) -> String {
    if text.starts_with(['/', '.', '~']) {
        return "for a directory write `fs:///path`".to_owned();
    }
    let Some(scheme) = known_scheme(text) else {
        return "write `scheme://host:port/path?option=value`, as in `redis://127.0.0.1:6379`".to_owned();
    };
    let example = registry::example_of(&scheme).unwrap_or("scheme://host:port/path?option=value");
    // A path is shown only for a store without host and password.
    if let Some(path) = text.split_once(":/").map(|(_, path)| path.trim_start_matches('/'))
        && example.starts_with(&format!("{scheme}:///"))
        && !text.contains("://")
        && !path.is_empty()
        && is_harmless(path)
    {
        return format!("write `{scheme}:///{path}`");
    }
    let of_a_password = if example.contains('@') {
        ", with `/`, `?`, `#` and `@` of a password as `%2F`, `%3F`, `%23` and `%40`"
    } else {
        ""
    };
    format!("write it as in `{example}`{of_a_password}")
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// One `host[:port]`, parsed by the `url` crate, which knows IPv6 and the characters of a host.
fn parse_host(text: &str) -> Result<HostPort, String> {
    if text.is_empty() {
        return Err("a host is empty".into());
    }
    // The `url` crate drops spaces at the end and all behind a backslash, so that `h:1 ` would be port 1.
    if text.contains(|c: char| c.is_whitespace() || c == '\\') {
        return Err("a host holds a space or a backslash".to_owned());
    }
    // The `url` crate accepts `h:`. But the `/` of `redis://u:/pw@h:1` belongs to a password, not to a path.
    if text.ends_with(':') {
        return Err("the port is not a number from 0 to 65535".into());
    }
    let parsed = url::Url::parse(&format!("x://{text}")).map_err(|e| match e {
        url::ParseError::InvalidPort => "the port is not a number from 0 to 65535".to_owned(),
        url::ParseError::EmptyHost => "the host is missing".to_owned(),
        other => format!("its host is malformed ({other})"),
    })?;
    let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host).to_owned();
    Ok(HostPort { host, port: parsed.port() })
}

impl FromStr for RemoteUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// An option of this type holds the URL of another store.
impl<'de> Deserialize<'de> for RemoteUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)?;
        if url.fragment().is_some() {
            return Err(de::Error::custom(format_args!(
                "`{url}` has a fragment (`#..`); write `%23` for a literal `#`"
            )));
        }
        Ok(url)
    }
}

impl JsonSchema for RemoteUrl {
    fn schema_name() -> Cow<'static, str> {
        "RemoteUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "url": true })
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self))
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteUrl(\"{self}\")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_neither_folded_nor_decoded() {
        let url = RemoteUrl::parse("fs://h:0/tmp/../a b%20c/模型").unwrap();
        assert_eq!(url.path(), "/tmp/../a b%20c/模型");
    }

    #[test]
    fn several_hosts_are_kept_and_refused_where_one_is_wanted() {
        let url = RemoteUrl::parse("redis-sentinel://h1:1,h2:2/mymaster").unwrap();
        assert_eq!(url.hosts().len(), 2);
        assert!(url.require_host_port().unwrap_err().to_string().contains("only one host"));
    }

    #[test]
    fn a_bad_url_says_why_and_hides_the_password() {
        for (text, why) in [
            ("noscheme", "no `scheme://`"),
            ("1x://h:1", "starts with a letter"),
            ("redis://u:hunter2@h:99999", "not a number from 0 to 65535"),
            ("redis://u:hunter2@h:1\n", "control character"),
            (" redis://h:1", "space"),
            ("redis://u:hunt/er2@h:1", "not a number"),
            ("redis://u:hunter2@[::1", "malformed"),
            ("redis://u:hunter2@,h:1", "a host is empty"),
            ("redis://u:1#hunter2@h:1", "write the `#` of a password as `%23`"),
            ("redis://h:1 /0", "a host holds a space"),
            ("redis://h:\\/hunter2@h:1", "a host holds a space or a backslash"),
            ("redis://u:/hunter2@h:1", "not a number from 0 to 65535"),
        ] {
            let message = RemoteUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
            assert!(!message.contains("er2") && !message.contains('\n'), "{text}: {message}");
        }
    }
}
