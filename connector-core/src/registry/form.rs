//! The parts of a URL that a connector reads.

use super::ConnectorEntry;
use crate::context::Location;
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// The parts of a URL that a connector reads.
pub(crate) struct UrlForm {
    user: bool,
    host: bool,
    several_hosts: bool,
    port: bool,
    path: PathForm,
}

/// The meaning of a URL's path.
#[derive(PartialEq)]
enum PathForm {
    None,
    Number,
    Any,
}

impl UrlForm {
    /// The parts that the examples of `entry` for this scheme have, or `None` if it has no examples.
    pub(crate) fn of(entry: &ConnectorEntry, scheme: &str) -> Option<Self> {
        let examples = || entry.urls().iter().filter_map(|example| RemoteUrl::parse(example).ok());
        if scheme == "external" {
            let user = examples().any(|url| url.username().is_some());
            let form = Self { user, host: true, several_hosts: false, port: true, path: PathForm::Any };
            return (!entry.urls().is_empty()).then_some(form);
        }
        let examples: Vec<RemoteUrl> = examples().filter(|url| url.scheme() == scheme).collect();
        let any = |has: fn(&RemoteUrl) -> bool| examples.iter().any(has);
        (!examples.is_empty()).then(|| Self {
            user: any(|url| url.username().is_some()),
            host: any(|url| url.host().is_some()),
            several_hosts: any(|url| url.hosts().len() > 1),
            port: any(|url| url.port().is_some()),
            path: match examples.iter().map(|url| url.path().trim_matches('/')).find(|path| !path.is_empty()) {
                None => PathForm::None,
                Some(path) if is_number(path) => PathForm::Number,
                Some(_) => PathForm::Any,
            },
        })
    }

    /// Refuses the path of an `external://` URL if the connector has examples, and none of them has a path.
    pub(crate) fn check_path(entry: &ConnectorEntry, location: &Location) -> Result<()> {
        let has_path =
            |example: &&str| RemoteUrl::parse(example).is_ok_and(|url| !url.path().trim_matches('/').is_empty());
        let is_short = location.scheme().is_some();
        if is_short || location.path().is_empty() || entry.urls().is_empty() || entry.urls().iter().any(has_path) {
            return Ok(());
        }
        let message = format!("`{location}` has a path, which this store does not use");
        Err(Error::new(ErrorKind::InvalidUrl, message).with_hint("remove the option `path`"))
    }

    /// Whether `path` has the form that these URLs use, so that it cannot be a piece of a password.
    pub(crate) fn shows(&self, path: &str) -> bool {
        match self.path {
            PathForm::None => false,
            PathForm::Number => is_number(path.trim_matches('/')),
            PathForm::Any => true,
        }
    }

    /// Refuses a URL with a part that its connector ignores.
    pub(crate) fn check(&self, url: &RemoteUrl) -> Result<()> {
        let has_user = url.username().or(url.password()).is_some();
        let part = if has_user && !self.user {
            "a user or a password"
        } else if url.host().is_some_and(|host| host != "localhost") && !self.host {
            "a host"
        } else if url.hosts().len() > 1 && !self.several_hosts {
            "several hosts"
        } else if url.port().is_some() && !self.port {
            "a port"
        } else if !url.path().trim_matches('/').is_empty() && self.path == PathForm::None {
            "a path"
        } else {
            return Ok(());
        };
        let message = format!("`{url}` has {part}, which this store does not use");
        let example = super::example_of(url.scheme());
        let hint =
            example.map_or("remove it".to_owned(), |example| format!("remove it; write the URL as in `{example}`"));
        Err(Error::new(ErrorKind::InvalidUrl, message).with_hint(hint))
    }
}

fn is_number(path: &str) -> bool {
    !path.is_empty() && path.bytes().all(|b| b.is_ascii_digit())
}
