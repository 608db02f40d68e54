//! What a run of the kit found.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Check;

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Outcome {
    /// The store does what the rule says.
    Passed,
    /// It does not: what was seen instead.
    Failed(String),
    /// The rule does not apply to this store, and why.
    Skipped(String),
}

/// One check and how it ended. As JSON: `name`, `chapter`, `rule`, `outcome`, `why` unless it passed, `seconds`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    /// The check's name.
    pub name: &'static str,
    /// The part of the contract it belongs to.
    pub chapter: &'static str,
    /// What it shows, as one sentence.
    pub rule: &'static str,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, with opening, cleaning up and closing.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

impl CheckResult {
    pub(super) fn new(check: &Check, outcome: Outcome, elapsed: Duration) -> Self {
        let outcome = match outcome {
            Outcome::Passed => Outcome::Passed,
            Outcome::Failed(why) => Outcome::Failed(on_one_line(&why)),
            Outcome::Skipped(why) => Outcome::Skipped(on_one_line(&why)),
        };
        Self { name: check.name(), chapter: check.chapter(), rule: check.rule(), outcome, elapsed }
    }

    /// Whether the store broke the rule.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}

/// All results of a run, in the order they came.
#[derive(Debug, Clone, Serialize)]
#[must_use]
pub struct Report {
    /// One for each check that was run.
    pub checks: Vec<CheckResult>,
    /// Whether the run was ended early, so that checks are missing.
    pub interrupted: bool,
}

impl Report {
    /// Whether the run came to its end, some check passed, and none failed. Look at [`skipped`](Self::skipped), too: what
    /// was not checked did not pass.
    pub fn passed(&self) -> bool {
        !self.interrupted
            && self.checks.iter().any(|c| c.outcome == Outcome::Passed)
            && self.failures().next().is_none()
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|c| c.is_failure())
    }

    /// The checks that do not apply to this store.
    pub fn skipped(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|c| matches!(c.outcome, Outcome::Skipped(_)))
    }
}

impl fmt::Display for CheckResult {
    /// `put_replaces: failed: ..`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed => write!(f, "{}: passed", self.name),
            Outcome::Failed(why) => write!(f, "{}: failed: {why} (the rule: {})", self.name, self.rule),
            Outcome::Skipped(why) => write!(f, "{}: skipped: {why}", self.name),
        }
    }
}

impl fmt::Display for Report {
    /// What failed and what was skipped, a line each, and a line that counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in self.checks.iter().filter(|c| c.outcome != Outcome::Passed) {
            writeln!(f, "{result}")?;
        }
        let (all, failed, skipped) = (self.checks.len(), self.failures().count(), self.skipped().count());
        write!(f, "{} passed, {failed} failed, {skipped} skipped", all - failed - skipped)?;
        if self.interrupted {
            f.write_str("; interrupted")?;
        } else if all == skipped {
            f.write_str("; nothing was checked")?;
        }
        Ok(())
    }
}

/// Odd keys and panics may hold line breaks and worse, and a report goes to terminals and logs.
fn on_one_line(why: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    why.chars().map(shown).collect()
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}
