//! Takes the secrets out of a URL, or of a text that was meant to be one.

use std::borrow::Cow;
use std::fmt::Write;

use url::form_urlencoded;

/// Parts of a query parameter's name that make its value a secret.
const SECRET_NAMES: [&str; 15] = [
    "password",
    "passwd",
    "secret",
    "token",
    "access_key",
    "accesskey",
    "api_key",
    "apikey",
    "credential",
    "signature",
    "private_key",
    "account_key",
    "shared_key",
    "connection_string",
    "passphrase",
];

/// Whether a parameter or option of this name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    ["sas", "auth", "pwd", "pass"].contains(&name.as_str()) || SECRET_NAMES.iter().any(|s| name.contains(s))
}

/// The same text with every password and secret query value as `***`.
///
/// Works on any text: a text that does not parse as a URL may still hold a password, and an error message shows it.
///
/// ```
/// use connector_core::redact;
/// assert_eq!(redact("redis://u:p@h:1?ssl=1&password=x"), "redis://u:***@h:1?ssl=1&password=***");
/// assert_eq!(redact("audit://h:1?actual=redis%3A%2F%2Fu%3Ap%40h%3A2"), "audit://h:1?actual=redis://u:***@h:2");
/// ```
pub fn redact(text: &str) -> Cow<'_, str> {
    let Some(scheme_end) = text.find("://") else { return redact_malformed(text) };
    let mut out = String::with_capacity(text.len());
    redact_from(text, scheme_end + 3, false, &mut out);
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// Appends `text` to `out` without the secrets of the URL whose authority starts at `start`, and of the URLs behind
/// it.
///
/// With `open`, an `@` could end a password that seems to have begun, or be part of a fragment. Then each `@` stays
/// encoded.
fn redact_from(text: &str, start: usize, open: bool, out: &mut String) {
    let (scheme, rest) = text.split_at(start);
    out.push_str(scheme);
    let open = open || scheme.contains('#');
    let (rest, open) = match password(rest) {
        Some((from, to)) => {
            let _ = write!(out, "{}***", &rest[..from]);
            (&rest[to..], open)
        }
        None => (rest, open || has_odd_port(authority(rest))),
    };
    let (before, query) = rest.split_once('?').map_or((rest, None), |(b, q)| (b, Some(q)));
    if let Some(next) = before.find("://") {
        return redact_from(rest, next + 3, open, out);
    }
    out.push_str(before);
    let Some(query) = query else { return };
    let (query, fragment) = query.split_once('#').map_or((query, None), |(q, f)| (q, Some(f)));
    let pairs = |text: &str, open| text.split('&').map(|pair| redact_pair(pair, open)).collect::<Vec<_>>().join("&");
    let query = pairs(query, open || before.contains('#'));
    let _ = write!(out, "?{query}");
    match fragment {
        // The end of a secret with an unescaped `#`.
        Some(_) if query.ends_with("=***") => out.push_str("#***"),
        Some(fragment) => out.extend(["#", &pairs(fragment, true)]),
        None => {}
    }
}

