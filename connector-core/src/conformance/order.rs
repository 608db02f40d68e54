//! The order of the checks, and which checks a failed one makes meaningless.

use super::report::{CheckResult, Outcome, Report};
use super::{Check, checks};

/// Behaviour that every other check relies on. The kit checks it first, in this order, and skips everything behind a
/// failure.
const BASICS: [&str; 9] = [
    "calls_do_not_block_their_thread",
    "misses_are_not_errors",
    PUT_KEEPS,
    "bytes_come_back",
    EXISTS,
    "put_replaces",
    MEMORY,
    CLOSE,
    REMOVE,
];
/// The checks whose rule the end of any other check may find broken.
pub(super) const EXISTS: &str = "exists_agrees_with_get";
pub(super) const PUT_KEEPS: &str = "put_does_not_keep_its_chunk";
pub(super) const MEMORY: &str = "memory_comes_back";
pub(super) const CLOSE: &str = "close_succeeds_once_for_all";
pub(super) const REMOVE: &str = "remove_says_whether_it_was_there";

/// Chapters, and the check that all others of the chapter rely on.
const FIRST_OF: [(&str, &str); 3] = [
    ("get_into", "get_into_fills_exact_memory"),
    ("batches", "batches_of_none_and_one"),
    ("listing", "list_gives_each_key_once"),
];

/// Whether other checks rely on this one.
pub(super) fn is_basic(check: &Check) -> bool {
    BASICS.contains(&check.name) || FIRST_OF.iter().any(|(_, first)| *first == check.name)
}

/// All checks in the order in which they run.
pub(super) fn ordered() -> impl Iterator<Item = &'static Check> {
    let basics = BASICS.into_iter().chain(FIRST_OF.map(|(_, first)| first)).filter_map(find);
    basics.chain(checks().iter().filter(|check| !is_basic(check)))
}

pub(super) fn find(name: &str) -> Option<&'static Check> {
    checks().iter().find(|check| check.name == name)
}

/// The failed check that `check` needs.
pub(super) fn needed(report: &Report, check: &Check) -> Option<&'static str> {
    let is_needed = |failed: &&CheckResult| {
        failed.hung
            || BASICS.contains(&failed.name)
            || FIRST_OF.iter().any(|(chapter, first)| *first == failed.name && *chapter == check.chapter)
    };
    report.failures().find(is_needed).map(|failed| failed.name)
}

/// Adds the result of a check to the report: one result, or two. The end of a passed check may find that the store breaks
/// a rule that the kit has not checked yet. Then that rule's check has failed, and this one is skipped.
pub(super) fn add(report: &mut Report, result: CheckResult, wanted: impl Fn(&Check) -> bool) -> &[CheckResult] {
    let before = report.checks.len();
    let other = result.breaks.and_then(find).filter(|other| {
        let is_open = !report.checks.iter().any(|done| done.name == other.name);
        is_open && other.name != result.name && wanted(other)
    });
    match (other, &result.outcome) {
        (Some(other), Outcome::Failed(why)) => {
            let why = format!("{why} (found by `{}`)", result.name);
            let hung = result.hung;
            report.checks.push(CheckResult { hung, ..CheckResult::new(other, Outcome::Failed(why), result.elapsed) });
            report.checks.extend(find(result.name).map(|check| CheckResult::needs(check, other.name)));
        }
        _ => report.checks.push(result),
    }
    &report.checks[before..]
}
