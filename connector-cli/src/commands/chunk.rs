//! `kvconn put`, `get`, `exists`, `rm` and `ls`: work on single chunks.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use connectors::{CacheKey, ChunkLayout, Error, ErrorKind, KeyKind, ListEntry, MemoryObj};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::args::{GetArgs, KeysArgs, LayoutArgs, LineArgs, LsArgs, PutArgs};
use crate::exit::{Answer, Failure};
use crate::file;
use crate::output::{Age, Out, json_escaped, print_error, print_note, users};
use crate::setup::Setup;
use crate::size::ByteSize;

/// The largest chunk: LMCache writes its length as an `i32`.
const MAX_CHUNK: u64 = i32::MAX as u64;

/// Stores that lose their chunks when this process ends.
const PROCESS_LOCAL: [&str; 2] = ["kvconn.memory/MemoryConnector", "kvconn.mock/MockConnector"];

pub(crate) async fn put(setup: &Setup, args: &PutArgs, out: &mut Out) -> Result<Answer, Failure> {
    let key = setup.key(&args.key)?;
    // Stdin and the file may be pipes.
    let bytes = setup.interrupt.blocking(|| read_input(&args.file))?;
    let layout = match &args.layout {
        Some(layout) => layout_for(layout, bytes.len())?,
        None => ChunkLayout::binary(bytes.len()),
    };
    let chunk = MemoryObj::from_vec(bytes, layout)?;
    setup
        .with_new_store(&args.url, async |store| {
            store.put(&key, chunk.clone()).await?;
            writeln!(out, "stored {}: {}", out.shown(key.as_str()), chunk.layout())?;
            // Before the store is closed, which may take long.
            out.flush()?;
            if PROCESS_LOCAL.contains(&store.name()) {
                print_note("this store keeps chunks in the memory of this process, so the chunk is lost now");
            }
            Ok(Answer::Yes)
        })
        .await
}

fn layout_for(args: &LayoutArgs, bytes: usize) -> Result<ChunkLayout, Error> {
    let layout = ChunkLayout::new(args.format, args.shape, args.dtype)?;
    if layout.len == bytes {
        return Ok(layout);
    }
    let (shape, dtype) = (args.shape, args.dtype);
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("the input has {bytes} bytes, but {} {dtype} {shape} needs {}", args.format, layout.len),
    ))
}

fn read_input(path: &Path) -> Result<Vec<u8>, Error> {
    if path == Path::new("-") {
        read_at_most(MAX_CHUNK, io::stdin().lock()).map_err(|e| Error::io(e, "read stdin"))?
    } else {
        let read = File::open(path).and_then(|file| read_at_most(MAX_CHUNK, file));
        read.map_err(|e| Error::io(e, format_args!("read `{}`", users(&path.to_string_lossy()))))?
    }
}

/// Reads the whole input, which may be endless, as `/dev/zero` is.
fn read_at_most(most: u64, input: impl Read) -> io::Result<Result<Vec<u8>, Error>> {
    let mut bytes = Vec::new();
    let read = input.take(most + 1).read_to_end(&mut bytes)?;
    let too_large = || Error::new(ErrorKind::InvalidInput, format!("the input is larger than a chunk of {most} bytes"));
    Ok(if read as u64 <= most { Ok(bytes) } else { Err(too_large()) })
}

pub(crate) async fn get(setup: &Setup, args: &GetArgs, out: &mut Out) -> Result<Answer, Failure> {
    let key = setup.key(&args.key)?;
    // `-` is stdout, as it is stdin for `put`.
    let file = args.output.as_deref().filter(|path| path.as_os_str() != "-");
    if file.is_none() && io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::InvalidInput, "a chunk is binary, and stdout is a terminal")
            .with_hint("write `-o FILE`, or send stdout to a file or another command")
            .into());
    }
    setup
        .with_store(&args.url, async |store| {
            let Some(chunk) = store.get(&key).await? else {
                print_error(format_args!("`{key}` is not in {}", store.name()));
                return Ok(Answer::No);
            };
            match file {
                Some(path) => file::write(path, &chunk, &setup.interrupt)?,
                None => out.raw(&chunk)?,
            }
            print_note(format_args!("read {key}: {}", chunk.layout()));
            Ok(Answer::Yes)
        })
        .await
}

