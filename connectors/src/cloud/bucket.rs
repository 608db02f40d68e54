//! The bucket of a store, and the URL of its server.

use connector_core::{ConnectorContext, Error, ErrorKind, RemoteUrl, Result};

/// A bucket or container, and the prefix of its objects' names.
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// The names' prefix, with or without slashes around it.
    pub(crate) root: String,
}

impl Bucket {
    /// The bucket of the store's URL. `plugin://` and `external://` name it by the option `url`.
    ///
    /// # Errors
    /// `InvalidUrl` for a URL without a bucket, or one that gives the bucket twice. `InvalidOption` for an option `url` of
    /// another store.
    pub(crate) fn of(ctx: &ConnectorContext, option: Option<&RemoteUrl>, schemes: &[&str]) -> Result<Self> {
        let (own, example) = (ctx.url(), format!("write `{}://bucket/prefix`", schemes[0]));
        let url = match option {
            _ if schemes.contains(&own.scheme()) && own.query("url").is_none() => own,
            Some(_) if schemes.contains(&own.scheme()) => {
                let why = format!("`{own}` names the bucket twice");
                return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint("remove the option `url`"));
            }
            None => {
                let why = format!("`{own}` names no bucket");
                return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(format!("{example} as the option `url`")));
            }
            Some(url) if !schemes.contains(&url.scheme()) || url.query_pairs().next().is_some() => {
                let why = format!("option `url`: `{url}` is not a bucket");
                return Err(Error::new(ErrorKind::InvalidOption, why).with_hint(example));
            }
            Some(url) => url,
        };
        match url.host() {
            Some(name) => Ok(Self { name: name.to_owned(), root: url.path().to_owned() }),
            None => Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names no bucket")).with_hint(example)),
        }
    }
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
