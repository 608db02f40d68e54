//! A storage account: its URL, its name, its credentials.

use std::net::IpAddr;

use connector_core::{Error, ErrorKind, RemoteUrl, Result};

use crate::cloud::server_url;

/// A storage account. `Debug` shows secrets, so only tests have it.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Account {
    /// URL of its blob service.
    pub(super) url: String,
    /// Its name, which a shared key signs with. `None` if the URL does not name it.
    pub(super) name: Option<String>,
    pub(super) credential: Credential,
}

/// The credentials of requests.
#[cfg_attr(test, derive(Debug))]
#[derive(PartialEq)]
pub(super) enum Credential {
    /// Requests are not signed.
    None,
    /// A shared key of the account.
    Key(String),
    /// A shared access signature.
    Sas(String),
    /// Those of the environment and the machine.
    OfTheMachine,
}

impl Credential {
    /// A shared access signature, with or without the `?` in front.
    pub(super) fn sas(token: &str) -> Result<Self> {
        let token = token.trim().trim_start_matches('?');
        if token.split('&').any(|parameter| parameter.starts_with("sig=")) {
            return Ok(Self::Sas(token.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidOption, "the shared access signature has no parameter `sig`")
            .with_hint("write the whole token: `sv=..&sp=..&sig=..`"))
    }
}

impl Account {
    pub(super) fn of_url(url: &str) -> Result<Self> {
        let url = server_url("account_url", url)?;
        Ok(Self { name: name_in(&url), url, credential: Credential::OfTheMachine })
    }

    pub(super) fn of_name(name: &str) -> Self {
        let url = format!("https://{name}.blob.core.windows.net");
        Self { url, name: Some(name.to_owned()), credential: Credential::OfTheMachine }
    }

    /// Reads `AccountName=..;AccountKey=..;EndpointSuffix=core.windows.net`, as Azure's clients do.
    pub(super) fn of_connection_string(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            let hint = "write `AccountName=..;AccountKey=..`, or copy the text from Azure's portal";
            Error::new(ErrorKind::InvalidOption, format!("option `connection_string`: {why}")).with_hint(hint)
        };
        let mut fields = Vec::new();
        for (at, field) in text.split(';').map(str::trim).enumerate() {
            match field.split_once('=') {
                _ if field.is_empty() => {}
                Some((name, value)) => fields.push((name.trim(), value.trim())),
                // The field may be a key, so no error shows it.
                None => return Err(wrong(format!("field {} has no `=`", at + 1))),
            }
        }
        let field = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| *value).filter(|value| !value.is_empty())
        };
        let name = field("AccountName");
        let mut account = match (field("BlobEndpoint"), name) {
            (Some(url), _) => Self::of_url(url)?,
            (None, Some(name)) => {
                let protocol = field("DefaultEndpointsProtocol").unwrap_or("https");
                let suffix = field("EndpointSuffix").unwrap_or("core.windows.net");
                Self::of_url(&format!("{protocol}://{name}.blob.{suffix}"))?
            }
            (None, None) => return Err(wrong("it has neither `AccountName` nor `BlobEndpoint`".to_owned())),
        };
        if let Some(name) = name {
            account.name = Some(name.to_owned());
        }
        if let Some(key) = field("AccountKey") {
            account.credential = Credential::Key(key.to_owned());
        } else if let Some(token) = field("SharedAccessSignature") {
            account.credential = Credential::sas(token)?;
        }
        Ok(account)
    }
}

/// The account's name: a part of the host on Azure, the first segment of the path on an emulator.
fn name_in(url: &str) -> Option<String> {
    let url = RemoteUrl::parse(url).ok()?;
    let host = url.host()?;
    let name = match host.split_once(".blob.") {
        Some((name, _)) => name,
        None if host == "localhost" || host.parse::<IpAddr>().is_ok() => {
            url.path().split('/').find(|segment| !segment.is_empty())?
        }
        None => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_names_the_account_and_its_credentials() {
        let table = [
            ("AccountName=acme;AccountKey=k==", "https://acme.blob.core.windows.net", "acme"),
            (
                "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=k==;EndpointSuffix=core.chinacloudapi.cn",
                "https://acme.blob.core.chinacloudapi.cn",
                "acme",
            ),
            (
                "accountname=dev; accountkey=k==; BlobEndpoint=http://127.0.0.1:10000/dev/;",
                "http://127.0.0.1:10000/dev",
                "dev",
            ),
            ("BlobEndpoint=http://localhost:10000/dev;AccountKey=k==", "http://localhost:10000/dev", "dev"),
        ];
        for (text, url, name) in table {
            let account = Account::of_connection_string(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((account.url.as_str(), account.name.as_deref()), (url, Some(name)), "{text}");
            assert_eq!(account.credential, Credential::Key("k==".into()), "{text}");
        }
        let sas = "BlobEndpoint=https://acme.blob.core.windows.net;SharedAccessSignature=sv=1&sig=a%3D";
        let account = Account::of_connection_string(sas).expect("an account");
        assert_eq!(account.credential, Credential::Sas("sv=1&sig=a%3D".into()));
    }

    #[test]
    fn an_error_about_a_connection_string_shows_no_secret() {
        for wrong in
            ["hunter2", "AccountName=a;hunter2", "AccountKey=hunter2", "AccountName=a;SharedAccessSignature=hunter2"]
        {
            let Err(e) = Account::of_connection_string(wrong) else { panic!("{wrong} is refused") };
            assert_eq!(e.kind(), ErrorKind::InvalidOption);
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
        }
    }

    #[test]
    fn the_url_of_an_account_names_it() {
        assert_eq!(name_in("https://acme.blob.core.windows.net").as_deref(), Some("acme"));
        assert_eq!(name_in("http://[::1]:10000/dev").as_deref(), Some("dev"));
        assert_eq!(name_in("https://blobs.example/dev"), None);
    }
}
