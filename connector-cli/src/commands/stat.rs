//! `kvconn stat`: the size, the layout and the last put of chunks.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use connectors::{CacheKey, ChunkLayout, Connector, ListEntry};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::chunk::layout_as_json;
use super::ls::kind_name;
use crate::args::StatArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Age, Errors, Out, Problem, Style, mode, print_error};
use crate::setup::Setup;
use crate::size::ByteSize;

/// Stores whose listing has no times. It would scan all keys of the server.
const TIMELESS: [&str; 3] =
    ["kvconn.redis/RedisConnector", "kvconn.resp/RESPConnector", "kvconn.valkey/ValkeyConnector"];

/// The facts about a chunk.
struct Facts {
    layout: ChunkLayout,
    /// The chunk in the store's listing.
    listed: Option<ListEntry>,
}

pub(crate) async fn run(setup: &Setup, args: &StatArgs, out: &mut Out) -> Result<Answer, Failure> {
    let keys = setup.keys(&args.keys)?;
    setup
        .with_store(&args.url, async |store| {
            let mut errors = Errors::default();
            let mut all = true;
            for key in &keys {
                match facts(store, key).await {
                    Ok(Some(facts)) if mode::is_json() => out.json_line(&as_json(key, &facts))?,
                    Ok(Some(facts)) => print(key, &facts, out)?,
                    Ok(None) => {
                        all = false;
                        print_error(Problem::missing(key, store.name()));
                    }
                    Err(e) => errors.add(e),
                }
            }
            errors.finish().map_or(Ok(Answer::yes_if(all)), Err)
        })
        .await
}

async fn facts(store: &Connector, key: &CacheKey) -> connectors::Result<Option<Facts>> {
    let Some(chunk) = store.get(key).await? else { return Ok(None) };
    let layout = chunk.layout().clone();
    drop(chunk);
    let mut listed = None;
    if store.capabilities().list && !TIMELESS.contains(&store.name()) {
        let mut entries = store.list_entries(key.as_str());
        while let Some(entry) = entries.try_next().await? {
            if entry.key == *key {
                listed = Some(entry);
                break;
            }
        }
    }
    Ok(Some(Facts { layout, listed }))
}

/// Since 1970.
fn modified(listed: &Option<ListEntry>) -> Option<Duration> {
    listed.as_ref()?.modified?.duration_since(UNIX_EPOCH).ok()
}

fn age(listed: &Option<ListEntry>) -> Option<Duration> {
    Some(listed.as_ref()?.modified?.elapsed().unwrap_or_default())
}

fn as_json(key: &CacheKey, Facts { layout, listed }: &Facts) -> Value {
    let mut all = layout_as_json(key, layout);
    all["kind"] = kind_name(key).into();
    all["model"] = key.model_name().into();
    all["hash"] = key.chunk_hash_hex().into();
    all["stored_bytes"] = listed.as_ref().and_then(|entry| entry.size).into();
    all["modified"] = json!(modified(listed).map(|time| time.as_secs_f64()));
    all["age_seconds"] = json!(age(listed).map(|age| age.as_secs_f64()));
    all
}

fn print(key: &CacheKey, Facts { layout, listed }: &Facts, out: &mut Out) -> Result<(), Failure> {
    let Style { bold, plain, .. } = out.style();
    writeln!(out, "{bold}{}{plain}", out.shown(key.as_str()))?;
    let amount = |bytes: usize| {
        if bytes < 1024 { format!("{bytes} bytes") } else { format!("{bytes} bytes ({})", ByteSize(bytes)) }
    };
    let unknown = || "unknown".to_owned();
    let mut fields = vec![
        ("kind", kind_name(key).to_owned()),
        (
            "model",
            key.model_name().map_or_else(|| "(several readings)".to_owned(), |model| out.shown(model).into_owned()),
        ),
        ("size", amount(layout.len)),
    ];
    fields.push(("format", layout.format.name().to_owned()));
    for group in layout.groups.iter() {
        fields.push(("shape", group.shape.to_string()));
        fields.push(("dtype", group.dtype.map_or_else(unknown, |dtype| dtype.to_string())));
    }
    if let Some(bytes) = listed.as_ref().and_then(|entry| entry.size) {
        fields.push(("stored", format!("{}, with the store's header if it has one", amount(bytes as usize))));
    }
    fields.push(("last put", age(listed).map_or_else(unknown, |age| format!("{} ago", Age(age)))));
    for (name, value) in fields {
        writeln!(out, "  {name:8}  {value}")?;
    }
    Ok(())
}
