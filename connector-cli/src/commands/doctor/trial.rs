//! A trial of the operations, with one chunk of a key of its own.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use connectors::{CacheEngineKey, CacheKey, Connector, Diagnosis, Dtype, Error, ErrorKind, MemoryObj, ObjectKey};
use futures::StreamExt;

use super::of_error;
use super::report::Report;
use crate::args::DoctorArgs;
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::Time;
use crate::size::ByteSize;

/// The model name in the key.
const MODEL: &str = "kvconn-doctor";
const CHUNK_BYTES: usize = 1 << 20;
const PINGS: usize = 10;

/// Tries each operation, at most `args.timeout` long each. With `args.read_only`, only those that change nothing.
pub(super) async fn examine(
    store: &Connector,
    args: &DoctorArgs,
    interrupt: &Interrupt,
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let can = store.capabilities();
    let store = store.within(args.timeout);
    let key = key(can.object_keys_only)?;
    report.add(judge("exists", store.exists(&key).await, |found| match found {
        false => Ok("a missing chunk is a miss".into()),
        true => Err(wrong("the store has a chunk that was never put")),
    }))?;
    if !args.read_only && !interrupt.is_set() {
        put_and_get(&store, &key, interrupt, report).await?;
    }
    if can.list && !interrupt.is_set() {
        let first = store.list("").next().await.transpose();
        report.add(judge("list", first, |_| Ok("the store lists its keys".into())))?;
    }
    if can.ping && !interrupt.is_set() {
        report.add(round_trip(&store).await)?;
    }
    Ok(())
}

/// Puts a chunk and gets it. Removes it in every case.
async fn put_and_get(
    store: &Connector,
    key: &CacheKey,
    interrupt: &Interrupt,
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let can = store.capabilities();
    let bytes =
        CHUNK_BYTES.min(can.max_chunk_bytes.map_or(CHUNK_BYTES, |most| usize::try_from(most).unwrap_or(CHUNK_BYTES)));
    let chunk = MemoryObj::from((0..bytes).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>());
    let start = Instant::now();
    let put = store.put(key, chunk.clone()).await;
    let is_put = put.is_ok();
    // From here on, the chunk must be removed.
    let mut tried = report.add(judge("put", put, |()| Ok(moved(bytes, start.elapsed()))));
    if is_put && !interrupt.is_set() && tried.is_ok() {
        let start = Instant::now();
        let get = store.get(key).await;
        let time = start.elapsed();
        let line = judge("get", get, |found| match found {
            Some(back) if *back == *chunk => Ok(moved(bytes, time)),
            Some(_) => Err(wrong("the chunk came back with other bytes")),
            None => Err(wrong("the chunk is gone right after it was put; the store may be full")),
        });
        tried = report.add(line);
    }
    let removed = match can.remove {
        true => judge("remove", store.remove(key).await, |found| match found || !is_put {
            true => Ok("the chunk is gone".into()),
            false => Err(wrong("the chunk was not there")),
        }),
        false if is_put => Diagnosis::ok("remove", format!("the store cannot remove chunks, so `{key}` stays")),
        false => Diagnosis::ok("remove", "the store cannot remove chunks"),
    };
    tried?;
    report.add(removed)
}

/// A key of this run: two doctors at once must not read each other's chunk.
fn key(is_object: bool) -> Result<CacheKey, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let hash = now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32);
    if is_object {
        return format!("{MODEL}@00000000@0@{hash:016x}").parse::<ObjectKey>().map(CacheKey::from);
    }
    CacheEngineKey::new(MODEL, 1, 0, hash, Dtype::Uint8).map(CacheKey::from)
}

fn moved(bytes: usize, time: Duration) -> String {
    let mib_per_s = bytes as f64 / f64::from(1 << 20) / time.as_secs_f64().max(f64::MIN_POSITIVE);
    format!("{} in {} ({mib_per_s:.0} MiB/s)", ByteSize(bytes), Time(time))
}

fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, why).with_hint("`kvconn check` tests the store in full")
}

fn judge<T>(check: &str, answer: Result<T, Error>, describe: impl FnOnce(T) -> Result<String, Error>) -> Diagnosis {
    match answer.and_then(describe) {
        Ok(text) => Diagnosis::ok(check, text),
        Err(e) => of_error(check, &e),
    }
}

async fn round_trip(store: &Connector) -> Diagnosis {
    let mut trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let start = Instant::now();
        if let Err(e) = store.ping().await {
            return of_error("round trip", &e);
        }
        trips.push(start.elapsed());
    }
    trips.sort_unstable();
    let [least, median, most] = [0, PINGS / 2, PINGS - 1].map(|at| Time(trips[at]));
    Diagnosis::ok("round trip", format!("{median}; {least} to {most} in {PINGS} pings"))
}