pub(crate) async fn exists(setup: &Setup, args: &KeysArgs, out: &mut Out) -> Result<Answer, Failure> {
    let keys = setup.keys(&args.keys)?;
    setup
        .with_store(&args.url, async |store| {
            report(&keys, store.batched_exists(&keys).await, ["yes", "no"], args.lines, out)
        })
        .await
}

pub(crate) async fn rm(setup: &Setup, args: &KeysArgs, out: &mut Out) -> Result<Answer, Failure> {
    let keys = setup.keys(&args.keys)?;
    setup
        .with_store(&args.url, async |store| {
            report(&keys, store.batched_remove(&keys).await, ["removed", "missing"], args.lines, out)
        })
        .await
}

/// Prints one line a key, and all keys even if some fail. Prints all errors but the last, and returns that one.
fn report(
    keys: &[CacheKey],
    answers: Vec<connectors::Result<bool>>,
    words: [&str; 2],
    lines: LineArgs,
    out: &mut Out,
) -> Result<Answer, Failure> {
    let width = words.iter().map(|w| w.len()).max().unwrap_or(0);
    let mut all = true;
    let mut failed: Option<Error> = None;
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            Ok(yes) => {
                all &= yes;
                write!(out, "{:width$}  {}{}", words[usize::from(!yes)], out.shown(key.as_str()), lines.end())?;
            }
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    print_error(earlier);
                }
            }
        }
    }
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(Answer::yes_if(all)),
    }
}

pub(crate) async fn ls(setup: &Setup, args: &LsArgs, out: &mut Out) -> Result<Answer, Failure> {
    setup
        .with_store(&args.url, async |store| {
            let mut entries = match args.json || args.long {
                true => store.list_entries(&args.prefix),
                // `list` does not ask the store for sizes.
                false => store.list(&args.prefix).map_ok(ListEntry::new).boxed(),
            };
            while let Some(entry) = entries.next().await {
                let entry = entry?;
                if out.is_closed() {
                    break;
                }
                if args.json {
                    writeln!(out, "{}", json_escaped(&as_json(&entry).to_string()))?;
                    continue;
                }
                if args.long {
                    let size = entry.size.map_or("-".into(), |n| ByteSize(n as usize).to_string());
                    let age =
                        entry.modified.map_or("-".into(), |time| Age(time.elapsed().unwrap_or_default()).to_string());
                    write!(out, "{size:>10}  {age:>5}  ")?;
                }
                write!(out, "{}{}", out.shown(entry.key.as_str()), args.lines.end())?;
            }
            Ok(Answer::Yes)
        })
        .await
}

fn as_json(ListEntry { key, size, modified, .. }: &ListEntry) -> serde_json::Value {
    let (kind, model, hash) = (kind_name(key), key.model_name(), key.chunk_hash_hex());
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs_f64());
    json!({ "key": key.as_str(), "kind": kind, "model": model, "hash": hash, "size": size, "modified": modified })
}

fn kind_name(key: &CacheKey) -> &'static str {
    match key.kind() {
        KeyKind::Engine if key.layer_id().is_some() => "layer",
        KeyKind::Engine => "engine",
        KeyKind::Object => "object",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_input_is_refused() {
        let read = |input: &[u8]| read_at_most(3, input).expect("the bytes can be read");
        assert_eq!(read(b"abc").expect("it fits"), b"abc");
        let e = read_at_most(3, io::repeat(0)).expect("the bytes can be read").expect_err("it is too large");
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    }
}
