//! `kvconn list`: lists the connectors and adapters that are linked into this binary.

use std::io::Write;

use connectors::registry::{self, Origin};
use serde::Serialize;

use crate::args::ListArgs;
use crate::output::{Answer, BOLD, Failure, Out, PLAIN};

#[derive(Serialize)]
struct Linked {
    connectors: Vec<LinkedConnector>,
    adapters: Vec<LinkedAdapter>,
}

#[derive(Serialize)]
struct LinkedConnector {
    module: &'static str,
    name: &'static str,
    schemes: &'static [&'static str],
    summary: &'static str,
    package: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct LinkedAdapter {
    scheme: &'static str,
    summary: &'static str,
    package: &'static str,
    version: &'static str,
}

pub(crate) fn run(args: &ListArgs, out: &mut Out) -> Result<Answer, Failure> {
    let linked = Linked::in_this_binary();
    if args.json {
        out.json(&linked)?;
    } else {
        linked.table(out)?;
    }
    // After the table, so that the user sees both sides of a conflict.
    registry::validate()?;
    Ok(Answer::Yes)
}

impl Linked {
    fn in_this_binary() -> Self {
        let connectors = registry::connectors().iter().map(|e| {
            let Origin { package, version, .. } = e.origin();
            let (module, name, schemes) = (e.module(), e.name(), e.schemes());
            LinkedConnector { module, name, schemes, summary: e.summary(), package, version }
        });
        let adapters = registry::adapters().iter().map(|e| {
            let Origin { package, version, .. } = e.origin();
            let summary = e.doc().lines().next().unwrap_or_default();
            LinkedAdapter { scheme: e.scheme(), summary, package, version }
        });
        Self { connectors: connectors.collect(), adapters: adapters.collect() }
    }

    fn table(&self, out: &mut Out) -> Result<(), Failure> {
        let mut rows: Vec<[String; 3]> = Vec::new();
        for c in &self.connectors {
            let schemes: Vec<String> = c.schemes.iter().map(|s| format!("{s}://")).collect();
            rows.push([format!("{}/{}", c.module, c.name), schemes.join(" "), format!("{} {}", c.package, c.version)]);
        }
        for a in &self.adapters {
            rows.push(["(adapter)".into(), format!("{}://", a.scheme), format!("{} {}", a.package, a.version)]);
        }
        let heads = ["CONNECTOR", "SCHEMES", "PACKAGE"];
        let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0).max(heads[column].len());
        let (name, schemes) = (width(0), width(1));
        writeln!(out, "{BOLD}{:name$}  {:schemes$}  {}{PLAIN}", heads[0], heads[1], heads[2])?;
        let summaries = self.connectors.iter().map(|c| c.summary).chain(self.adapters.iter().map(|a| a.summary));
        for ([first, second, third], summary) in rows.iter().zip(summaries) {
            writeln!(out, "{first:name$}  {second:schemes$}  {third}\n    {summary}")?;
        }
        writeln!(
            out,
            "\nYou can also open each as external://HOST:PORT/MODULE/?connector_name=NAME or plugin://SCHEME[.INSTANCE].\n\
             `kvconn describe NAME` shows its options."
        )?;
        Ok(())
    }
}
