//! `kvconn put` and `get`: work on one chunk.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use connectors::{CacheKey, ChunkLayout, Dtype, Error, ErrorKind, MemoryObj};
use serde_json::{Value, json};

use crate::args::{GetArgs, LayoutArgs, PutArgs};
use crate::exit::{Answer, Failure};
use crate::file;
use crate::output::{Out, Problem, mode, print_error, print_json, print_note, users};
use crate::setup::Setup;

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
            if mode::is_json() {
                out.json(&layout_as_json(&key, chunk.layout()))?;
            } else if !mode::is_quiet() {
                writeln!(out, "stored {}: {}", out.shown(key.as_str()), chunk.layout())?;
            }
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
                print_error(Problem::missing(&key, store.name()));
                return Ok(Answer::No);
            };
            match file {
                Some(path) => file::write(path, &chunk, &setup.interrupt)?,
                None => out.raw(&chunk)?,
            }
            match (mode::is_json(), file) {
                (false, _) => print_note(format_args!("read {key}: {}", chunk.layout())),
                (true, Some(_)) => out.json(&layout_as_json(&key, chunk.layout()))?,
                // Stdout has the chunk's bytes.
                (true, None) => print_json(&layout_as_json(&key, chunk.layout())),
            }
            Ok(Answer::Yes)
        })
        .await
}

/// Shape and dtype are those of the first group of layers.
pub(super) fn layout_as_json(key: &CacheKey, layout: &ChunkLayout) -> Value {
    let groups = layout
        .groups
        .iter()
        .map(|group| json!({ "shape": group.shape.to_vec(), "dtype": group.dtype.map(Dtype::torch_name) }));
    json!({
        "key": key.as_str(), "bytes": layout.len, "format": layout.format.name(), "shape": layout.shape().to_vec(),
        "dtype": layout.dtype().map(Dtype::torch_name), "groups": groups.collect::<Vec<_>>(),
    })
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
