//! The arguments of `cp`.

use std::num::NonZeroUsize;

use clap::Args;

use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// The store to copy from
    #[arg(value_name = "FROM")]
    pub(crate) source: StoreUrl,
    /// The store to copy to
    #[arg(value_name = "TO")]
    pub(crate) target: StoreUrl,
    /// Copy only keys that start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Chunks in flight [default: the calls at once that suit the two stores, 8 or more]. Each one takes the memory of
    /// two chunks. Fewer chunks are in flight if `max_local_cpu_size` has too little memory
    #[arg(long, value_name = "N", value_parser = value::positive)]
    pub(crate) concurrency: Option<NonZeroUsize>,
    /// Skip chunks that the destination already has, without reading and comparing them
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) skip_existing: bool,
    /// Overwrite chunks that the destination already has, without comparing them
    #[arg(long)]
    pub(crate) overwrite: bool,
}
