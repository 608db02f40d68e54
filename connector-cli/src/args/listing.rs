//! The arguments of `describe`, `ls` and `du`.

use std::num::NonZeroUsize;

use clap::Args;

use super::LineArgs;
use crate::stores::StoreUrl;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// A connector's name, module, module/Name, scheme, or a URL
    #[arg(value_name = "NAME|URL")]
    pub(crate) name: StoreUrl,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The store [default: the store of KVCONN_URL]
    pub(crate) url: Option<StoreUrl>,
    /// List only keys that start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print each chunk's size in bytes, and the age of its last put, before its key; `-` if the store cannot say.
    /// `kvconn stat` shows a chunk's layout
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Print sizes with units, as 4 MiB. Needs --long
    #[arg(long, requires = "long")]
    pub(crate) human: bool,
    /// Print only the number of keys
    #[arg(long, conflicts_with_all = ["long", "null"])]
    pub(crate) count: bool,
    /// Stop after this many keys
    #[arg(long, value_name = "N", value_parser = value::positive)]
    pub(crate) limit: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) lines: LineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// The store [default: the store of KVCONN_URL]
    pub(crate) url: Option<StoreUrl>,
    /// Count only chunks whose keys start with this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print sizes with units, as 4 MiB
    #[arg(long)]
    pub(crate) human: bool,
}
