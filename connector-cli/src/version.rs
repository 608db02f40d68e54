//! The version of this binary: its commit, its features, and the connectors in it.

use std::io::Write;
use std::sync::LazyLock;

use connectors::registry;
use serde_json::json;

use crate::exit::{Answer, Failure};
use crate::output::{Out, mode};

/// `0.1.0 (297a12912345)`, or the number alone if the build did not know its commit.
pub(crate) const SHORT: &str = env!("KVCONN_VERSION");

/// From the build script. Empty if the build did not know it.
const COMMIT: &str = env!("KVCONN_COMMIT");
const TARGET: &str = env!("KVCONN_TARGET");
const RUSTC: &str = env!("KVCONN_RUSTC");
/// Separated by `,`.
const FEATURES: &str = env!("KVCONN_FEATURES");

fn connectors() -> Vec<String> {
    registry::connectors().iter().map(|entry| entry.full_name()).collect()
}

/// The text of `--version`, behind the command's name.
pub(crate) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{SHORT}\ntarget      {TARGET}\nrustc       {RUSTC}\nfeatures    {}\nconnectors  {}",
            FEATURES.replace(',', ", "),
            connectors().join(", ")
        )
    });
    &LONG
}

pub(crate) fn run(out: &mut Out) -> Result<Answer, Failure> {
    if mode::is_json() {
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        out.json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "commit": some(COMMIT), "target": TARGET, "rustc": some(RUSTC),
            "features": FEATURES.split(',').filter(|name| !name.is_empty()).collect::<Vec<_>>(),
            "connectors": connectors(),
        }))?;
    } else {
        writeln!(out, "kvconn {}", long())?;
    }
    Ok(Answer::Yes)
}
