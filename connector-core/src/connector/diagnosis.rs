//! One fact about the health of a store.

/// A line of a store's [diagnosis](crate::Connector::diagnose): a fact, and what to change if it is a problem.
///
/// ```
/// # use connector_core::{Diagnosis, Verdict};
/// let full = Diagnosis::warn("memory", "99 % of 4 GiB in use", "raise `maxmemory`").of("10.0.0.7:6379");
/// assert_eq!((full.verdict, full.message.as_str()), (Verdict::Warn, "10.0.0.7:6379: 99 % of 4 GiB in use"));
/// assert_eq!(Diagnosis::ok("memory", "1 of 4 GiB in use").advice, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The subject, in one word or two: `memory`, `disk space`.
    pub check: String,
    /// Whether the fact is a problem.
    pub verdict: Verdict,
    /// The fact, without a secret.
    pub message: String,
    /// What to change. `None` if the fact is not a problem.
    pub advice: Option<String>,
}

/// Whether a fact is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Not a problem.
    Ok,
    /// The store works, but not as well or as long as it could.
    Warn,
    /// Calls fail, or will soon.
    Fail,
}

impl Verdict {
    /// `ok`, `warn` or `fail`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Diagnosis {
    /// A fact that is not a problem.
    pub fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, message: message.into(), advice: None }
    }

    /// A fact that may become a problem, and what to change.
    pub fn warn(check: impl Into<String>, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, advice: Some(advice.into()), ..Self::ok(check, message) }
    }

    /// A problem, and what to change.
    pub fn fail(check: impl Into<String>, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, advice: Some(advice.into()), ..Self::ok(check, message) }
    }

    /// The fact is about this part of the store: a server's address, a directory, a tier.
    #[must_use]
    pub fn of(mut self, part: impl std::fmt::Display) -> Self {
        self.message = format!("{part}: {}", self.message);
        self
    }
}
