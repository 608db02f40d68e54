//! `kvconn rm --prefix` and `--all`: removes the chunks that the store lists.

use std::io::{self, BufRead, IsTerminal, Write};

use connectors::{CacheKey, Connector, Error};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use super::keys;
use crate::args::RmArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Errors, Out, Progress, count, mode, print_note};
use crate::setup::Setup;

/// Keys of one call.
const BATCH: usize = 1000;

pub(crate) async fn run(setup: &Setup, args: &RmArgs, out: &mut Out) -> Result<Answer, Failure> {
    if args.prefix.is_none() && !args.all {
        return keys::rm(setup, args, out).await;
    }
    let prefix = args.prefix.as_deref().unwrap_or_default();
    if args.dry_run {
        return setup.with_store(&args.url, async |store| show(setup, store, prefix, args, out).await).await;
    }
    let store = setup.builder(&args.url).existing(true);
    setup
        .with_opened(store, async |store| {
            if !store.capabilities().remove {
                return Err(Error::unsupported("remove").with_connector(store.name()).into());
            }
            let mut expected = None;
            if !args.yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
                let n = setup.interrupt.stops(number(setup, store, prefix)).await??;
                if !is_confirmed(setup, n, store.name())? {
                    print_note("nothing is removed");
                    return Ok(Answer::No);
                }
                expected = Some(n as u64);
            }
            remove(setup, store, prefix, expected, out).await
        })
        .await
}

/// Prints the keys.
async fn show(setup: &Setup, store: &Connector, prefix: &str, args: &RmArgs, out: &mut Out) -> Result<Answer, Failure> {
    let mut keys = setup.list(store, prefix);
    let mut n = 0;
    while let Some(key) = keys.try_next().await? {
        n += 1;
        if mode::is_json() {
            out.json_line(&json!({ "key": key.as_str(), "would_remove": true }))?;
        } else {
            write!(out, "{}{}", out.shown(key.as_str()), args.lines.end())?;
        }
        if out.is_closed() {
            return Ok(Answer::Yes);
        }
    }
    out.flush()?;
    print_note(format_args!("{} would be removed", count(n, "chunk")));
    Ok(Answer::Yes)
}

async fn number(setup: &Setup, store: &Connector, prefix: &str) -> connectors::Result<usize> {
    let progress = Progress::counter();
    let mut keys = setup.list(store, prefix);
    let mut n = 0;
    while keys.try_next().await?.is_some() {
        n += 1;
        if n % 1000 == 0 {
            progress.say(format!("{n} chunks to remove"));
        }
    }
    Ok(n)
}

fn is_confirmed(setup: &Setup, n: usize, store: &str) -> Result<bool, Failure> {
    let _ = write!(io::stderr(), "kvconn: remove {} of {store}? [y/N] ", count(n, "chunk"));
    let mut answer = String::new();
    let read = setup.interrupt.blocking(|| io::stdin().lock().read_line(&mut answer));
    read.map_err(|e| Error::io(e, "read stdin"))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Removes the chunks in batches. An interrupt ends the list, and the last batch still finishes.
async fn remove(
    setup: &Setup,
    store: &Connector,
    prefix: &str,
    expected: Option<u64>,
    out: &mut Out,
) -> Result<Answer, Failure> {
    let progress = expected.map_or_else(Progress::counter, Progress::of);
    let (mut removed, mut errors, mut list_failed) = (0, Errors::default(), None);
    let interrupted = Box::pin(setup.interrupt.clone().wait());
    let mut batches = setup.list(store, prefix).take_until(interrupted).chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut keys: Vec<CacheKey> = Vec::with_capacity(batch.len());
        for key in batch {
            match key {
                Ok(key) => keys.push(key),
                Err(e) => list_failed = Some(e),
            }
        }
        let failed = errors.len();
        for answer in store.batched_remove(&keys).await {
            match answer {
                // Another program may remove a chunk first.
                Ok(was_there) => removed += usize::from(was_there),
                Err(e) => errors.add(e),
            }
        }
        progress.advance(keys.len() as u64);
        progress.say(format!("{removed} removed, {} failed", errors.len()));
        // The store is away, or refuses every removal.
        if !keys.is_empty() && errors.len() - failed == keys.len() {
            break;
        }
    }
    drop(progress);
    let failed = errors.len();
    if mode::is_json() {
        out.json(&json!({ "removed": removed, "failed": failed }))?;
    } else if !mode::is_quiet() {
        let failed = if failed > 0 { format!("; failed {failed}") } else { String::new() };
        writeln!(out, "removed {}{failed}", count(removed, "chunk"))?;
    }
    out.flush()?;
    if let Some(failure) = errors.finish() {
        return Err(failure);
    }
    if let Some(e) = list_failed {
        return Err(e.into());
    }
    Ok(if setup.interrupt.is_set() { Answer::Interrupted } else { Answer::Yes })
}
