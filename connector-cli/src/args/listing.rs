//! The arguments of `list`, `describe`, `ls` and `du`.

use clap::Args;

use super::LineArgs;

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
    pub(crate) name: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The store
    pub(crate) url: String,
    /// List only keys that start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print each chunk's size, and the age of its last put, before its key; `-` if the store cannot say
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) long: bool,
    /// Print one JSON object a line: key, kind, model, hash, size in bytes, and the last put in seconds since 1970
    #[arg(long, conflicts_with = "null")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) lines: LineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// The store
    pub(crate) url: String,
    /// Count only chunks whose keys start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print JSON: chunks, bytes and chunks of unknown size, in total and for each model
    #[arg(long)]
    pub(crate) json: bool,
}
