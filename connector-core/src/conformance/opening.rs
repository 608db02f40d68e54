//! Opening: both forms of a connector's URL.

use url::form_urlencoded::byte_serialize;

use super::subject::{Checked, Subject, failed, skip};
use crate::RemoteUrl;
use crate::registry::{self, SchemeOwner};

/// The `external://` form of a short URL.
///
/// # Errors
/// Why the URL has no such form.
pub(super) fn external_form(url: &RemoteUrl) -> Result<String, String> {
    let scheme = url.scheme();
    if scheme == "external" {
        return Err("the URL has the `external://` form".to_owned());
    }
    let Ok(Some(SchemeOwner::Connector(entry))) = registry::find_scheme(scheme) else {
        return Err(format!("`{scheme}://` is not the scheme of a connector"));
    };
    if entry.schemes().first().is_some_and(|first| *first != scheme) {
        return Err(format!("`external://` cannot name `{scheme}://`, a further scheme of the connector"));
    }
    // The text between `://` and the path, as written: user, host and port.
    let authority = url.expose().split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if url.hosts().len() > 1 {
        return Err("an `external://` URL names one host".to_owned());
    }
    let host = if url.host().is_none() { "localhost" } else { "" };
    let port = if url.port().is_none() { ":0" } else { "" };
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let mut text = format!(
        "external://{}{host}{port}/{}/?connector_name={}",
        // A comma would separate hosts.
        authority.replace(',', "%2C"),
        entry.module(),
        entry.name()
    );
    if !url.path().trim_matches('/').is_empty() {
        text += &format!("&path={}", encoded(url.path()));
    }
    for (name, value) in url.query_pairs() {
        text += &format!("&{}={}", encoded(name), encoded(value));
    }
    Ok(text)
}

pub(super) async fn both_urls_open_one_store(s: &Subject) -> Checked {
    let Some((url, external)) = s.urls() else { skip!("the kit has no URL") };
    let external = match external {
        Ok(external) => external,
        Err(why) => skip!("{why}"),
    };
    let (key, value) = s.put_new(3000).await?;
    let same = s.reopen().await?;
    let is_shared = same.store.get(&key).await?.is_some();
    same.store.close().await?;
    if !is_shared {
        skip!("a second connector of the store does not get the first one's chunks");
    }
    let hint = "a connector takes host, port, path and options from `ctx.location()`, not from `ctx.url()`";
    let opened = s.open_at(external.clone()).await;
    let other =
        opened.map_err(|e| failed(format!("`{external}` cannot be opened, although `{url}` can: {e}; {hint}")))?;
    let differ = |why: String| failed(format!("`{url}` and `{external}` open different stores: {why}; {hint}"));
    // The check reads first, because a connector that takes the module for its path would write there.
    other.expect(&key, &value).await.map_err(|e| differ(e.why()))?;
    let (back, value) = other.put_new(4000).await?;
    s.expect(&back, &value).await.map_err(|e| differ(e.why()))?;
    Ok(other.store.close().await?)
}
