//! The command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use connectors::{Dtype, KeyKind, MemoryFormat, Shape};

use crate::size::ByteSize;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the answer is no (a key is missing), or some keys or checks failed
  2    the command line, a URL or a key is wrong
  3    the store, one of its options, a file or the configuration failed
  130  interrupted

Start here:
  kvconn demo
  kvconn list";

/// Remote KV-cache stores from a shell: list, inspect, copy, check and benchmark what a URL names.
///
/// A store is named as LMCache names it: `external://host:port/module_path/?connector_name=Name`, `plugin://name`, or by a
/// connector's own scheme: `fs:///var/cache/kv`.
#[derive(Debug, Parser)]
#[command(name = "kvconn", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// LMCache's configuration; else the file that LMCACHE_CONFIG_FILE names. `LMCACHE_<KEY>` variables lie over it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The kind of key to read; else the text tells
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) key_kind: Option<KeyKindArg>,
    /// Log to stderr: -v debug, -vv trace; RUST_LOG goes first
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// [`KeyKind`], as written on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KeyKindArg {
    // Without doc comments: they would blow up every command's help.
    Engine,
    Layer,
    Object,
}

impl From<KeyKindArg> for KeyKind {
    fn from(kind: KeyKindArg) -> Self {
        match kind {
            KeyKindArg::Engine => Self::Engine,
            KeyKindArg::Layer => Self::Layer,
            KeyKindArg::Object => Self::Object,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what is linked into this binary
    #[command(after_help = "Examples:\n  kvconn list\n  kvconn list --json | jq -r '.connectors[].schemes[]'")]
    List(ListArgs),
    /// Show a connector's documentation, URLs and options, without opening it
    #[command(after_help = "Examples:\n  kvconn describe fs\n  kvconn describe kvconn.fs/FSConnector --json")]
    Describe(DescribeArgs),
    /// Store a file as a chunk
    #[command(after_help = "Examples:\n  \
        kvconn put fs:///tmp/kv opt@1@0@1f2e@half chunk.bin\n  \
        kvconn put fs:///tmp/kv opt@1@0@1f2e@half chunk.bin \\\n      \
        --shape 2,12,256,768 --dtype float16 --format KV_2LTD\n  \
        head -c 4096 /dev/urandom | kvconn put fs:///tmp/kv opt@1@0@1f2e@half -")]
    Put(PutArgs),
    /// Read a chunk's bytes; its layout goes to stderr
    #[command(after_help = "Examples:\n  \
        kvconn get fs:///tmp/kv opt@1@0@1f2e@half -o chunk.bin\n  \
        kvconn get fs:///tmp/kv opt@1@0@1f2e@half | sha256sum")]
    Get(GetArgs),
    /// Ask whether chunks are stored; exit code 1 if one is not
    #[command(after_help = "Example:\n  kvconn exists fs:///tmp/kv opt@1@0@1f2e@half opt@1@0@3d4c@half")]
    Exists(KeysArgs),
    /// List the keys of a store, one a line, as they come
    #[command(after_help = "Examples:\n  \
        kvconn ls fs:///tmp/kv --prefix facebook/opt-125m@ | head\n  \
        kvconn ls fs:///tmp/kv --json    one JSON object a line")]
    Ls(LsArgs),
    /// Remove chunks; exit code 1 if one was not there
    #[command(after_help = "Examples:\n  \
        kvconn rm fs:///tmp/kv opt@1@0@1f2e@half\n  \
        kvconn ls fs:///tmp/kv --prefix opt@ | xargs kvconn rm fs:///tmp/kv")]
    Rm(KeysArgs),
    /// Copy all chunks of a store into another, verified and resumable
    ///
    /// A key that the destination has already is read from both and compared: equal chunks are skipped, different ones are
    /// copied. So the same command again goes on where it stopped. Every chunk that is written is read back and compared:
    /// its bytes, and its shape, dtype and format if both stores keep them.
    #[command(after_help = "Examples:\n  \
        kvconn cp fs:///var/cache/kv fs:///mnt/nfs/kv\n  \
        kvconn cp fs:///var/cache/kv fs:///mnt/nfs/kv --prefix facebook/opt-125m@ --concurrency 16")]
    Cp(CpArgs),
    /// Look through a store of files for torn chunks and for what writers left behind
    ///
    /// Exit code 1 if something is left that is no chunk. Changes nothing unless --remove is given, and removes then only
    /// temporary files of kvconn's own writers that are gone. A changed byte of a chunk's content cannot be seen: LMCache's
    /// format has no checksum.
    #[cfg(feature = "fs")]
    #[command(after_help = "Examples:\n  \
        kvconn scrub /var/cache/kv\n  \
        kvconn scrub fs:///var/cache/kv --remove\n  \
        kvconn scrub 'fs:///var/cache/kv?save_chunk_meta=false' --json")]
    Scrub(ScrubArgs),
    /// Ask a store whether it is there, and show the round trip
    #[command(after_help = "Example:\n  kvconn ping fs:///var/cache/kv")]
    Ping(PingArgs),
    /// Check that a store keeps the contract of every connector; exit code 1 if it breaks a rule
    ///
    /// Works on keys of its own (model `kvconn-conformance-..`) and removes them after each check, also when it is interrupted
    /// or a check fails; a store that cannot remove keeps about 250 MiB. The store needs room for 200 MiB. A bounded store
    /// (a capacity, the front of a tiered store, any LRU) makes that room: it evicts chunks of others. A check that does not
    /// apply to the store is skipped and says why; a run in which no check passed has not passed.
    #[command(after_help = "Examples:\n  \
        kvconn check fs:///mnt/nvme/kv\n  \
        kvconn check memory://x --filter batch --json | jq -r '.checks[] | select(.outcome == \"failed\")'\n  \
        kvconn check --list")]
    Check(CheckArgs),
    /// Measure puts, gets and exists, and verify every byte
    ///
    /// Works on keys of its own (model `kvconn-bench`) and removes them, also when it is interrupted. Making and verifying
    /// content does not count, neither does a first pass that warms up store and memory. A store inside this process may
    /// give out the memory it holds: then a get moves no bytes, and its rate says so. CPU is what this process used, all
    /// threads together: seconds for a GiB, or time for a question.
    #[command(after_help = "Examples:\n  \
        kvconn bench fs:///mnt/nvme/kv\n  \
        kvconn bench fs:///mnt/nvme/kv --vs fs:///mnt/nfs/kv    in turn, and how many times as fast\n  \
        kvconn bench fs:///mnt/nvme/kv --batch 16 --concurrency 1\n  \
        kvconn bench memory://bench --chunk-size 64KiB --keys 1024 --concurrency 4 --json")]
    Bench(BenchArgs),
    /// Show kvconn at work: a file as a chain of chunks in a store, read back and verified
    ///
    /// Needs nothing: stores this command's own executable in a fresh directory as chunks of facebook/opt-125m's shape.
    #[command(after_help = "Examples:\n  \
        kvconn demo\n  \
        kvconn demo --keep /tmp/kv && kvconn ls fs:///tmp/kv")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// A connector's name, module, module/Name, scheme, or a URL
    #[arg(value_name = "NAME|URL")]
    pub(crate) what: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The store
    pub(crate) url: String,
    /// The chunk's name: model@world_size@worker_id@hash@dtype, or another of LMCache's keys
    pub(crate) key: String,
    /// The chunk's bytes; `-` for stdin
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) layout: Option<LayoutArgs>,
}

/// All of them, or none: plain bytes then.
#[derive(Debug, Args)]
#[group(requires_all = ["shape", "dtype", "format"])]
pub(crate) struct LayoutArgs {
    /// The chunk's dimensions, as 2,12,256,768; with --dtype and --format. Plain bytes unless given
    #[arg(long, required = false)]
    pub(crate) shape: Shape,
    /// The elements' type, as float16
    #[arg(long, required = false)]
    pub(crate) dtype: Dtype,
    /// What the dimensions mean, as KV_2LTD
    #[arg(long, required = false)]
    pub(crate) format: MemoryFormat,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The store
    pub(crate) url: String,
    /// The chunk's name
    pub(crate) key: String,
    /// Write to this file instead of stdout; it appears when it is whole
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// The store
    pub(crate) url: String,
    /// The chunks' names
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The store
    pub(crate) url: String,
    /// Only keys whose text starts with this
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print one JSON object a line: key, kind, model, hash
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// The store to copy from
    #[arg(value_name = "FROM")]
    pub(crate) source: String,
    /// The store to copy to
    #[arg(value_name = "TO")]
    pub(crate) target: String,
    /// Only keys whose text starts with this
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Chunks in flight; each takes the memory of two
    #[arg(long, default_value = "8", value_name = "N")]
    pub(crate) concurrency: NonZeroUsize,
    /// Copy also what the destination has already, without a look at it
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[cfg(feature = "fs")]
#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// The store, or its directory
    #[arg(value_name = "URL|PATH")]
    pub(crate) store: String,
    /// Remove the temporary files that kvconn's writers left behind
    #[arg(long)]
    pub(crate) remove: bool,
    /// Take files that changed within so many seconds for files that are being written
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    pub(crate) min_age: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// The store
    pub(crate) url: String,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The store
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    pub(crate) url: Option<String>,
    /// Only checks of this chapter, or with this text in their name
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// How long one check may take before it counts as one that hangs
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(crate) timeout: NonZeroU64,
    /// Show the checks and what each is for, without a store
    #[arg(long)]
    pub(crate) list: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The store
    pub(crate) url: String,
    /// A second store, measured in turn with the first in each round
    #[arg(long, value_name = "URL")]
    pub(crate) vs: Option<String>,
    /// Bytes of a chunk: 64KiB, 4MiB, 1GiB, 1000
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub(crate) chunk_size: ByteSize,
    /// How many chunks
    #[arg(long, default_value = "64", value_name = "N")]
    pub(crate) keys: NonZeroUsize,
    /// Chunks of one call; a latency is that of a call
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
    /// Calls in flight
    #[arg(long, default_value = "8", value_name = "N")]
    pub(crate) concurrency: NonZeroUsize,
    /// How often each chunk is put and got
    #[arg(long, default_value = "3", value_name = "N")]
    pub(crate) rounds: NonZeroUsize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Store into this directory, and leave it there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}
