//! The results of a run.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Check;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Outcome {
    /// The store keeps the rule.
    Passed,
    /// The store breaks the rule. The text says how.
    Failed(String),
    /// The rule does not apply to this store. The text says why.
    Skipped(String),
}

/// One check and its outcome. As JSON: `name`, `chapter`, `rule`, `outcome`, `why` unless the check passed, `needs` if the
/// check was skipped for another one, `seconds`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    /// The check's name.
    pub name: &'static str,
    /// The chapter of the contract.
    pub chapter: &'static str,
    /// The behaviour that the check shows, as one sentence.
    pub rule: &'static str,
    /// The check's outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The failed check that this one needs. The outcome is [`Skipped`](Outcome::Skipped) then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<&'static str>,
    /// The time that the check took, with opening, removal of its keys and closing.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// The check whose rule the store broke at the end of this check, which itself found nothing.
    #[serde(skip)]
    pub(super) breaks: Option<&'static str>,
    /// Whether a call of this check did not end.
    #[serde(skip)]
    pub(super) hung: bool,
}

impl CheckResult {
    pub(super) fn new(check: &Check, outcome: Outcome, elapsed: Duration) -> Self {
        let outcome = match outcome {
            Outcome::Passed => Outcome::Passed,
            Outcome::Failed(why) => Outcome::Failed(on_one_line(&why)),
            Outcome::Skipped(why) => Outcome::Skipped(on_one_line(&why)),
        };
        let Check { name, chapter, rule, .. } = *check;
        Self { name, chapter, rule, outcome, needs: None, elapsed, breaks: None, hung: false }
    }

    /// A check that did not run, because `needed` has failed.
    pub(super) fn needs(check: &Check, needed: &'static str) -> Self {
        let why = format!("needs `{needed}`, which failed");
        Self { needs: Some(needed), ..Self::new(check, Outcome::Skipped(why), Duration::ZERO) }
    }

    /// Whether the store broke the rule.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}

/// All results of a run, in the order in which the checks ran. The checks that others rely on ran first, so the first
/// failure is the cause of those that follow it.
#[derive(Debug, Clone, Serialize)]
#[must_use]
pub struct Report {
    /// The result of each check that ran.
    pub checks: Vec<CheckResult>,
    /// Whether the run ended early, so that results are missing.
    pub interrupted: bool,
}

impl Report {
    /// Whether the run is complete, at least one check passed, and none failed. Look at [`skipped`](Self::skipped),
    /// too: the report does not cover those rules.
    pub fn passed(&self) -> bool {
        !self.interrupted
            && self.checks.iter().any(|c| c.outcome == Outcome::Passed)
            && self.failures().next().is_none()
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|c| c.is_failure())
    }

    /// The checks that do not apply to this store, and those that need one that failed.
    pub fn skipped(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|c| matches!(c.outcome, Outcome::Skipped(_)))
    }

    /// The failed checks that others need, each with the number of checks that were skipped for it.
    pub fn needed(&self) -> impl Iterator<Item = (&CheckResult, usize)> {
        let count = |failed: &CheckResult| self.checks.iter().filter(|c| c.needs == Some(failed.name)).count();
        self.failures().map(move |failed| (failed, count(failed))).filter(|(_, n)| *n > 0)
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
    /// The failures, the cause first; the checks that were skipped; and a line with the counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in self.failures().chain(self.skipped().filter(|c| c.needs.is_none())) {
            writeln!(f, "{result}")?;
        }
        for (failed, n) in self.needed() {
            writeln!(f, "{n} skipped: they need `{}`, which failed", failed.name)?;
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

/// Escapes control characters: odd keys and panics may contain them, and a report goes to terminals and logs.
fn on_one_line(why: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    why.chars().map(shown).collect()
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}
