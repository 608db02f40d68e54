//! The time for which chunks live.

use connector_core::{Error, ErrorKind, Result, connector_options};

use super::options::check_range;

/// Ten years. A longer time is a mistake, and the server refuses the longest ones.
const MAX_TTL: u64 = 315_360_000;

/// Options of the time for which chunks live.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TtlSettings {
    /// Time that a chunk lives after its put. Without it, a chunk lives until the server evicts it.
    #[option(unit = "seconds")]
    pub ttl_sec: Option<u64>,
    /// Whether a read starts the time of `ttl_sec` again, also for a chunk that another client put.
    pub refresh_ttl: bool,
}

impl TtlSettings {
    /// Refuses wrong values. `replica_reads` is the option of the same name.
    ///
    /// # Errors
    /// `InvalidOption`.
    pub(crate) fn check(&self, replica_reads: bool) -> Result<()> {
        if self.refresh_ttl && replica_reads {
            let why = "options `refresh_ttl` and `replica_reads` exclude each other: a replica renews no time to live";
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("remove one of them"));
        }
        if self.refresh_ttl && self.ttl_sec.is_none() {
            return Err(Error::new(ErrorKind::InvalidOption, "option `refresh_ttl` needs `ttl_sec`")
                .with_hint("set `ttl_sec`, the number of seconds that a chunk lives"));
        }
        check_range("ttl_sec", self.ttl_sec.unwrap_or(1), MAX_TTL)
    }

    /// The time to live that a read sets, in seconds, if it sets one.
    pub(crate) fn refresh_sec(&self) -> Option<u64> {
        self.ttl_sec.filter(|_| self.refresh_ttl)
    }
}
