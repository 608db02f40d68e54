//! The arguments of `bench`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use clap::Args;

use crate::size::ByteSize;
use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// A second store. Each round measures both
    #[arg(long, value_name = "URL")]
    pub(crate) vs: Option<StoreUrl>,
    /// Size of a chunk: 64KiB, 4MiB, 1GiB, 1000 (bytes)
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub(crate) chunk_size: ByteSize,
    /// Number of chunks
    #[arg(long, default_value = "64", value_name = "N", value_parser = value::positive)]
    pub(crate) keys: NonZeroUsize,
    /// Chunks per call. The latencies are those of calls
    #[arg(long, default_value = "1", value_name = "N", value_parser = value::positive)]
    pub(crate) batch: NonZeroUsize,
    /// Calls in flight
    #[arg(long, default_value = "8", value_name = "N", value_parser = value::positive)]
    pub(crate) concurrency: NonZeroUsize,
    /// Number of rounds. Each round puts and gets every chunk once
    #[arg(long, default_value = "3", value_name = "N", value_parser = value::positive)]
    pub(crate) rounds: NonZeroUsize,
    /// Serve metrics to Prometheus while the benchmark runs: a port of 127.0.0.1, or an address and a port
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = value::listen)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