/// Hides the password of a URL that lost its `://` (`redis//user:password@host`, `user:password@host`).
fn redact_malformed(text: &str) -> Cow<'_, str> {
    match (text.find(':'), text.rfind('@')) {
        (Some(colon), Some(at)) if colon + 1 < at && !text.contains(char::is_whitespace) => {
            Cow::Owned(format!("{}:***{}", &text[..colon], &text[at..]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// The range of the password in `user:password@host/path?query`.
///
/// It ends at the authority's last `@`. An authority without `@` whose port is not a number has a password with an
/// unescaped `/` or `?`. That password ends at the last `@` of `rest`.
fn password(rest: &str) -> Option<(usize, usize)> {
    let at = match authority(rest).rfind('@') {
        Some(at) => at,
        None if has_odd_port(authority(rest)) => rest.rfind('@')?,
        None => return None,
    };
    let start = rest[..at].find(':')? + 1;
    (start < at).then_some((start, at))
}

fn authority(rest: &str) -> &str {
    &rest[..rest.find(['/', '?']).unwrap_or(rest.len())]
}

/// Whether a host is followed by a port that is not a number, and that may be the start of a password.
fn has_odd_port(authority: &str) -> bool {
    authority.split(',').any(|host| {
        // The colons in an IPv6 address do not start a port.
        let behind_address = host.rfind(']').map_or(host, |end| &host[end..]);
        let port = behind_address.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// `name=value` of a query.
fn redact_pair(pair: &str, encode_at: bool) -> Cow<'_, str> {
    let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { return pair.into() };
    let hidden = if value.is_empty() {
        return pair.into();
    } else if is_secret_name(&name) {
        "***".to_owned()
    } else {
        // A URL within a URL.
        match redact(&value) {
            Cow::Owned(redacted) => encode(&redacted, encode_at),
            Cow::Borrowed(_) => return pair.into(),
        }
    };
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    format!("{name}={hidden}").into()
}

/// Percent-encodes what would end a query's value or a line of a log; everything else stays readable.
fn encode(value: &str, encode_at: bool) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() || c.is_whitespace() || matches!(c, '&' | '#' | '+' | '%') || (c == '@' && encode_at) {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| {
                let _ = write!(out, "%{byte:02X}");
            });
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_secret_is_hidden() {
        for (text, shown) in [
            ("redis://h:1", "redis://h:1"),
            ("redis://u@h:1", "redis://u@h:1"),
            ("redis://:pw@h:1", "redis://:***@h:1"),
            ("redis://u:p@w@h:1/2", "redis://u:***@h:1/2"),
            ("redis://u:p/w@h:1/2", "redis://u:***@h:1/2"),
            ("redis://u:p?w@h:1/2", "redis://u:***@h:1/2"),
            ("redis://u:p/w?w@h:1/2", "redis://u:***@h:1/2"),
            ("azure://h:1/c?account_key=AAA", "azure://h:1/c?account_key=***"),
            ("fs://h:0/a:b?x=a@b", "fs://h:0/a:b?x=a@b"),
            ("redis://u:p%40w@h:1?x=1", "redis://u:***@h:1?x=1"),
            (
                "s3://b:1/p?access_key_id=AK&secret_access_key=SK&x=1",
                "s3://b:1/p?access_key_id=***&secret_access_key=***&x=1",
            ),
            ("tiered://?front=memory://a&back=redis://u:pw@h:1", "tiered://?front=memory://a&back=redis://u:***@h:1"),
            ("tiered://?back=redis%3A%2F%2Fu%3Apw%40h%3A1", "tiered://?back=redis://u:***@h:1"),
            (
                "tiered://?back=redis%3A%2F%2Fu%3Apw%40h%3A1%3Fa=1%26b=%0A&c=1",
                "tiered://?back=redis://u:***@h:1?a=1%26b=%0A&c=1",
            ),
            ("fs://h:0/tmp/a@b", "fs://h:0/tmp/a@b"),
            ("redis://[::1]/a:b@c", "redis://[::1]/a:b@c"),
            ("redis://[::1]:/pw@h:1", "redis://[:***@h:1"),
            ("redis://u:/pw@h:1", "redis://u:***@h:1"),
            ("redis://u:p,w:1/x@h:1", "redis://u:***@h:1"),
            ("redis://u:?p@h:1?password=x", "redis://u:***@h:1?password=***"),
            ("redis://u:pw@a:1,redis://u:pw@b:2/?token=t", "redis://u:***@a:1,redis://u:***@b:2/?token=***"),
            ("redis://h:x/?y=u:pw%40h", "redis://h:x/?y=u:***%40h"),
            ("redis://h:1?a=u:p#/h:x@y", "redis://h:1?a=u:p#/h:x@y"),
            ("redis://h:1?password=a#b&c", "redis://h:1?password=***#***"),
            ("redis://h:1/#?y=u:pw%40h", "redis://h:1/#?y=u:***%40h"),
            ("redis://h:1?&%70assword=x&y", "redis://h:1?&%70assword=***&y"),
            ("not a url", "not a url"),
            ("redis//u:pw@h:1", "redis//u:***@h:1"),
            ("redis:u:pw@h:1", "redis:***@h:1"),
            ("m@1@0@ff@half", "m@1@0@ff@half"),
        ] {
            assert_eq!(redact(text), shown);
            assert_eq!(redact(shown), shown, "what is hidden stays hidden, and nothing else is");
        }
    }
}
