//! The bucket of a store, the prefix of its names, and the URL of its server.

use connector_core::{ConnectorContext, Error, ErrorKind, RemoteUrl, Result};
use percent_encoding::percent_decode_str;

/// A bucket or container, and the prefix of its objects' names.
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// Stands before every name, without slashes at its ends.
    pub(crate) prefix: String,
}

impl Bucket {
    /// The bucket of `gs://bucket/prefix`. The URLs `plugin://` and `external://` name it by options; `external://` also
    /// by a host with port 0, and `plugin://` by LMCache's `remote_url`. `option` is the name of the option with the bucket.
    ///
    /// # Errors
    /// `InvalidUrl` for a bucket or a prefix that is missing, wrong, or named twice.
    pub(crate) fn of(
        ctx: &ConnectorContext,
        schemes: &[&str],
        (option, name): (&str, Option<&str>),
        prefix_option: Option<&str>,
    ) -> Result<Self> {
        let location = ctx.location();
        let configured = ctx.config().remote_url.as_deref().and_then(|text| RemoteUrl::parse(text).ok());
        let configured = configured.filter(|url| name.is_none() && schemes.contains(&url.scheme()));
        let (host, path) = match (location.scheme(), location.host(), &configured) {
            (Some(_), host, _) => (host, location.path()),
            (None, None, Some(url)) => (url.host(), url.path()),
            (None, None, None) => (None, ""),
            (None, Some(_), _) if location.port().is_some() => {
                let why = format!("`{location}` names a server, which this store takes from an option");
                return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint("write `external://localhost:0/..`"));
            }
            // LMCache's URLs need a host, so `localhost:0` names none.
            (None, host, _) => (host.filter(|host| name.is_none() && *host != "localhost"), location.path()),
        };
        let name = match (host, name) {
            (Some(_), Some(_)) => return Err(twice("bucket", &format!("the URL and the option `{option}`"))),
            (Some(name), None) | (None, Some(name)) => name.to_owned(),
            (None, None) => {
                let hint = match location.scheme() {
                    Some(_) => format!("write `{}://{option}/prefix`", schemes[0]),
                    None => format!("set the option `{option}`"),
                };
                return Err(Error::new(ErrorKind::InvalidUrl, format!("`{location}` names no bucket")).with_hint(hint));
            }
        };
        Ok(Self { name, prefix: prefix(path, prefix_option)? })
    }
}

/// The prefix of all names, from the path of the URL and from the option `prefix`.
///
/// # Errors
/// `InvalidUrl` for two prefixes, and for one that an HTTP client changes on the way.
pub(crate) fn prefix(path: &str, option: Option<&str>) -> Result<String> {
    let path = percent_decode_str(path.trim_matches('/')).decode_utf8();
    let path = path.map_err(|_| Error::new(ErrorKind::InvalidUrl, "the URL's path, percent-decoded, is not UTF-8"))?;
    let prefix = match option.map(|prefix| prefix.trim_matches('/')) {
        Some(_) if !path.is_empty() => return Err(twice("prefix", "the URL's path and the option `prefix`")),
        Some(prefix) => prefix,
        None => &path,
    };
    // An HTTP client removes such parts of a URL, and the server would look for another object.
    let is_lost = |part: &str| part.is_empty() || part == "." || part == ".." || part.trim() != part;
    if !prefix.is_empty() && (prefix.split('/').any(is_lost) || prefix.contains(|c: char| c.is_control())) {
        let why = "the prefix has an empty part, a `.`, a `..`, outer spaces or control characters";
        return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint("write a prefix such as `one/two`"));
    }
    Ok(prefix.to_owned())
}

/// The error of a part that has two values.
pub(crate) fn twice(part: &str, places: &str) -> Error {
    Error::new(ErrorKind::InvalidUrl, format!("{places} both name the {part}")).with_hint("remove one of them")
}

/// An error of kvconn's options, for OpenDAL to carry.
pub(crate) fn wrong_options(e: Error) -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::ConfigInvalid, "wrong options").set_source(e)
}

/// The URL of a server, without a slash at its end.
///
/// # Errors
/// `InvalidOption` for a text that is not an HTTP URL, and for a URL with a login or with parameters.
pub(crate) fn server_url(option: &str, text: &str) -> Result<String> {
    let wrong = |why: &str| {
        let why = format!("option `{option}` {why}");
        Error::new(ErrorKind::InvalidOption, why).with_hint("write the server's URL, such as `http://host:9000`")
    };
    // The text may hold a signature, so no error shows it.
    let url = RemoteUrl::parse(text).map_err(|_| wrong("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("is not the URL of an HTTP server"));
    }
    if url.username().is_some() || text.contains(['?', '#']) {
        return Err(wrong("holds more than a server: credentials have options of their own"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_loses_its_last_slash() {
        assert_eq!(server_url("endpoint", "http://h:9000/").unwrap(), "http://h:9000");
        let azurite = "http://127.0.0.1:10000/devstoreaccount1";
        assert_eq!(server_url("account_url", azurite).unwrap(), azurite);
    }

    #[test]
    fn an_error_about_a_servers_url_shows_no_secret() {
        for wrong in ["h:9000", "s3://hunter2", "https://hunter2@h", "https://h?sv=1&sig=hunter2", "http://h#hunter2"] {
            let e = server_url("account_url", wrong).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidOption, "{wrong}");
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
        }
    }
}
