//! `kvconn ls`: lists the keys of a store.

use std::io::Write;
use std::time::UNIX_EPOCH;

use connectors::{BoxStream, CacheKey, Connector, KeyKind, ListEntry};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::args::LsArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Age, Out, Progress, mode};
use crate::setup::Setup;
use crate::size::ByteSize;

pub(crate) async fn run(setup: &Setup, args: &LsArgs, out: &mut Out) -> Result<Answer, Failure> {
    setup
        .with_store(&setup.store(&args.url)?, async |store| {
            let mut entries = entries(setup, store, args);
            if args.count {
                let n = count(&mut entries).await?;
                if mode::is_json() {
                    out.json(&json!({ "count": n }))?;
                } else {
                    writeln!(out, "{n}")?;
                }
                return Ok(Answer::Yes);
            }
            while let Some(entry) = entries.try_next().await? {
                if out.is_closed() {
                    break;
                }
                print(&entry, args, out)?;
            }
            Ok(Answer::Yes)
        })
        .await
}

fn entries<'a>(setup: &Setup, store: &'a Connector, args: &'a LsArgs) -> BoxStream<'a, connectors::Result<ListEntry>> {
    let entries = if (mode::is_json() || args.long) && !args.count {
        setup.list_entries(store, &args.prefix)
    } else {
        // `list` does not ask the store for sizes.
        setup.list(store, &args.prefix).map_ok(ListEntry::new).boxed()
    };
    match args.limit {
        Some(limit) => entries.take(limit.get()).boxed(),
        None => entries,
    }
}

async fn count(entries: &mut BoxStream<'_, connectors::Result<ListEntry>>) -> Result<usize, Failure> {
    let progress = Progress::counter();
    let mut n = 0;
    while entries.try_next().await?.is_some() {
        n += 1;
        if n % 1000 == 0 {
            progress.say(format!("{n} keys"));
        }
    }
    Ok(n)
}

fn print(entry: &ListEntry, args: &LsArgs, out: &mut Out) -> Result<(), Failure> {
    if mode::is_json() {
        return out.json_line(&as_json(entry));
    }
    if args.long {
        let size = match entry.size {
            None => "-".into(),
            Some(bytes) if args.human => ByteSize(bytes as usize).to_string(),
            Some(bytes) => bytes.to_string(),
        };
        let age = entry.modified.map_or("-".into(), |time| Age(time.elapsed().unwrap_or_default()).to_string());
        write!(out, "{size:>10}  {age:>5}  ")?;
    }
    Ok(write!(out, "{}{}", out.shown(entry.key.as_str()), args.lines.end())?)
}

fn as_json(ListEntry { key, size, modified, .. }: &ListEntry) -> Value {
    let (kind, model, hash) = (kind_name(key), key.model_name(), key.chunk_hash_hex());
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs_f64());
    json!({ "key": key.as_str(), "kind": kind, "model": model, "hash": hash, "size": size, "modified": modified })
}

pub(super) fn kind_name(key: &CacheKey) -> &'static str {
    match key.kind() {
        KeyKind::Engine if key.layer_id().is_some() => "layer",
        KeyKind::Engine => "engine",
        KeyKind::Object => "object",
        _ => "other",
    }
}
