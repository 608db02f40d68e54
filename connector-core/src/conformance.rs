//! The conformance kit (feature `conformance`): checks of the contract that every connector keeps.
//!
//! Each check shows one behaviour that [`RemoteConnector`](crate::RemoteConnector) promises. `docs/connector/contract.md`
//! describes all of them. In an author's crate, one line makes a test of each check:
//!
//! ```
//! # #[expect(unused)]
//! #[cfg(test)]
//! mod conformance {
//!     connector_core::conformance_tests!("acme://localhost:0");
//! }
//! ```
//!
//! A [`Kit`] runs the checks against a store and gives a [`Report`]. `kvconn check URL` does the same. The checks that others
//! rely on run first. If one fails, or a call hangs, the others are skipped, and the report starts with the cause.
//!
//! **Safe against a store in use.** The kit's keys have a model name that no other program, run or check has
//! (`kvconn-conformance-<random>`). When a check has ended or failed, it removes its keys, and no others. A store
//! that cannot remove keeps them. **A bounded store evicts.** The kit's chunks of up to 64 MiB evict other chunks in
//! a store with a capacity, in the front of a tiered store and in any LRU.
//!
//! **Requirements.** The store has room for the largest chunks, about 200 MiB. A store that may forget a chunk right
//! after `put` (a small cache, `blackhole`) fails.

mod batches;
mod cancellation;
mod capabilities;
mod case;
mod closing;
mod errors;
mod get_into;
mod keys;
mod kit;
mod list;
mod listing;
mod memory;
mod names;
mod opening;
mod order;
mod overwriting;
mod polling;
mod removal;
mod report;
mod round_trip;
mod run;
mod subject;
mod value;
mod watch;

use futures::future::BoxFuture;

#[doc(hidden)]
pub use kit::Basics;
pub use kit::Kit;
pub use report::{CheckResult, Outcome, Report};

use subject::{Checked, Subject};

/// The check of one behaviour that every connector has.
#[derive(Clone, Copy)]
pub struct Check {
    /// The check's unique name, for example `put_replaces`.
    pub name: &'static str,
    /// The chapter of the contract, for example `overwriting`.
    pub chapter: &'static str,
    /// The behaviour that the check shows, as one sentence.
    pub rule: &'static str,
    run: for<'a> fn(&'a Subject) -> BoxFuture<'a, Checked>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Check({}::{})", self.chapter, self.name)
    }
}

macro_rules! table {
    ($($chapter:ident: $name:ident = $rule:literal;)*) => {
        /// All checks, chapter by chapter.
        static CHECKS: &[Check] = &[$(Check {
            name: stringify!($name),
            chapter: stringify!($chapter),
            rule: $rule,
            run: |subject| Box::pin($chapter::$name(subject)),
        }),*];
    };
}

crate::__conformance_checks!([table]);

/// All checks, chapter by chapter.
pub fn checks() -> &'static [Check] {
    CHECKS
}
