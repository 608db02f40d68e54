//! The user and the password of a server, and secrets in files.

use std::fmt;
use std::io::Read;
use std::path::Path;

use connector_macros::connector_options;
use percent_encoding::percent_decode_str;

use super::environment::expand;
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// The options of a login to a server, a part of the options of each store that has one: `#[option(flatten)]`.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// # use connector_core::{RemoteUrl, options::Credentials};
/// let url: RemoteUrl = "acme://reader:hunter2@h:1".parse()?;
/// let login = Credentials::default().resolve(&url)?;
/// assert_eq!((login.username(), login.password()), (Some("reader"), Some("hunter2")));
/// # Ok(())
/// # }
/// ```
#[connector_options(crate = crate)]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Credentials {
    /// User of the server's access list. The URL's user wins. The server's default user unless set.
    #[option(secret)]
    pub username: Option<String>,
    /// File that holds the user, instead of `username`.
    pub username_file: Option<String>,
    /// Password. The URL's password wins.
    #[option(secret)]
    pub password: Option<String>,
    /// File that holds the password, instead of `password`. kvconn reads it again when the server refuses the password.
    pub password_file: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// The login to the server of `url`. User and password of the URL win over the options. Both are percent-decoded,
    /// and may hold `${NAME}` as an option may.
    ///
    /// # Errors
    /// `InvalidUrl` for a user or password of the URL that is not text, or that the query repeats. `InvalidOption` for
    /// a secret that is given both as text and as a file, and for a file that cannot be read.
    pub fn resolve(&self, url: &RemoteUrl) -> Result<Login> {
        let in_url = |option: &str, encoded: Option<&str>| {
            let Some(encoded) = encoded else { return Ok(None) };
            if url.query(option).or(url.query(&format!("{option}_file"))).is_some() {
                let why = format!("`{url}` gives the {option} twice, before the host and as an option");
                return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint("keep one of them"));
            }
            in_userinfo(encoded, option, url).map(|text| Some(Source::Text(text)))
        };
        let [username, password] = [in_url("username", url.username())?, in_url("password", url.password())?];
        self.login("", [username, password])
    }

    /// The login of these options alone. In an error, `prefix` stands before their names: `sentinel_` for a store with
    /// the option `sentinel_password`.
    ///
    /// # Errors
    /// `InvalidOption`, as in [`resolve`](Self::resolve).
    pub fn resolve_without_url(&self, prefix: &str) -> Result<Login> {
        self.login(prefix, [None, None])
    }

    fn login(&self, prefix: &str, [username, password]: [Option<Source>; 2]) -> Result<Login> {
        let source = |option: &str, text: &Option<String>, file: &Option<String>| {
            let option = format!("{prefix}{option}");
            match (text, file) {
                (Some(_), Some(_)) => Err(text_and_file(&option)),
                (Some(text), None) => Ok(Source::Text(text.clone())),
                (None, Some(file)) => Ok(Source::File(format!("{option}_file"), file.clone())),
                (None, None) => Ok(Source::Unset),
            }
        };
        let username = username.map_or_else(|| source("username", &self.username, &self.username_file), Ok)?;
        let password = password.map_or_else(|| source("password", &self.password, &self.password_file), Ok)?;
        Login { username: None, password: None, sources: [username, password] }.reload()
    }
}

/// A user and a password, and the files that hold them.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    username: Option<String>,
    password: Option<String>,
    sources: [Source; 2],
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Unset,
    Text(String),
    /// The option that names the file, and the file.
    File(String, String),
}

impl Source {
    fn read(&self) -> Result<Option<String>> {
        match self {
            Self::Unset => Ok(None),
            Self::Text(text) => Ok(Some(text.clone())),
            Self::File(option, file) => read_secret(file).map(Some).map_err(|why| wrong_file(option, &why)),
        }
    }
}

impl Login {
    /// The user.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password. Do not print it.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Whether a file holds a part of the login. Then [`reload`](Self::reload) may give another one.
    pub fn is_in_a_file(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::File(..)))
    }

    /// The login with its files read again. Blocks on the file system.
    ///
    /// # Errors
    /// `InvalidOption` for a file that cannot be read.
    pub fn reload(&self) -> Result<Self> {
        let [username, password] = &self.sources;
        Ok(Self { username: username.read()?, password: password.read()?, sources: self.sources.clone() })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

fn in_userinfo(encoded: &str, part: &str, url: &RemoteUrl) -> Result<String> {
    let wrong = |why: String| Error::new(ErrorKind::InvalidUrl, format!("`{url}`: the {part} before the host: {why}"));
    let decoded =
        percent_decode_str(encoded).decode_utf8().map_err(|_| wrong("percent-decoded, it is not UTF-8".into()))?;
    expand(&decoded).map_err(wrong)
}

pub(super) fn text_and_file(option: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("options `{option}` and `{option}_file` are both set"))
        .with_hint("keep one of them")
}

pub(super) fn wrong_file(option: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("option `{option}`: {why}"))
        .with_hint("name a readable file that holds only the secret, by its absolute path")
}

/// Most bytes of a file that holds a secret.
const MAX_FILE: u64 = 64 << 10;

/// The text of a file, without the newline at its end.
///
/// # Errors
/// The reason. It shows a path only if its folder exists: another text may be the secret itself.
pub(super) fn read_secret(file: &str) -> Result<String, String> {
    let path = Path::new(file);
    if !path.is_absolute() {
        return Err("its value is not an absolute path".to_owned());
    }
    let has_folder = path.parent().is_some_and(|folder| folder.parent().is_some() && folder.is_dir());
    let file = if has_folder { format!("`{file}`") } else { "the file".to_owned() };
    let failed = |e: std::io::Error| format!("cannot read {file}: {e}");
    // A pipe or a device would block or never end.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{file} is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|open| open.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{file} is larger than {MAX_FILE} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{file} is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    match text {
        "" => Err(format!("{file} is empty")),
        text => Ok(text.to_owned()),
    }
}
