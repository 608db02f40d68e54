//! Hints: what the reader of an error can do, in the reader's terms.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The readers of the errors of this process. They decide the terms of a [`Hint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Audience {
    /// Authors of a Rust program, the default. Hints name crates, features and methods.
    Rust,
    /// Authors of a Python program. Hints name packages and arguments.
    Python,
    /// Operators at a shell. Hints name commands and flags.
    Shell,
}

static AUDIENCE: AtomicU8 = AtomicU8::new(Audience::Rust as u8);

impl Audience {
    /// Sets the readers of this process's errors: once, when the program starts. In a Python process, each wheel's library
    /// has its own copy of this crate, and with it its own setting.
    pub fn set(self) {
        AUDIENCE.store(self as u8, Relaxed);
    }

    fn current() -> Self {
        match AUDIENCE.load(Relaxed) {
            n if n == Self::Python as u8 => Self::Python,
            n if n == Self::Shell as u8 => Self::Shell,
            _ => Self::Rust,
        }
    }
}

/// What to do or to write instead: one text, or a text for each [`Audience`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(Text);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    Same(Cow<'static, str>),
    Each { rust: Cow<'static, str>, python: Cow<'static, str>, shell: Cow<'static, str> },
}

impl Hint {
    /// A hint whose text depends on the reader.
    ///
    /// ```
    /// use connector_core::{Audience, Hint};
    /// let hint = Hint::each("call `with_limit`", "pass `limit`", "pass `--limit`");
    /// assert_eq!(hint.to(Audience::Python), "pass `limit`");
    /// ```
    pub fn each(
        rust: impl Into<Cow<'static, str>>,
        python: impl Into<Cow<'static, str>>,
        shell: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Text::Each { rust: rust.into(), python: python.into(), shell: shell.into() })
    }

    /// The text for these readers.
    pub fn to(&self, audience: Audience) -> &str {
        match (&self.0, audience) {
            (Text::Same(text), _)
            | (Text::Each { rust: text, .. }, Audience::Rust)
            | (Text::Each { python: text, .. }, Audience::Python)
            | (Text::Each { shell: text, .. }, Audience::Shell) => text,
        }
    }

    /// The text for the readers of this process's errors.
    pub(super) fn text(&self) -> &str {
        self.to(Audience::current())
    }
}

impl From<&'static str> for Hint {
    fn from(text: &'static str) -> Self {
        Self(Text::Same(text.into()))
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self(Text::Same(text.into()))
    }
}

impl From<Cow<'static, str>> for Hint {
    fn from(text: Cow<'static, str>) -> Self {
        Self(Text::Same(text))
    }
}
