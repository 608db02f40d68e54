//! The arguments of `put`, `get`, `stat`, `exists` and `rm`.

use std::path::PathBuf;

use clap::Args;
use connectors::{Dtype, MemoryFormat, Shape};

use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// The chunk's name, see below
    pub(crate) key: String,
    /// The chunk's bytes; `-` for stdin
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) layout: Option<LayoutArgs>,
}

/// How the lines of an output and of stdin end.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LineArgs {
    /// End each line with a NUL byte, for `xargs -0` and `--stdin`: a key may contain a line break
    #[arg(short = '0', long)]
    null: bool,
}

impl LineArgs {
    pub(crate) fn end(self) -> char {
        if self.null { '\0' } else { '\n' }
    }
}

/// Either all of these are set, or none. With none, the chunk is plain bytes.
#[derive(Debug, Args)]
#[group(requires_all = ["shape", "dtype", "format"])]
pub(crate) struct LayoutArgs {
    /// The chunk's dimensions, as 2,12,256,768. Needs --dtype and --format. Without them the chunk is plain bytes
    #[arg(long, required = false, value_parser = value::shape)]
    pub(crate) shape: Shape,
    #[arg(long, required = false, value_parser = value::dtype, help = format!("The type of the elements: {}", value::dtypes()))]
    pub(crate) dtype: Dtype,
    #[arg(long, required = false, value_parser = value::format, help = format!("The meaning of the dimensions: {}", value::formats()))]
    pub(crate) format: MemoryFormat,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// The chunk's name
    pub(crate) key: String,
    /// Write to this file instead of stdout. A new or plain file is replaced when the chunk is complete; a device, a
    /// pipe and the target of a link are written to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// The chunks' names
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExistsArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// The chunks' names
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Read the keys from stdin, one a line
    #[arg(long)]
    pub(crate) stdin: bool,
    #[command(flatten)]
    pub(crate) lines: LineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// The chunks' names
    #[arg(
        required_unless_present_any = ["prefix", "all", "stdin"],
        conflicts_with_all = ["prefix", "all", "stdin"],
        value_name = "KEY"
    )]
    pub(crate) keys: Vec<String>,
    /// Remove all chunks whose keys start with this text
    #[arg(long, value_name = "TEXT", value_parser = value::prefix, conflicts_with_all = ["all", "stdin"])]
    pub(crate) prefix: Option<String>,
    /// Remove all chunks of the store
    #[arg(long, conflicts_with = "stdin")]
    pub(crate) all: bool,
    /// Read the keys from stdin, one a line
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Print the keys of the chunks that kvconn would remove, and remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Do not ask before a removal by --prefix or --all. kvconn asks only on a terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) lines: LineArgs,
}
