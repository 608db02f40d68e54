//! The one error type of this project: a kind to match on, and a sentence to read.

mod hint;
mod kind;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

pub use hint::{Audience, Hint};
pub use kind::{ErrorKind, ErrorStatus};

/// A `Result` whose error is [`Error`] unless said.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: its kind, its place and a hint.
///
/// `Display` is one line: the operation, the connector, the message, the key and a hint. `Debug` adds lines with the kind and
/// the chain of causes. Neither contains a password: connectors add URLs only through [`RemoteUrl`](crate::RemoteUrl), whose
/// text is redacted.
///
/// An error is one pointer wide, so a `Result` on the data path stays small. A clone shares its source with the original.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    status: ErrorStatus,
    unsent: bool,
    partial: bool,
    retry_after: Option<Duration>,
    message: Cow<'static, str>,
    hint: Option<Hint>,
    operation: Option<&'static str>,
    connector: Option<Box<str>>,
    key: Option<Box<str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`: lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            status: ErrorStatus::Permanent,
            unsent: false,
            partial: false,
            retry_after: None,
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

    /// An error of the operating system during `action` ("create directory `/kv`"), with the kind that fits it, and a hint
    /// where the user can mend the cause.
    pub fn io(source: std::io::Error, action: impl fmt::Display) -> Self {
        use std::io::ErrorKind as Io;
        /// Too many open files in the system, or in this process: on Linux and macOS.
        const FILES: [i32; 2] = [23, 24];
        let (kind, temporary) = match source.kind() {
            Io::PermissionDenied => (ErrorKind::Denied, false),
            Io::ReadOnlyFilesystem => (ErrorKind::ReadOnly, false),
            Io::TimedOut => (ErrorKind::Timeout, true),
            Io::StorageFull | Io::QuotaExceeded => (ErrorKind::StoreFull, false),
            Io::FileTooLarge => (ErrorKind::TooLarge, false),
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown => (ErrorKind::Unavailable, true),
            // A network file system's file was replaced on the server.
            Io::Interrupted | Io::WouldBlock | Io::ResourceBusy | Io::StaleNetworkFileHandle => (ErrorKind::Io, true),
            _ => (ErrorKind::Io, source.raw_os_error().is_some_and(|code| FILES.contains(&code))),
        };
        let hint = match source.kind() {
            Io::PermissionDenied => {
                Some("check that this user may use the path: its owner and mode, and those of each directory above it")
            }
            Io::ReadOnlyFilesystem => Some("mount its file system with `rw`, or use another directory"),
            Io::StorageFull => Some("free space on its file system, or use another directory"),
            Io::QuotaExceeded => Some("raise this user's quota, or remove files"),
            _ if source.raw_os_error() == Some(FILES[1]) => Some("raise the limit of open files (`ulimit -n 65536`)"),
            _ if source.raw_os_error() == Some(FILES[0]) => {
                Some("raise the system's limit of open files (`fs.file-max`)")
            }
            _ => None,
        };
        let e = Self::new(kind, format!("cannot {action}: {source}")).temporary(temporary).with_source(source);
        match hint {
            Some(hint) => e.with_hint(hint),
            None => e,
        }
    }

    /// Sets the status to `Temporary` (the same call may succeed later) or `Permanent`, the default.
    #[must_use]
    pub fn temporary(self, temporary: bool) -> Self {
        self.with_status(if temporary { ErrorStatus::Temporary } else { ErrorStatus::Permanent })
    }

    /// Sets the status.
    #[must_use]
    pub fn with_status(mut self, status: ErrorStatus) -> Self {
        self.0.status = status;
        self
    }

    /// Marks the error of a call that did not reach the store, although its kind alone may say that the store did not
    /// answer: the call waited for memory or a connection that other calls of this process held.
    #[must_use]
    pub fn unsent(mut self) -> Self {
        self.0.unsent = true;
        self
    }

    /// Marks the error of one server of several, while others answer. The [breaker](crate::layer) does not count it.
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.0.partial = true;
        self
    }

    /// Adds the shortest time before another try that the store asks for, such as the `Retry-After` of an HTTP server. A
    /// retry layer waits that long, up to its longest delay.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds a hint: what to do or to write instead. A [`Hint`] can have a text for each [`Audience`].
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Hint>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts a place before the message: "file `/kv/x.data`: ..".
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message).into();
        self
    }

    /// Adds the operation, unless the error names one already.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds the key, unless the error names one already.
    #[must_use]
    pub fn with_key(mut self, key: impl fmt::Display) -> Self {
        self.0.key.get_or_insert_with(|| key.to_string().into());
        self
    }

    /// Adds the connector's name, unless the error names one already.
    #[must_use]
    pub fn with_connector(mut self, connector: impl fmt::Display) -> Self {
        self.0.connector.get_or_insert_with(|| connector.to_string().into());
        self
    }

    /// Adds the cause. `Display` does not show its text, so the message must contain what a reader needs.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into().into());
        self
    }

    /// The kind, to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether another try may help.
    pub fn status(&self) -> ErrorStatus {
        self.0.status
    }

    /// Whether the same call may succeed later: the status is `Temporary` or `Persistent`.
    pub fn is_temporary(&self) -> bool {
        self.0.status != ErrorStatus::Permanent
    }

    /// Whether the call is known not to have reached the store: see [`unsent`](Self::unsent).
    pub fn is_unsent(&self) -> bool {
        self.0.unsent
    }

    /// Whether other servers of the store answer: see [`partial`](Self::partial).
    pub fn is_partial(&self) -> bool {
        self.0.partial
    }

    /// The shortest time before another try, if the store asks for one.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The bare message, without operation, key and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The hint: what to do or to write instead, in the terms of this process's [`Audience`].
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_ref().map(Hint::text)
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

/// Writes control characters, which a key or a server's text may contain, as escapes.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| {
            if c.is_control() { write!(self.0, "{}", c.escape_default()) } else { self.0.write_char(c) }
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &mut OneLine(f);
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
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}\n    kind: {}", self.kind())?;
        if self.is_temporary() {
            write!(f, " ({})", self.status().as_str())?;
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
    fn display_escapes_the_control_characters_of_a_key() {
        let e = Error::new(ErrorKind::Corrupt, "bad\n").with_key("m\u{1b}[2J\r\n@1@0@ff@half");
        assert_eq!(e.to_string(), "bad\\n (key `m\\u{1b}[2J\\r\\n@1@0@ff@half`)");
    }

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
    fn io_errors_get_the_kind_that_fits() {
        use std::io::ErrorKind as Io;
        for (of, kind, temporary) in [
            (Io::PermissionDenied, ErrorKind::Denied, false),
            (Io::ReadOnlyFilesystem, ErrorKind::ReadOnly, false),
            (Io::StorageFull, ErrorKind::StoreFull, false),
            (Io::QuotaExceeded, ErrorKind::StoreFull, false),
            (Io::FileTooLarge, ErrorKind::TooLarge, false),
            (Io::ConnectionReset, ErrorKind::Unavailable, true),
            (Io::TimedOut, ErrorKind::Timeout, true),
            (Io::OutOfMemory, ErrorKind::Io, false),
            (Io::StaleNetworkFileHandle, ErrorKind::Io, true),
        ] {
            let e = Error::io(of.into(), "x");
            assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{of}");
        }
        // EIO, ENFILE, EMFILE.
        for (code, temporary) in [(5, false), (23, true), (24, true)] {
            let e = Error::io(std::io::Error::from_raw_os_error(code), "x");
            assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Io, temporary), "{e}");
        }
    }

    #[test]
    fn io_errors_that_a_user_can_mend_have_a_hint() {
        use std::io::ErrorKind as Io;
        for (of, words) in [
            (std::io::Error::from(Io::PermissionDenied), "owner and mode"),
            (Io::ReadOnlyFilesystem.into(), "`rw`"),
            (Io::StorageFull.into(), "free space"),
            (Io::QuotaExceeded.into(), "quota"),
            (std::io::Error::from_raw_os_error(23), "fs.file-max"),
            (std::io::Error::from_raw_os_error(24), "ulimit -n"),
        ] {
            let e = Error::io(of, "x");
            assert!(e.hint().is_some_and(|hint| hint.contains(words)), "{e}");
        }
        assert_eq!(Error::io(Io::ConnectionReset.into(), "x").hint(), None);
    }

    #[test]
    fn a_clone_shares_the_source_and_its_changes_are_its_own() {
        let e = Error::io(std::io::Error::other("disk on fire"), "read `/x`").temporary(true);
        let clone = e.clone().with_key("k").with_status(ErrorStatus::Persistent);
        assert!(std::ptr::addr_eq(e.source().unwrap(), clone.source().unwrap()));
        assert!(clone.source().unwrap().is::<std::io::Error>());
        assert_eq!((e.key(), e.status()), (None, ErrorStatus::Temporary));
        assert_eq!((clone.key(), clone.status()), (Some("k"), ErrorStatus::Persistent));
        assert!(clone.is_temporary() && format!("{clone:?}").contains("kind: io (persistent)"));
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
