//! The arguments of `ping`, `doctor`, `check` and `scrub`.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Args;
#[cfg(feature = "fs")]
use clap::builder::{NonEmptyStringValueParser, TypedValueParser as _};

use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// The store [default: the store of KVCONN_URL]
    pub(crate) url: Option<StoreUrl>,
    /// Number of pings; 0 for no end
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = value::number)]
    pub(crate) count: u64,
    /// The time between two pings
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = value::duration)]
    pub(crate) interval: Duration,
    /// The longest time for the open, for a ping, and for the list of servers
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = value::positive_duration)]
    pub(crate) timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The store [default: the store of KVCONN_URL]
    pub(crate) url: Option<StoreUrl>,
    /// The longest time of each step. A store needs up to its `connect_timeout_ms` to say why it does not open
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = value::positive_duration)]
    pub(crate) timeout: Duration,
    /// Write nothing: do not put and remove a chunk. For a user with read rights only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The store
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    pub(crate) url: Option<StoreUrl>,
    /// Run only the checks of this chapter of docs/connector/contract.md (round trip, overwriting, ..), or with this text in
    /// their name
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// The time limit of one check. A check that takes longer fails. A small call that takes an eighth of it hangs, and the
    /// remaining checks are skipped
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = value::positive_seconds)]
    pub(crate) timeout: NonZeroU64,
    /// List the checks and their rules. Needs no store
    #[arg(long)]
    pub(crate) list: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "fs")]
#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// The store, or its directory
    #[arg(value_name = "URL|PATH", value_parser = NonEmptyStringValueParser::new().try_map(|text| text.parse::<StoreUrl>()))]
    pub(crate) store: StoreUrl,
    /// Remove the temporary files that kvconn's writers left behind
    #[arg(long)]
    pub(crate) remove: bool,
    /// Treat a file that changed within this time as one that a writer still writes
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = value::seconds)]
    pub(crate) min_age: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
