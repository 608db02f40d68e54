//! Secrets that a URL contains as plain text.

use super::RemoteUrl;
use crate::options::is_variable;
use crate::registry;

/// kvconn hides user names, so this option is marked as secret. It is not a secret here: a configuration has it beside
/// `password_file`.
const USER: &str = "username";

impl RemoteUrl {
    /// Whether the value of this option is a secret. A secret belongs in a file or a variable. If no linked connector owns the
    /// URL (`plugin://`), the options of all linked connectors decide.
    pub fn is_secret_option(&self, name: &str) -> bool {
        let is_secret = |entry: &registry::ConnectorEntry| {
            entry.options().and_then(|options| options.option(name)).is_some_and(|option| option.secret)
        };
        name != USER
            && match registry::entry_of(self) {
                Some(entry) => is_secret(entry),
                None => registry::connectors().iter().any(|entry| is_secret(entry)),
            }
    }

    /// Whether the URL, or a URL in its query, contains a secret as plain text. The name of a variable (`${NAME}`) is not a
    /// secret.
    pub fn has_written_secret(&self) -> bool {
        let is_written = |text: &str| !(text.is_empty() || is_variable(text));
        let has_one = |text: &str| text.contains("://") && Self::parse(text).is_ok_and(|url| url.has_written_secret());
        self.password().is_some_and(is_written)
            || self.query_pairs().any(|(name, value)| match self.is_secret_option(name) {
                true => is_written(value),
                false => has_one(value),
            })
    }
}
