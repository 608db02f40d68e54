//! The contract of every connector, as checks that can be run: the conformance kit (feature `conformance`).
//!
//! Each check shows one behaviour that [`RemoteConnector`](crate::RemoteConnector) promises; `docs/CONTRACT.md` has them
//! in words. In an author's crate one line gives a test for each of them:
//!
//! ```
//! # #[expect(unused)]
//! #[cfg(test)]
//! mod conformance {
//!     connector_core::conformance_tests!("acme://localhost:0");
//! }
//! ```
//!
//! A [`Kit`] runs them against a store and gives a [`Report`]; that is what `kvconn check URL` does.
//!
//! **Safe against a store in use.** Keys have a model name that no other program, run or check has
//! (`kvconn-conformance-<random>`); each check removes the keys that it made when it has ended, also when it failed, and
//! nothing else. A store that cannot remove keeps them. **But a bounded store makes room:** where chunks are evicted (a
//! capacity, the front of a tiered store, any LRU), the kit's own, of up to 64 MiB, push out those of others.
//!
//! **What it asks of a store.** Room for about 200 MiB, which is what the largest chunks take. A store that may forget a
//! chunk right after it was put (a cache that is too small, a black hole) fails, and rightly so.

mod batches;
mod cancellation;
mod capabilities;
mod closing;
mod errors;
mod get_into;
mod keys;
mod kit;
mod list;
mod listing;
mod memory;
mod overwriting;
mod removal;
mod report;
mod round_trip;
mod run;
mod subject;

use futures::future::BoxFuture;

pub use kit::Kit;
pub use report::{CheckResult, Outcome, Report};

use subject::{Checked, Subject};

/// One behaviour that every connector has.
#[derive(Clone, Copy)]
pub struct Check {
    name: &'static str,
    chapter: &'static str,
    rule: &'static str,
    run: for<'a> fn(&'a Subject) -> BoxFuture<'a, Checked>,
}

impl Check {
    /// The check's name, unique: `put_replaces`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The part of the contract it belongs to: `overwriting`.
    pub fn chapter(&self) -> &'static str {
        self.chapter
    }

    /// What it shows, as one sentence.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
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
