//! Remote URLs, and what is shown of them.

use connector_core::{RemoteUrl, redact};

use crate::{SECRET, text};

/// Reads a URL and shows it.
///
/// # Panics
/// If the URL is not its text, what is shown of it depends on the password or is another URL, or an error is no single
/// line.
pub fn url(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let once = redact(text);
    assert_eq!(redact(&once), once, "what is hidden stays hidden, and nothing else is");
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

    let again = RemoteUrl::parse(&shown).unwrap_or_else(|e| panic!("{text:?} is shown as {shown:?}, no URL: {e}"));
    assert_eq!(again.to_string(), shown);
    assert_eq!((again.scheme(), again.username(), again.hosts()), (url.scheme(), url.username(), url.hosts()));
    // A path may hold a URL with a password of its own.
    if !url.path().contains("://") {
        assert_eq!(again.path(), url.path());
    }

    if let Some(password) = url.password() {
        assert_eq!(again.password(), Some("***"));
        let (before, after) = around_password(text, password);
        let other = format!("{before}{SECRET}{after}");
        let other = RemoteUrl::parse(&other).unwrap_or_else(|e| panic!("{other:?} differs in the password only: {e}"));
        assert_eq!(other.password(), Some(SECRET));
        assert_eq!(other.to_string(), shown, "what is shown depends on the password");
    }
}

/// What stands before and behind the password: it begins after the authority's first `:`, and ends at its last `@`.
fn around_password<'a>(text: &'a str, password: &str) -> (&'a str, &'a str) {
    let authority = text.find("://").expect("a URL") + 3;
    let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |i| authority + i);
    let at = text[..end].rfind('@').expect("a password ends at an `@`");
    let start = authority + text[authority..at].find(':').expect("a password begins at a `:`") + 1;
    assert_eq!(&text[start..at], password);
    (&text[..start], &text[at..])
}
