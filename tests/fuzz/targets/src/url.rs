//! Remote URLs, and their redacted text.

use connector_core::{RemoteUrl, redact};

use crate::{SECRET, text};

/// Reads a URL and redacts it.
///
/// # Panics
/// If the URL differs from its text, or an error has several lines. Also if the redacted text depends on the password or is a
/// different URL.
pub fn url(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let once = redact(text);
    assert_eq!(redact(&once), once, "a second redaction changes nothing");
    let url = match RemoteUrl::parse(text) {
        Ok(url) => url,
        Err(e) => return assert!(!e.to_string().contains(char::is_control), "{e:?} is not one line of text"),
    };
    assert_eq!(url.expose(), text);
    let shown = url.to_string();
    assert_eq!(shown, once);
    assert_eq!(format!("{url:?}"), format!("RemoteUrl(\"{shown}\")"));
    if let Err(e) = url.require_host_port() {
        assert!(e.to_string().contains(&shown), "{e} does not show {shown}");
    }

    let again =
        RemoteUrl::parse(&shown).unwrap_or_else(|e| panic!("{text:?} is shown as {shown:?}, which is not a URL: {e}"));
    assert_eq!((again.to_string(), again.scheme()), (shown.clone(), url.scheme()));

    if let Some(password) = url.password() {
        let (before, after) = around_password(text, password);
        let other = format!("{before}{SECRET}{after}");
        let other = RemoteUrl::parse(&other).unwrap_or_else(|e| panic!("{other:?} differs only in the password: {e}"));
        assert_eq!(other.password(), Some(SECRET));
        assert_eq!(other.to_string(), shown, "the redacted text must not depend on the password");
    }
}

/// The text before and after the password. The password starts after the authority's first `:` and ends at its last `@`.
fn around_password<'a>(text: &'a str, password: &str) -> (&'a str, &'a str) {
    let authority = text.find("://").expect("a URL") + 3;
    let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |i| authority + i);
    let at = text[..end].rfind('@').expect("a password ends at an `@`");
    let start = authority + text[authority..at].find(':').expect("a password begins at a `:`") + 1;
    assert_eq!(&text[start..at], password);
    (&text[..start], &text[at..])
}
