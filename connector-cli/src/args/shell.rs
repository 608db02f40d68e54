//! The arguments of `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write the page of each command into this directory [default: print kvconn's own page]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
