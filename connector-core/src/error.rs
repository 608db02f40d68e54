//! The one error type of this project: a kind to match on, and a sentence to read.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A `Result` whose error is [`Error`] unless said.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, coarse enough to match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL cannot be read, or lacks a part that its connector needs.
    InvalidUrl,
    /// The text is no key, or no key that this store can name.
    InvalidKey,
    /// An option, a configuration file or an environment variable is wrong or unknown.
    InvalidOption,
    /// A chunk's layout, or a value given by the caller, is not what the call allows.
    InvalidInput,
    /// No connector or adapter of that name or scheme is linked into this binary.
    NotFound,
    /// Two connectors claim one name, or one scheme is claimed twice.
    Conflict,
    /// The connector does not have this operation, or does not store this kind of chunk.
    Unsupported,
    /// The connector was closed.
    Closed,
    /// The pool or the store has no room.
    OutOfMemory,
    /// A chunk does not fit the memory it should be read into.
    SizeMismatch,
    /// The store gave bytes that are short, torn, or not a chunk at all.
    Corrupt,
    /// The store did not answer in time.
    Timeout,
    /// The store cannot be reached, or went away.
    Unavailable,
    /// The store refused: a password, a permission, a read-only directory.
    Denied,
    /// An operating-system error that is none of the above.
    Io,
    /// Anything else that a connector reports.
    Other,
}

