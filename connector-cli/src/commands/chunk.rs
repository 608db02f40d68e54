//! `kvconn put`, `get`, `exists`, `rm` and `ls`: single chunks.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use connectors::{CacheKey, ChunkLayout, Connector, Error, ErrorKind, KeyKind, MemoryObj};
use futures::StreamExt;
use serde::Serialize;

use crate::args::{GetArgs, KeysArgs, LayoutArgs, LsArgs, PutArgs};
use crate::output::{Answer, Failure, Out, complain, note};
use crate::setup::Setup;

/// Stores in which nobody will find what this command puts.
const IN_THIS_PROCESS: [&str; 2] = ["kvconn.memory/MemoryConnector", "kvconn.mock/MockConnector"];

pub(crate) async fn put(setup: &Setup, args: &PutArgs, out: &mut Out) -> Result<Answer, Failure> {
    let key = setup.key(&args.key)?;
    let bytes = read_input(&args.file)?;
    let layout = match &args.layout {
        Some(layout) => layout_for(layout, bytes.len())?,
        None => ChunkLayout::binary(bytes.len()),
    };
    let chunk = MemoryObj::from_vec(bytes, layout)?;
    setup
        .with_store(&args.url, async |store| {
            store.put(&key, chunk.clone()).await?;
            writeln!(out, "stored {key}: {}", chunk.layout())?;
            if IN_THIS_PROCESS.contains(&store.name()) {
                note("this store's chunks live in the process that put them, and it ends here");
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
        format!("the input has {bytes} bytes, but {} {dtype} {shape} has {}", args.format, layout.len),
    ))
}

fn read_input(path: &Path) -> Result<Vec<u8>, Error> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::io(e, "read stdin"))?;
        Ok(bytes)
    } else {
        std::fs::read(path).map_err(|e| Error::io(e, format_args!("read `{}`", path.display())))
    }
}

pub(crate) async fn get(setup: &Setup, args: &GetArgs, out: &mut Out) -> Result<Answer, Failure> {
    let key = setup.key(&args.key)?;
    // As with `put`, `-` is the stream.
    let file = args.output.as_deref().filter(|path| path.as_os_str() != "-");
    if file.is_none() && io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::InvalidInput, "a chunk is binary, and stdout is a terminal")
            .with_hint("write `-o FILE`, or send stdout to a file or another command")
            .into());
    }
    setup
        .with_store(&args.url, async |store| {
            let Some(chunk) = store.get(&key).await? else {
                complain(missing(store, &key));
                return Ok(Answer::No);
            };
            match file {
                Some(path) => {
                    write_whole(path, &chunk).map_err(|e| Error::io(e, format_args!("write `{}`", path.display())))?;
                }
                None => out.raw(&chunk)?,
            }
            note(format_args!("read {key}: {}", chunk.layout()));
            Ok(Answer::Yes)
        })
        .await
}

/// A store that is not there lists nothing, as an empty one does; who mistyped its path wants to know. A store of files that
/// nothing was put into answers a ping, so there the directories are looked for.
pub(super) async fn must_be_there(store: &Connector, url: &str) -> Result<(), Error> {
    if let Ok(url) = connectors::RemoteUrl::parse(url)
        && url.scheme() == "fs"
    {
        for dir in url.path().split(',').map(str::trim).filter(|dir| !dir.is_empty()) {
            std::fs::read_dir(dir).map_err(|e| Error::io(e, format_args!("reach the store `{dir}`")))?;
        }
    }
    if store.capabilities().ping { store.ping().await } else { Ok(()) }
}

fn missing(store: &Connector, key: &CacheKey) -> String {
    format!("`{key}` is not in {}", store.name())
}

/// Under a name of its own first: whoever looks at `path` sees all of the chunk or what was there before.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kvconn-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the umask takes its part away.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

pub(crate) async fn exists(setup: &Setup, args: &KeysArgs, out: &mut Out) -> Result<Answer, Failure> {
    let keys = setup.keys(&args.keys)?;
    setup
        .with_store(&args.url, async |store| report(&keys, store.batched_exists(&keys).await, ["yes", "no"], out))
        .await
}

pub(crate) async fn rm(setup: &Setup, args: &KeysArgs, out: &mut Out) -> Result<Answer, Failure> {
    let keys = setup.keys(&args.keys)?;
    setup
        .with_store(&args.url, async |store| {
            report(&keys, store.batched_remove(&keys).await, ["removed", "missing"], out)
        })
        .await
}

/// One line a key. All of them are shown before the first error ends the command.
fn report(
    keys: &[CacheKey],
    answers: Vec<connectors::Result<bool>>,
    words: [&str; 2],
    out: &mut Out,
) -> Result<Answer, Failure> {
    let width = words.iter().map(|w| w.len()).max().unwrap_or(0);
    let mut all = true;
    let mut failed: Option<Error> = None;
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            Ok(yes) => {
                all &= yes;
                writeln!(out, "{:width$}  {key}", words[usize::from(!yes)])?;
            }
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    complain(earlier);
                }
            }
        }
    }
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(Answer::yes_if(all)),
    }
}

#[derive(Serialize)]
struct ListedKey<'a> {
    key: &'a str,
    kind: &'static str,
    model: &'a str,
    hash: &'a str,
}

pub(crate) async fn ls(setup: &Setup, args: &LsArgs, out: &mut Out) -> Result<Answer, Failure> {
    setup
        .with_store(&args.url, async |store| {
            must_be_there(store, &args.url).await?;
            let mut keys = store.list(&args.prefix);
            while let Some(key) = keys.next().await {
                let key = key?;
                if args.json {
                    let (kind, model, hash) = (kind_name(key.kind()), key.model_name(), key.chunk_hash_hex());
                    let line = ListedKey { key: key.as_str(), kind, model, hash };
                    serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                    writeln!(out)?;
                } else {
                    writeln!(out, "{key}")?;
                }
            }
            Ok(Answer::Yes)
        })
        .await
}

fn kind_name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Engine => "engine",
        KeyKind::Layer => "layer",
        KeyKind::Object => "object",
        _ => "other",
    }
}
