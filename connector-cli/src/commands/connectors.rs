//! `kvconn connectors`: lists the connectors and adapters that are linked into this binary.

use std::io::Write;

use connectors::registry::{self, AdapterEntry};
use serde_json::{Value, json};

use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, mode};

pub(crate) fn run(out: &mut Out) -> Result<Answer, Failure> {
    if mode::is_json() {
        out.json(&as_json())?;
    } else {
        print(out)?;
    }
    // After the list, so that the user sees both sides of a conflict.
    registry::validate()?;
    Ok(Answer::Yes)
}

fn summary(adapter: &AdapterEntry) -> &'static str {
    adapter.doc().lines().next().unwrap_or_default()
}

fn as_json() -> Value {
    let connectors = registry::connectors().iter().map(|e| {
        json!({
            "module": e.module(), "name": e.name(), "schemes": e.schemes(), "summary": e.summary(),
            "package": e.origin().package, "version": e.origin().version,
        })
    });
    let adapters = registry::adapters().iter().map(|e| {
        json!({
            "scheme": e.scheme(), "summary": summary(e),
            "package": e.origin().package, "version": e.origin().version,
        })
    });
    json!({ "connectors": connectors.collect::<Vec<_>>(), "adapters": adapters.collect::<Vec<_>>() })
}

fn print(out: &mut Out) -> Result<(), Failure> {
    let connectors = registry::connectors().iter().map(|e| {
        let schemes: Vec<String> = e.schemes().iter().map(|s| format!("{s}://")).collect();
        ([e.full_name(), schemes.join(" "), format!("{} {}", e.origin().package, e.origin().version)], e.summary())
    });
    let adapters = registry::adapters().iter().map(|e| {
        let package = format!("{} {}", e.origin().package, e.origin().version);
        (["(adapter)".into(), format!("{}://", e.scheme()), package], summary(e))
    });
    let rows: Vec<([String; 3], &str)> = connectors.chain(adapters).collect();
    let heads = ["CONNECTOR", "SCHEMES", "PACKAGE"];
    let width = |column: usize| rows.iter().map(|(r, _)| r[column].len()).max().unwrap_or(0).max(heads[column].len());
    let (name, schemes) = (width(0), width(1));
    let Style { bold, plain, .. } = out.style();
    writeln!(out, "{bold}{:name$}  {:schemes$}  {}{plain}", heads[0], heads[1], heads[2])?;
    for ([first, second, third], summary) in rows {
        writeln!(out, "{first:name$}  {second:schemes$}  {third}\n    {summary}")?;
    }
    writeln!(
        out,
        "\nYou can also open each as external://HOST:PORT/MODULE/?connector_name=NAME or plugin://SCHEME[.INSTANCE].\n\
         `kvconn describe NAME` shows its options."
    )?;
    Ok(())
}
