//! The arguments of `demo` and `new`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Store into this directory, and keep it
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The crate's name, as my-store: lower-case letters, digits, `-` and `_`
    pub(crate) name: String,
    /// The folder to make [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// Take kvconn's crates from this checkout, by its path on this machine [default: the release of this command]
    #[arg(long, value_name = "DIR")]
    pub(crate) kvconn_path: Option<PathBuf>,
}
