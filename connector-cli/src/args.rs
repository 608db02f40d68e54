//! The command line: the global options, and the commands. The arguments of each command are in the files of this folder.

mod checking;
mod chunks;
mod copying;
#[cfg(test)]
mod documented;
mod listing;
mod measuring;
mod shell;
mod starting;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use connectors::KeyKind;

use crate::exit::AFTER_HELP;
use crate::output::mode::Color;
use crate::version;

#[cfg(feature = "fs")]
pub(crate) use checking::ScrubArgs;
pub(crate) use checking::{CheckArgs, DoctorArgs, PingArgs};
pub(crate) use chunks::{ExistsArgs, GetArgs, LayoutArgs, LineArgs, PutArgs, RmArgs, StatArgs};
pub(crate) use copying::CpArgs;
pub(crate) use listing::{DescribeArgs, DuArgs, LsArgs};
pub(crate) use measuring::BenchArgs;
pub(crate) use shell::{CompletionsArgs, ManArgs};
pub(crate) use starting::{DemoArgs, NewArgs};

/// The end of the help of the commands that take keys.
macro_rules! keys_and {
    ($($examples:literal)*) => {
        concat!("\
Keys, as LMCache writes them:
  model@world_size@worker_id@hash@dtype             a chunk, as opt@1@0@1f2e@half
  model@world_size@worker_id@hash@dtype@layer_id    a chunk of one layer
  model@kv_rank@group@hash                          a chunk of multiprocess mode; kv_rank has 8 hex digits
  World size, worker and layer are decimal; hash and group are hex. The dtype is half, bfloat16, float, uint8, ..

", $($examples),*)
    };
}

/// List, inspect, copy, check and benchmark remote KV-cache stores
///
/// A URL names a store. Use LMCache's forms, `external://host:port/module_path/?connector_name=Name` and `plugin://name`, or
/// a connector's own scheme, as in `fs:///var/cache/kv`. Or give a store a name, and write `@name` in place of its URL: see
/// `kvconn stores --help`. `@` alone stands for the store of KVCONN_URL.
#[derive(Debug, Parser)]
#[command(
    name = "kvconn",
    version = version::SHORT,
    long_version = version::long(),
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// LMCache's configuration file [default: the file that LMCACHE_CONFIG_FILE names]. `LMCACHE_<KEY>` variables override it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Read every key as this kind of key, and list only keys of this kind [default: the kind that the key's text shows]
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) key_kind: Option<KeyKindArg>,
    /// Print JSON: one object, or a line for each key. Errors are JSON, too, one a line on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no remarks, no progress, and no line that only confirms: `put`, `exists` and `rm` print nothing
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Log to stderr: -v for debug, -vv for trace. RUST_LOG overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// [`KeyKind`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KeyKindArg {
    // No doc comments here: clap would add them to the help of every command.
    Engine,
    Object,
}

