//! The arguments of `cp`.

use std::num::NonZeroUsize;

use clap::Args;

use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// The store to copy from, or an archive: FILE.tar, or `-` for stdin
    #[arg(value_name = "FROM")]
    pub(crate) source: StoreUrl,
    /// The store to copy to, or an archive: FILE.tar, or `-` for stdout
    #[arg(value_name = "TO")]
    pub(crate) target: StoreUrl,
    /// Copy only keys that start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Skip chunks that the destination already has, without reading and comparing them
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) skip_existing: bool,
    /// Overwrite chunks that the destination already has, without comparing them
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Read back every chunk that was written, and compare it. Not for a tiered store, which reads from its front first
    #[arg(long)]
    pub(crate) verify: bool,
    /// Count the chunks that the destination lacks, and copy none
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Stop when N chunks have failed
    #[arg(long, value_name = "N", default_value = "100", value_parser = value::positive)]
    pub(crate) max_errors: NonZeroUsize,
    /// Batches in flight
    #[arg(long, value_name = "N", default_value = "4", value_parser = value::positive)]
    pub(crate) concurrency: NonZeroUsize,
    /// The most chunks of a batch [default: the calls at once that suit the two stores, 16 to 64]. Large chunks make
    /// smaller batches: the batches in flight fit `max_local_cpu_size`
    #[arg(long, value_name = "N", value_parser = value::positive)]
    pub(crate) batch: Option<NonZeroUsize>,
    /// Print the totals as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
