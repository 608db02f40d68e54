//! `kvconn scrub`: finds the files in a directory of chunks that are not whole chunks.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use connectors::fs::{Finding, FindingKind, ScrubOptions, ScrubReport, scrub_with};
use connectors::{ConnectorContext, Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::ScrubArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Progress, count, users};
use crate::setup::Setup;
use crate::size::ByteSize;

pub(crate) async fn run(setup: &Setup, args: &ScrubArgs, out: &mut Out) -> Result<Answer, Failure> {
    let store = if args.store.contains("://") {
        setup.builder(&args.store).existing(true).build()?
    } else {
        let path = std::path::absolute(&*args.store)
            .map_err(|e| Error::io(e, format_args!("find the directory `{}`", users(&args.store))))?;
        // Without this check, scrub would report a missing directory as clean.
        if !path.is_dir() {
            let directory = args.store.split_once('?').map(|(directory, _)| Path::new(directory));
            if let Some(directory) = directory.filter(|_| !path.exists()) {
                // Another text before the `?` may be a part of a secret.
                let path = std::path::absolute(directory).ok().filter(|path| path.is_dir());
                let path = path.unwrap_or_else(|| "/path".into());
                let why = "options follow the directory, and only a URL has options";
                return Err(Error::new(ErrorKind::InvalidInput, why)
                    .with_hint(format!("write `fs://{}?option=value`", path.display()))
                    .into());
            }
            let why = format!("`{}` is not a directory", users(&path.to_string_lossy()));
            return Err(Error::new(ErrorKind::Io, why).into());
        }
        let store = setup.builder(&format!("fs://{}", path.display())).build()?;
        if !is_only_directory(&store, &path) {
            let why = format!("the path `{}` cannot be written as a store's URL", path.display());
            return Err(Error::new(ErrorKind::InvalidInput, why)
                .with_hint("use a path without `,`, `?`, `#` and trailing spaces, for example a symbolic link")
                .into());
        }
        store
    };
    let options = ScrubOptions { remove: args.remove, min_age: Duration::from_secs(args.min_age) };
    let progress = Progress::counter();
    let steps = progress.steps();
    let say = move |report: &ScrubReport| {
        if report.chunks.is_multiple_of(1000) {
            steps.say(format!("{} chunks, {}", report.chunks, size(report.chunk_bytes)));
        }
    };
    let scrubbed =
        setup.interrupt.stops(tokio::task::spawn_blocking(move || scrub_with(&store, &options, say))).await?;
    drop(progress);
    let report = scrubbed.map_err(|_| Error::new(ErrorKind::Other, "the scrub panicked"))??;
    if args.json {
        out.json(&as_json(&report))?;
    } else {
        show(&report, out)?;
    }
    Ok(Answer::yes_if(report.left().next().is_none()))
}

/// Whether the store consists of this directory alone. In a URL, `?` ends the path and `,` starts another directory.
fn is_only_directory(store: &ConnectorContext, path: &Path) -> bool {
    let in_url = store.url().path();
    Path::new(in_url) == path && !in_url.contains(',') && in_url.trim() == in_url
}

fn as_json(report: &ScrubReport) -> Value {
    let file = |found: &Finding| {
        json!({
            "path": found.path.to_string_lossy(), "bytes": found.bytes, "kind": found.kind.as_str(),
            "reason": found.reason, "removed": found.removed,
        })
    };
    json!({
        "chunks": report.chunks, "chunk_bytes": report.chunk_bytes, "being_written": report.being_written,
        "directories": report.directories,
        "findings": report.findings.iter().map(file).collect::<Vec<_>>(),
    })
}

/// What to do about a file of this kind.
fn advice(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Torn => "a get fails. Remove the file; an engine puts the chunk again",
        FindingKind::LeftBehind => "its writer ended early. `kvconn scrub --remove` removes it",
        FindingKind::Unfinished => "another program may still write it. Remove it if none does",
        FindingKind::Foreign => "no get reads it. Move it out of the store if you do not need it there",
        FindingKind::Unreadable => "check its permissions and its disk",
        _ => "see its reason",
    }
}

fn size(bytes: u64) -> ByteSize {
    ByteSize(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn show(report: &ScrubReport, out: &mut Out) -> Result<(), Failure> {
    for found in &report.findings {
        let Finding { path, bytes, kind, reason, removed, .. } = found;
        let removed = if *removed { "; removed" } else { "" };
        // The line starts with the path already.
        let reason = reason.strip_prefix(&format!("file `{}`: ", path.display())).unwrap_or(reason);
        out.path(path)?;
        writeln!(out, ": {} ({}, {}{removed})", kind.as_str(), size(*bytes), out.shown(reason))?;
    }
    let whole = count(usize::try_from(report.chunks).unwrap_or(usize::MAX), "chunk");
    writeln!(out, "{whole}, {}", size(report.chunk_bytes))?;
    if report.being_written > 0 {
        writeln!(out, "{} being written", report.being_written)?;
    }
    let (all, left) = (report.findings.len(), report.left().count());
    writeln!(out, "{}, {} removed", count(all, "other file"), all - left)?;
    if report.directories > 0 {
        let noun = if report.directories == 1 { "directory" } else { "directories" };
        writeln!(out, "{} {noun} not scanned (`?namespace=NAME` in a URL scans a namespace)", report.directories)?;
    }
    let kinds: BTreeMap<&str, FindingKind> = report.left().map(|found| (found.kind.as_str(), found.kind)).collect();
    for (name, kind) in kinds {
        writeln!(out, "  {name}: {}", advice(kind))?;
    }
    Ok(())
}