impl ErrorKind {
    /// The kind in snake case, for logs and metrics: `out_of_memory`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid_url",
            Self::InvalidKey => "invalid_key",
            Self::InvalidOption => "invalid_option",
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Closed => "closed",
            Self::OutOfMemory => "out_of_memory",
            Self::SizeMismatch => "size_mismatch",
            Self::Corrupt => "corrupt",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Io => "io",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, where, and what to do instead.
///
/// `Display` is one line: what was done to which key of which connector, what happened, and a hint. `Debug` is the
/// same over several lines, with the kind and the chain of causes. Neither ever holds a password: connectors put
/// URLs in only through [`RemoteUrl`](crate::RemoteUrl), whose text is already redacted.
///
/// One pointer wide, so a `Result` on the data path stays small.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    temporary: bool,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    operation: Option<&'static str>,
    connector: Option<Box<str>>,
    key: Option<Box<str>>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` that says `message`: lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            temporary: false,
            message: message.into(),
            hint: None,
            operation: None,
            connector: None,
            key: None,
            source: None,
        }))
    }

    /// The error of an operation that a connector does not have.
    pub fn unsupported(operation: &'static str) -> Self {
        Self::new(ErrorKind::Unsupported, format!("this connector cannot `{operation}`")).with_operation(operation)
    }

    /// The error of a call that came after `close`.
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the connector was closed")
    }

    /// An operating-system error while doing `what` ("create directory `/kv`"), with the kind it stands for.
    pub fn io(source: std::io::Error, what: impl fmt::Display) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, temporary) = match source.kind() {
            Io::PermissionDenied | Io::ReadOnlyFilesystem => (ErrorKind::Denied, false),
            Io::TimedOut => (ErrorKind::Timeout, true),
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => (ErrorKind::OutOfMemory, false),
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown => (ErrorKind::Unavailable, true),
            Io::Interrupted | Io::WouldBlock | Io::ResourceBusy => (ErrorKind::Io, true),
            _ => (ErrorKind::Io, false),
        };
        Self::new(kind, format!("cannot {what}: {source}")).temporary(temporary).with_source(source)
    }

    /// Says whether trying again may help without anyone's doing.
    #[must_use]
    pub fn temporary(mut self, temporary: bool) -> Self {
        self.0.temporary = temporary;
        self
    }

    /// Adds what to do or to write instead.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts where it happened before the message: "file `/kv/x.data`: ..". Everything else stays.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message).into();
        self
    }

    /// Adds the operation, unless one is named already: the innermost knows best.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds the key, unless one is named already.
    #[must_use]
    pub fn with_key(mut self, key: impl fmt::Display) -> Self {
        self.0.key.get_or_insert_with(|| key.to_string().into());
        self
    }

    /// Adds the connector's name, unless one is named already.
    #[must_use]
    pub fn with_connector(mut self, connector: impl fmt::Display) -> Self {
        self.0.connector.get_or_insert_with(|| connector.to_string().into());
        self
    }

    /// Adds the cause. Its text is not repeated by `Display`: say in the message what a reader needs of it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error once more, for another who waited for the same work. Its cause stays with the first.
    #[must_use]
    pub fn again(&self) -> Self {
        let e = &*self.0;
        Self(Box::new(Inner {
            kind: e.kind,
            temporary: e.temporary,
            message: e.message.clone(),
            hint: e.hint.clone(),
            operation: e.operation,
            connector: e.connector.clone(),
            key: e.key.clone(),
            source: None,
        }))
    }

    /// What went wrong, to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anyone's doing. Retries go by this alone.
    pub fn is_temporary(&self) -> bool {
        self.0.temporary
    }

    /// The bare message, without operation, key and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do or to write instead.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The operation that failed: `get`, `put`, `open`, ..
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The connector that failed, as `module/Name`.
    pub fn connector(&self) -> Option<&str> {
        self.0.connector.as_deref()
    }

    /// The text of the key that the operation was about.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        match (e.operation, &e.connector) {
            (Some(op), Some(c)) => write!(f, "{op} ({c}): ")?,
            (Some(op), None) => write!(f, "{op}: ")?,
            (None, Some(c)) => write!(f, "{c}: ")?,
            (None, None) => {}
        }
        f.write_str(&e.message)?;
        if let Some(key) = &e.key
            && !e.message.contains(&**key)
        {
            write!(f, " (key `{key}`)")?;
        }
        if let Some(hint) = &e.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}\n    kind: {}", self.kind())?;
        if self.is_temporary() {
            f.write_str(" (temporary)")?;
        }
        let mut cause = self.source();
        while let Some(c) = cause {
            write!(f, "\n    caused by: {c}")?;
            cause = c.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_with_place_and_hint() {
        let e = Error::new(ErrorKind::Corrupt, "the header is short")
            .with_hint("remove the file")
            .with_operation("get")
            .with_operation("batched_get")
            .with_connector("kvconn.fs/FSConnector")
            .with_key("m@1@0@ff@half");
        assert_eq!(
            e.to_string(),
            "get (kvconn.fs/FSConnector): the header is short (key `m@1@0@ff@half`); remove the file"
        );
        assert_eq!(e.operation(), Some("get"), "the innermost operation stays");
    }

    #[test]
    fn a_place_changes_the_message_and_nothing_else() {
        let e = Error::io(std::io::ErrorKind::TimedOut.into(), "read").with_hint("wait").at("file `x`");
        assert_eq!(e.to_string(), "file `x`: cannot read: timed out; wait");
        assert!(e.is_temporary() && e.kind() == ErrorKind::Timeout && e.source().is_some());
    }

    #[test]
    fn debug_shows_the_kind_and_every_cause() {
        let e = Error::io(std::io::Error::other("disk on fire"), "read `/x`");
        let text = format!("{e:?}");
        assert!(text.contains("kind: io") && text.contains("caused by: disk on fire"), "{text}");
    }

    #[test]
    fn io_errors_get_the_kind_they_stand_for() {
        let denied = Error::io(std::io::ErrorKind::PermissionDenied.into(), "x");
        assert_eq!((denied.kind(), denied.is_temporary()), (ErrorKind::Denied, false));
        let reset = Error::io(std::io::ErrorKind::ConnectionReset.into(), "x");
        assert_eq!((reset.kind(), reset.is_temporary()), (ErrorKind::Unavailable, true));
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
