//! The text of a URL without its secrets, made from the parsed parts.
//!
//! Every part is hidden unless kvconn knows that it is not a secret. So a password that was written in a wrong place,
//! or with an unescaped `/`, `?` or `#`, stays hidden, too.

use std::fmt::Write;

use url::form_urlencoded;

use super::RemoteUrl;
use crate::adapter::CONNECTOR_NAME;
use crate::layer::is_layer_option;
use crate::registry::{self, ConnectorEntry, UrlForm, is_identifier};

const HIDDEN: &str = "***";

/// The text of a URL as errors and logs show it.
///
/// It has the scheme, host and port, `***` for user and password, and the path if the [entry](crate::registry) says
/// that the connector's URLs have one. In the query it has the values of options that the connector declares, except
/// for secrets. An option of the type [`RemoteUrl`] is shown by the same rule. All else is `***`.
///
/// A text without any of `:@?=#&%` is shown as it is, because it is not even a piece of a URL. The text of a PEM file is
/// `***`, because it may be a private key. Any other text that is not a URL is shown as its scheme and `***`. The same holds for a URL that has a fragment, an `@` behind the host, or
/// a scheme that no linked crate serves.
///
/// ```
/// use connector_core::redact;
/// assert_eq!(redact("plugin://fs.primary?timeout_ms=500"), "plugin://fs.primary?timeout_ms=500");
/// assert_eq!(redact("plugin://fs.primary?password=hunter2"), "plugin://fs.primary?***");
/// assert_eq!(redact("plugin://u:hunter2@name"), "plugin://***@name");
/// assert_eq!(redact("plugin:u:hunter2@name"), "plugin://***");
/// assert_eq!(redact("u:hunter2@name"), "***");
/// assert_eq!(redact("/var/cache/kv"), "/var/cache/kv");
/// assert_eq!(redact("-----BEGIN PRIVATE KEY-----"), "***");
/// ```
pub fn redact(text: &str) -> String {
    RemoteUrl::parse(text).map_or_else(|_| scheme_alone(text), |url| url.to_string())
}

/// The shown form of a text that is not a URL.
pub(super) fn scheme_alone(text: &str) -> String {
    if is_harmless(text) {
        // On one line.
        let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        return text.chars().map(escaped).collect();
    }
    known_scheme(text).map_or_else(|| HIDDEN.to_owned(), |scheme| format!("{scheme}://{HIDDEN}"))
}

/// The scheme that a text starts with, if kvconn knows it.
pub(super) fn known_scheme(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))?;
    let (scheme, rest) = text.split_at(end);
    let scheme = scheme.to_ascii_lowercase();
    (rest.starts_with([':', ';']) || rest.starts_with("//")).then_some(scheme).filter(|s| registry::knows_scheme(s))
}

/// Whether a text was probably meant to be a URL.
pub(crate) fn is_like_a_url(text: &str) -> bool {
    text.contains("://") || (text.contains('?') && !text.contains('@')) || known_scheme(text).is_some()
}

pub(super) fn shown(url: &RemoteUrl) -> String {
    let mut out = format!("{}://", url.scheme());
    if url.may_hold_a_loose_secret() || !registry::knows_scheme(url.scheme()) {
        out.push_str(HIDDEN);
        return out;
    }
    if url.username().or(url.password()).is_some() {
        let _ = write!(out, "{HIDDEN}@");
    }
    push_place(url, &mut out);
    for (n, pair) in url.raw_query().split('&').filter(|pair| !pair.is_empty()).enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        out.push_str(&shown_pair(url, pair));
    }
    out
}

/// Hosts and path without a secret: `h:6379/2`. Empty if the URL has neither, `***` if a secret may be in them.
pub(super) fn shown_place(url: &RemoteUrl) -> String {
    let mut out = String::new();
    match url.may_hold_a_loose_secret() || !registry::knows_scheme(url.scheme()) {
        true => out.push_str(HIDDEN),
        false => push_place(url, &mut out),
    }
    out
}

fn push_place(url: &RemoteUrl, out: &mut String) {
    for (n, host) in url.hosts().iter().enumerate() {
        out.push_str(if n > 0 { "," } else { "" });
        let _ = if host.host.contains(':') { write!(out, "[{}]", host.host) } else { write!(out, "{}", host.host) };
        if let Some(port) = host.port {
            let _ = write!(out, ":{port}");
        }
    }
    out.push_str(shown_path(url));
}

/// The path, or `/***` if a password may be a part of it.
pub(super) fn shown_path(url: &RemoteUrl) -> &str {
    let path = url.path();
    let module = path.trim_matches('/');
    let is_shown = match registry::entry_of(url) {
        _ if module.is_empty() => true,
        _ if url.may_hold_a_loose_secret() => false,
        _ if url.scheme() == "external" => module.split('.').all(is_identifier),
        entry => entry.and_then(|entry| UrlForm::of(entry, url.scheme())).is_some_and(|form| form.shows(path)),
    };
    if is_shown { path } else { "/***" }
}

/// One `name=value` of a query. The name is shown only if it is the name of an option.
fn shown_pair(url: &RemoteUrl, pair: &str) -> String {
    let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { return HIDDEN.to_owned() };
    if name == CONNECTOR_NAME && url.scheme() == "external" && is_identifier(&value) {
        return pair.to_owned();
    }
    let schema = registry::entry_of(url).and_then(ConnectorEntry::options);
    let option = schema.and_then(|schema| schema.option(&name));
    if option.is_none() && !is_layer_option(&name) {
        return HIDDEN.to_owned();
    }
    if value.is_empty() {
        return name.into_owned();
    }
    let value = match option {
        _ if schema.is_some_and(|schema| schema.hides(&name)) => HIDDEN,
        Some(option) if option.url => &encode(&redact(&value)),
        _ => shown_value(pair, &value),
    };
    format!("{name}={value}")
}

/// The value as written, unless it may be a URL, with a password.
fn shown_value<'a>(pair: &'a str, decoded: &str) -> &'a str {
    match pair.split_once('=') {
        Some((_, value)) if is_harmless(decoded) => value,
        _ => HIDDEN,
    }
}

/// Whether the value of an option that is not secret can be shown: it is not a URL or a piece of one, encoded or not. It
/// is not the text of a PEM file either, written where the file's name belongs.
pub(crate) fn is_harmless(value: &str) -> bool {
    !value.contains(['@', '%', '?', '=', '#', '&', ':']) && !value.contains("-----BEGIN")
}

/// Percent-encodes what would end a query's value, a URL's authority or a line of a log; everything else stays
/// readable.
fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() || c.is_whitespace() || matches!(c, '&' | '#' | '+' | '%' | '@') {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| {
                let _ = write!(out, "%{byte:02X}");
            });
        } else {
            out.push(c);
        }
    }
    out
}
