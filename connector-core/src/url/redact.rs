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
/// Works on any text: one that does not parse as a URL may still hold a password, and ends up in an error message.
///
/// ```
/// use connector_core::redact;
/// assert_eq!(redact("redis://u:p@h:1?ssl=1&password=x"), "redis://u:***@h:1?ssl=1&password=***");
/// assert_eq!(redact("audit://h:1?actual=redis%3A%2F%2Fu%3Ap%40h%3A2"), "audit://h:1?actual=redis://u:***@h:2");
/// ```
pub fn redact(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return redact_malformed(text);
    };
    let (before, query) = rest.split_once('?').map_or((rest, None), |(b, q)| (b, Some(q)));
    let before = redact_userinfo(before);
    // A password with an unescaped `?` in it puts the `@` behind the question mark.
    let (before, query) = match query {
        Some(q) if misplaced_at(&before, q) => (Cow::Owned(format!("{}***{}", user_part(&before), after_at(q))), None),
        other => (before, other),
    };
    let query = query.map(redact_query);
    if matches!(before, Cow::Borrowed(_)) && query.as_ref().is_none_or(|q| matches!(q, Cow::Borrowed(_))) {
        return Cow::Borrowed(text);
    }
    let mut out = format!("{scheme}://{before}");
    if let Some(query) = query {
        let _ = write!(out, "?{query}");
    }
    Cow::Owned(out)
}

/// What lost its `://` (`redis//user:password@host`, `user:password@host`) was meant to be a URL all the same.
fn redact_malformed(text: &str) -> Cow<'_, str> {
    match (text.find(':'), text.rfind('@')) {
        (Some(colon), Some(at)) if colon + 1 < at && !text.contains(char::is_whitespace) => {
            Cow::Owned(format!("{}:***{}", &text[..colon], &text[at..]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// `user:password@host/path` -> `user:***@host/path`.
///
/// The password ends at the authority's last `@`. If the authority has none but its port is no number, the password
/// holds an unescaped slash: then it ends at the last `@` of all.
fn redact_userinfo(text: &str) -> Cow<'_, str> {
    let authority_end = text.find('/').unwrap_or(text.len());
    let port_is_number =
        text[..authority_end].rsplit_once(':').is_none_or(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
    let at = match text[..authority_end].rfind('@') {
        Some(at) => Some(at),
        None if !port_is_number => text.rfind('@'),
        None => None,
    };
    match at.and_then(|at| text[..at].find(':').map(|colon| (colon, at))) {
        Some((colon, at)) if colon + 1 < at => Cow::Owned(format!("{}:***{}", &text[..colon], &text[at..])),
        _ => Cow::Borrowed(text),
    }
}

fn misplaced_at(before: &str, query: &str) -> bool {
    let authority = before.split('/').next().unwrap_or_default();
    !before.contains('@')
        && authority.rsplit_once(':').is_some_and(|(_, p)| !p.chars().all(|c| c.is_ascii_digit()))
        && query.contains('@')
}

fn user_part(before: &str) -> &str {
    &before[..before.find(':').map_or(0, |i| i + 1)]
}

fn after_at(query: &str) -> &str {
    &query[query.rfind('@').unwrap_or(0)..]
}

fn redact_query(query: &str) -> Cow<'_, str> {
    let hide = |name: &str, value: &str| -> Option<String> {
        if value.is_empty() {
            None
        } else if is_secret_name(name) {
            Some("***".to_owned())
        } else {
            // A URL within a URL.
            match redact(value) {
                Cow::Owned(redacted) => Some(redacted),
                Cow::Borrowed(_) => None,
            }
        }
    };
    if !form_urlencoded::parse(query.as_bytes()).any(|(name, value)| hide(&name, &value).is_some()) {
        return Cow::Borrowed(query);
    }
    let mut out = String::new();
    for pair in query.split('&') {
        if !out.is_empty() {
            out.push('&');
        }
        let decoded = form_urlencoded::parse(pair.as_bytes()).next();
        match decoded.as_ref().and_then(|(name, value)| Some((name, hide(name, value)?))) {
            Some((name, hidden)) => {
                let _ = write!(out, "{name}={hidden}");
            }
            None => out.push_str(pair),
        }
    }
    Cow::Owned(out)
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
            ("fs://h:0/tmp/a@b", "fs://h:0/tmp/a@b"),
            ("not a url", "not a url"),
            ("redis//u:pw@h:1", "redis//u:***@h:1"),
            ("redis:u:pw@h:1", "redis:***@h:1"),
            ("m@1@0@ff@half", "m@1@0@ff@half"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }
}
