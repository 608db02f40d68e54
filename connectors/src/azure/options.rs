use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result, connector_options};
use opendal::services::Azblob;

use super::account::{Account, Credential};
use crate::cloud::{Bucket, CloudSettings};

/// Options of `azure://`.
#[connector_options]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct AzureOptions {
    /// URL of the account, `https://account.blob.core.windows.net`.
    pub account_url: Option<String>,
    /// Name of the account, instead of its URL; `AZURE_STORAGE_ACCOUNT_NAME` unless set. A server that is not Azure's
    /// needs `account_url`.
    pub account_name: Option<String>,
    /// Account and credentials in one text, as Azure's portal shows it.
    #[option(secret)]
    pub connection_string: Option<String>,
    /// Shared key of the account.
    #[option(secret)]
    pub account_key: Option<String>,
    /// Shared access signature.
    #[option(secret)]
    pub sas_token: Option<String>,
    /// Whether requests go out without credentials, as for a public container.
    pub anonymous: bool,
    /// The container, for `plugin://azure` and `external://`.
    pub container: Option<String>,
    /// Prefix of all blobs, for `plugin://azure` and `external://`; the URL's path gives it otherwise.
    pub prefix: Option<String>,
    /// The requests.
    #[option(flatten)]
    pub cloud: CloudSettings,
}

/// Without credentials and URLs.
impl std::fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AzureOptions").field("cloud", &self.cloud).finish_non_exhaustive()
    }
}

impl ConnectorOptions for AzureOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "azure_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[
        ("azure_account_url", "account_url"),
        ("azure_connection_string", "connection_string"),
        ("azure_account_key", "account_key"),
        ("azure_sas_token", "sas_token"),
        ("save_chunk_meta", "save_chunk_meta"),
    ];
}

impl AzureOptions {
    /// The container and the prefix.
    pub(super) fn bucket(&self, ctx: &ConnectorContext) -> Result<Bucket> {
        Bucket::of(ctx, &["azure"], ("container", self.container.as_deref()), self.prefix.as_deref())
    }

    /// OpenDAL's service of the container.
    pub(super) fn service(&self, container: &Bucket) -> Result<Azblob> {
        let account = self.account()?;
        let mut service = Azblob::default().container(&container.name).root(&container.prefix).endpoint(&account.url);
        if let Some(name) = &account.name {
            service = service.account_name(name);
        }
        Ok(match &account.credential {
            Credential::None => service.skip_signature(),
            Credential::Key(key) => service.account_key(key),
            Credential::Sas(token) => service.sas_token(token),
            Credential::OfTheMachine => service,
        })
    }

    /// The account and its credentials.
    pub(super) fn account(&self) -> Result<Account> {
        let mut account = match (&self.connection_string, &self.account_url) {
            (Some(_), Some(_)) => {
                let why = "the options `connection_string` and `account_url` both name the account";
                return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("keep one of them"));
            }
            (Some(text), None) => Account::of_connection_string(text)?,
            (None, Some(url)) => Account::of_url(url)?,
            (None, None) => {
                let in_environment = || std::env::var("AZURE_STORAGE_ACCOUNT_NAME").ok();
                let Some(name) = self.account_name.clone().or_else(in_environment) else {
                    return Err(Error::new(ErrorKind::InvalidOption, "the options name no storage account")
                        .with_hint("set `account_url`, `account_name` or `connection_string`"));
                };
                Account::of_name(&name)
            }
        };
        if let Some(name) = &self.account_name {
            account.name = Some(name.clone());
        }
        if self.anonymous {
            account.credential = Credential::None;
        } else if let Credential::OfTheMachine = account.credential {
            if let Some(key) = &self.account_key {
                account.credential = Credential::Key(key.trim().to_owned());
            } else if let Some(token) = &self.sas_token {
                account.credential = Credential::sas(token)?;
            }
        }
        if let (Credential::Key(_), None) = (&account.credential, &account.name) {
            let why = "the options give an account key, but not the account's name";
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("set `account_name`"));
        }
        Ok(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_in_lmcaches_order() {
        let mut options = AzureOptions {
            connection_string: Some("AccountName=a;AccountKey=in-string".into()),
            account_key: Some("a-key".into()),
            sas_token: Some("?sv=1&sig=x".into()),
            ..AzureOptions::default()
        };
        let credential = |options: &AzureOptions| options.account().expect("an account").credential;
        assert_eq!(credential(&options), Credential::Key("in-string".into()));
        options.connection_string = Some("AccountName=a".into());
        assert_eq!(credential(&options), Credential::Key("a-key".into()));
        options.account_key = None;
        assert_eq!(credential(&options), Credential::Sas("sv=1&sig=x".into()));
        options.anonymous = true;
        assert_eq!(credential(&options), Credential::None);
    }

    #[test]
    fn options_without_an_account_or_with_two_are_refused() {
        let two = AzureOptions {
            connection_string: Some("AccountName=a".into()),
            account_url: Some("https://a.blob.core.windows.net".into()),
            ..AzureOptions::default()
        };
        assert_eq!(two.account().unwrap_err().kind(), ErrorKind::InvalidOption);
        let nameless = AzureOptions {
            account_url: Some("https://blobs.example".into()),
            account_key: Some("a2V5".into()),
            ..AzureOptions::default()
        };
        assert!(nameless.account().unwrap_err().to_string().contains("account_name"));
    }
}