impl From<KeyKindArg> for KeyKind {
    fn from(kind: KeyKindArg) -> Self {
        match kind {
            KeyKindArg::Engine => Self::Engine,
            KeyKindArg::Object => Self::Object,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the connectors in this binary, and the schemes of their URLs. `ls` lists the keys of a store
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  \
            kvconn connectors\n  \
            kvconn connectors --json | jq -r '.connectors[].schemes[]'"
    )]
    Connectors,
    /// List the stores that have a name
    ///
    /// A table `[stores.prod]` of the file of stores gives a store the name `@prod`. Its key `url` is the store's URL. Its
    /// other keys are options, as in the query of the URL. A secret option has a file: `password_file = "/path"`. The store
    /// `@` is that of KVCONN_URL, or else the one with the name `default`.
    #[command(
        after_help = "The file of stores is the one that KVCONN_CONFIG names, or ~/.config/kvconn/config.toml:\n  \
        [stores.prod]\n  \
        url = \"redis://cache:6379\"\n  \
        password_file = \"/run/secrets/redis\"\n  \
        timeout_ms = 500\n\n\
        Examples:\n  \
        kvconn stores\n  \
        kvconn ls @prod\n  \
        KVCONN_URL=fs:///var/cache/kv kvconn ls"
    )]
    Stores,
    /// Show a connector's documentation, URLs and options, without opening it
    #[command(after_help = "Examples:\n  kvconn describe fs\n  kvconn describe kvconn.fs/FSConnector --json")]
    Describe(DescribeArgs),
    /// Store a file as a chunk
    #[command(after_help = keys_and!("Examples:\n  \
        kvconn put fs:///tmp/kv opt@1@0@1f2e@half chunk.bin\n  \
        kvconn put fs:///tmp/kv opt@1@0@1f2e@half chunk.bin \\\n      \
        --shape 2,12,256,768 --dtype float16 --format KV_2LTD\n  \
        head -c 4096 /dev/urandom | kvconn put fs:///tmp/kv opt@1@0@1f2e@half -"))]
    Put(PutArgs),
    /// Read a chunk's bytes; print its layout to stderr
    #[command(after_help = keys_and!("Examples:\n  \
        kvconn get fs:///tmp/kv opt@1@0@1f2e@half -o chunk.bin\n  \
        kvconn get fs:///tmp/kv opt@1@0@1f2e@half | sha256sum"))]
    Get(GetArgs),
    /// Check whether chunks exist; exit code 1 if one does not
    #[command(after_help = keys_and!("Example:\n  kvconn exists fs:///tmp/kv opt@1@0@1f2e@half opt@1@0@3d4c@half"))]
    Exists(ExistsArgs),
    /// Show the size, the layout and the last put of chunks; exit code 1 if one does not exist
    ///
    /// kvconn reads each chunk, and asks the store's listing for the time of the last put.
    #[command(after_help = keys_and!("Examples:\n  \
        kvconn stat fs:///tmp/kv opt@1@0@1f2e@half\n  \
        kvconn stat fs:///tmp/kv opt@1@0@1f2e@half --json | jq .shape"))]
    Stat(StatArgs),
    /// List the keys of a store, one a line, unsorted. `connectors` lists the connectors
    #[command(after_help = "Examples:\n  \
        kvconn ls fs:///tmp/kv --prefix facebook/opt-125m@ | head\n  \
        kvconn ls fs:///tmp/kv -0 | xargs -0 kvconn exists fs:///tmp/kv\n  \
        kvconn ls fs:///tmp/kv -l --human --limit 10    with sizes and ages\n  \
        kvconn ls fs:///tmp/kv --count\n  \
        kvconn ls fs:///tmp/kv --json    one JSON object a line")]
    Ls(LsArgs),
    /// Count the chunks of a store and their bytes, for each model and in total
    #[command(after_help = "Examples:\n  \
        kvconn du fs:///tmp/kv --human\n  \
        kvconn du redis://h:6379 --prefix facebook/opt-125m@\n  \
        kvconn du fs:///tmp/kv --json | jq .bytes")]
    Du(DuArgs),
    /// Remove chunks; exit code 1 if a chunk that you name did not exist
    ///
    /// With --prefix or --all, kvconn removes the chunks that it lists, in batches, and prints their number.
    #[command(after_help = keys_and!("Examples:\n  \
        kvconn rm fs:///tmp/kv opt@1@0@1f2e@half\n  \
        kvconn rm fs:///tmp/kv --prefix facebook/opt-125m@ --dry-run\n  \
        kvconn rm fs:///tmp/kv --all\n  \
        kvconn ls fs:///tmp/kv -0 | grep -z @half | kvconn rm fs:///tmp/kv --stdin -0"))]
    Rm(RmArgs),
    /// Copy the chunks of a store or an archive into another store or archive, resumable
    ///
    /// kvconn copies chunks in batches, and moves each chunk once. It asks the destination which keys it has. If the
    /// destination has a key, kvconn reads the chunk from both stores and copies it only if the two differ. So you can run
    /// the same command again after an interrupt. With --skip-existing, kvconn does not read the chunks that the
    /// destination has. With --verify, it reads back every chunk that it wrote, and compares the bytes, and the shape,
    /// dtype and format if both stores keep them.
    ///
    /// An archive is a tar file with an entry for each chunk. The entry keeps the key and the layout. An archive gets its
    /// name only when it is complete. Reading an archive that was cut short is an error. One file or pipe may hold several
    /// archives, one after another. If two of them differ in a chunk, kvconn keeps either one, and --verify may fail. kvconn
    /// cannot see a cut between two archives.
    #[command(after_help = "Examples:\n  \
        kvconn cp fs:///var/cache/kv fs:///mnt/nfs/kv\n  \
        kvconn cp fs:///var/cache/kv fs:///mnt/nfs/kv --prefix facebook/opt-125m@ --verify\n  \
        kvconn cp fs:///var/cache/kv 's3://bucket/kv?region=eu-west-1' --skip-existing\n  \
        kvconn cp redis://h:6379 backup.tar\n  \
        kvconn cp redis://h:6379 - | ssh bastion kvconn cp - redis://other:6379")]
    Cp(CpArgs),
    /// Find torn chunks and leftover temporary files in a store of files
    ///
    /// The exit code is 1 if the store still has a file that is not a whole chunk. Without --remove, scrub changes nothing.
    /// With --remove, it removes only temporary files of kvconn writers that have ended. Scrub cannot detect a changed byte
    /// in a chunk's content, because LMCache's format has no checksum.
    #[cfg(feature = "fs")]
    #[command(after_help = "Examples:\n  \
        kvconn scrub /var/cache/kv\n  \
        kvconn scrub fs:///var/cache/kv --remove\n  \
        kvconn scrub 'fs:///var/cache/kv?save_chunk_meta=false' --json")]
    Scrub(ScrubArgs),
    /// Check that a store answers, and show the round trip times and its servers
    ///
    /// A store on servers has a line for each: its address, its role, its version and its state. A replica or a sentinel
    /// that does not answer is only shown. A master that does not answer fails the check. With --count, each ping has a
    /// line, and a summary follows, also after Ctrl-C. The exit code is 1 if some pings were lost, and 3 if all were.
    #[command(after_help = "Examples:\n  \
        kvconn ping fs:///var/cache/kv\n  \
        kvconn ping redis://h:6379 -c 100 -i 0.1\n  \
        kvconn ping redis-cluster://h:7000,h:7001\n  \
        kvconn ping redis-sentinel://h:26379/service --json | jq '.servers[] | select(.error)'")]
    Ping(PingArgs),
    /// Examine a store and the way to it; each line is ok, or says what to change
    ///
    /// Doctor checks in this order: the URL and its options; the names of hosts, and the TCP connection; the open, with TLS
    /// and login; the servers' version, memory policy, persistence, clients and clock, or the disk; exists, put, get and
    /// remove of one chunk of 1 MiB with a key of its own (model `kvconn-doctor`); list; the round trip; and the limits of
    /// this machine. With `--read-only`, doctor leaves out put, get and remove. Each step has a time limit. `warn` means
    /// that the store works, but not as well or as long as it could. The exit code is 1 if a line is `fail`.
    #[command(after_help = "Examples:\n  \
        kvconn doctor redis://h:6379\n  \
        kvconn doctor 's3://bucket/kv?region=eu-west-1'\n  \
        kvconn doctor redis://reader@h:6379 --read-only\n  \
        kvconn doctor fs:///var/cache/kv --json | jq -r '.checks[] | select(.verdict != \"ok\").advice'")]
    Doctor(DoctorArgs),
    /// Check that a store keeps the contract of every connector; exit code 1 if it breaks a rule
    ///
    /// The checks use their own keys (model `kvconn-conformance-..`) and remove them after each check, even after a failure
    /// or an interrupt. A store that cannot remove chunks keeps about 250 MiB. The store needs 200 MiB of free room. A
    /// bounded store (a capacity, the front of a tiered store, any LRU) evicts other chunks to make that room. A check that
    /// does not apply to the store is skipped with a reason. A run passes only if at least one check passed. The checks that
    /// others rely on run first. If one fails, or a call hangs, the others are skipped and only counted.
    #[command(after_help = "Examples:\n  \
        kvconn check fs:///mnt/nvme/kv\n  \
        kvconn check memory://x --filter batch --json | jq -r '.checks[] | select(.outcome == \"failed\")'\n  \
        kvconn check --list")]
    Check(CheckArgs),
    /// Measure puts, gets and exists, and verify every byte
    ///
    /// The benchmark uses its own keys (model `kvconn-bench`) and removes them, even after an interrupt. The figures exclude
    /// a first pass that warms up the store and the memory, and the time to make and verify content. A store in this process
    /// may return the memory that it holds: such a get moves no bytes, so its rate is very high. CPU is the time that all
    /// threads of this process used: seconds per GiB, or time per `exists`.
    #[command(after_help = "Examples:\n  \
        kvconn bench fs:///mnt/nvme/kv\n  \
        kvconn bench fs:///mnt/nvme/kv --vs fs:///mnt/nfs/kv    compare two stores\n  \
        kvconn bench fs:///mnt/nvme/kv --batch 16 --concurrency 1\n  \
        kvconn bench redis://h:6379 --metrics-listen 9400    serves http://127.0.0.1:9400/metrics\n  \
        kvconn bench memory://bench --chunk-size 64KiB --keys 1024 --concurrency 4 --json")]
    Bench(BenchArgs),
    /// Store a file as a chain of chunks, read it back and verify it
    ///
    /// The demo needs no setup. It stores this command's own executable in a fresh directory, as chunks of the shape that
    /// facebook/opt-125m has.
    #[command(after_help = "Examples:\n  \
        kvconn demo\n  \
        kvconn demo --keep /tmp/kv && kvconn ls fs:///tmp/kv")]
    Demo(DemoArgs),
    /// Write the crate of a new connector, with its Python package, tests and CI
    ///
    /// The project builds and passes its tests as it is: its connector keeps chunks in a map. NAME is the crate's name. The
    /// scheme, the Python package and the names of types come from it, without a `-kv` at its end.
    #[command(after_help = "Examples:\n  \
        kvconn new my-store && cd my-store && cargo test\n  \
        kvconn new acme-kv --path ~/src/acme --kvconn-path ~/src/kvconn")]
    New(NewArgs),
    /// Print the completions of the command for a shell
    #[command(after_help = "Examples:\n  \
        kvconn completions bash > ~/.local/share/bash-completion/completions/kvconn\n  \
        kvconn completions zsh > ~/.zfunc/_kvconn    with ~/.zfunc in fpath\n  \
        kvconn completions fish > ~/.config/fish/completions/kvconn.fish")]
    Completions(CompletionsArgs),
    /// Print the manual page, or write the pages of all commands into a directory
    #[command(after_help = "Examples:\n  \
        kvconn man | man -l -\n  \
        kvconn man ~/.local/share/man/man1 && man kvconn-ls")]
    Man(ManArgs),
    /// Show the version, the commit, the features and the connectors of this binary
    #[command(after_help = "Examples:\n  kvconn version\n  kvconn version --json | jq -r .commit")]
    Version,
}
