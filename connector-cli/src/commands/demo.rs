//! `kvconn demo`: stores a file as a chain of chunks, reads it back and verifies it.

mod prompt;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj};
use futures::TryStreamExt;
use serde_json::json;
use tempfile::TempDir;

use crate::args::DemoArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, Time, count, gib_per_s, mode, three_digits, users};
use crate::setup::Setup;
use crate::size::ByteSize;
use crate::stores::encoded;
use prompt::{CHUNK_TOKENS, MODEL, Prompt};

pub(crate) async fn run(setup: &Setup, args: &DemoArgs, out: &mut Out) -> Result<Answer, Failure> {
    let directory = Directory::new(args.keep.as_deref())?;
    let url = external_url(directory.path())?;
    let metadata = prompt::metadata()?;
    let prompt = Prompt::of_this_executable(&metadata)?;
    let Style { bold, plain, .. } = out.style();
    tell(out, format_args!("{bold}kvconn demo{plain}: stores a file as the KV cache of a prompt and reads it back\n"))?;
    prompt.print(out)?;
    tell(out, format_args!("  store    {url}\n"))?;

    let builder = setup.builder(&url).metadata(metadata);
    let shown = setup.with_opened(builder, async |store| {
        setup.interrupt.stops(show(store, &prompt, out)).await?.map(|()| Answer::Yes)
    });
    let shown = shown.await;
    let removed = directory.finish(shown.is_ok(), out);
    let answer = shown?;
    removed?;
    Ok(answer)
}

/// The directory of the demo's store.
enum Directory {
    /// A temporary directory, which the demo removes.
    Fresh(TempDir),
    /// The user's directory, which the demo keeps.
    Kept(PathBuf),
}

impl Directory {
    fn new(keep: Option<&Path>) -> Result<Self, Error> {
        match keep {
            Some(dir) => std::path::absolute(dir)
                .map(Self::Kept)
                .map_err(|e| Error::io(e, format_args!("find `{}`", users(&dir.to_string_lossy())))),
            None => tempfile::Builder::new().prefix("kvconn-demo-").tempdir().map(Self::Fresh).map_err(|e| {
                Error::io(e, "make a temporary directory").with_hint("name a directory with `--keep DIR`")
            }),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Fresh(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }

    fn finish(self, stored: bool, out: &mut Out) -> Result<(), Failure> {
        match self {
            Self::Fresh(dir) => {
                let action = format!("remove `{}`", dir.path().display());
                Ok(dir.close().map_err(|e| Error::io(e, action))?)
            }
            Self::Kept(_) if !stored => Ok(()),
            Self::Kept(dir) => tell(out, format_args!("kept: kvconn ls fs://{}", dir.display())),
        }
    }
}

/// The `external://` URL that LMCache's users write, with the directory as an option.
fn external_url(dir: &Path) -> Result<String, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, format!("the directory of the demo {why}"));
    let text = dir.to_str().ok_or_else(|| refuse("is not UTF-8, so no URL can name it"))?;
    if text.contains(',') {
        return Err(refuse("has a comma, which separates directories"));
    }
    let path = encoded(text);
    Ok(format!("external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path={path}"))
}

/// Prints a line of the story, which JSON and `--quiet` leave out.
fn tell(out: &mut Out, line: fmt::Arguments<'_>) -> Result<(), Failure> {
    if mode::is_json() || mode::is_quiet() { Ok(()) } else { Ok(writeln!(out, "{line}")?) }
}

/// Runs the steps of the demo and prints a line after each one.
async fn show(store: &Connector, prompt: &Prompt, out: &mut Out) -> Result<(), Failure> {
    let keys: Vec<CacheKey> = prompt.chunks.iter().map(|(key, _)| key.clone()).collect();
    let bytes: usize = prompt.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
    let amount = format!("{}, {}", count(keys.len(), "chunk"), ByteSize(bytes));

    let start = Instant::now();
    let stored: Result<Vec<()>, Error> = store.batched_put(&prompt.chunks).await.into_iter().collect();
    let put_time = start.elapsed();
    stored?;
    tell(out, format_args!("  put      {amount} in {}: {}", Time(put_time), rate(bytes, put_time)))?;
    for (which, index) in [("first", 0), ("last ", keys.len() - 1)] {
        let (key, chunk) = &prompt.chunks[index];
        tell(out, format_args!("             {which}  {key}\n                    {}", chunk.layout()))?;
    }

    let listed: Vec<CacheKey> = store.list(MODEL).try_collect().await?;
    if let Some(key) = keys.iter().find(|key| !listed.contains(key)) {
        return Err(mismatch(format!("the demo put `{key}`, but the store does not list it")).into());
    }
    tell(out, format_args!("  list     {}, every stored key among them", count(listed.len(), "key")))?;

    contains(store, prompt, &keys, out).await?;

    let start = Instant::now();
    let read: Result<Vec<_>, Error> = store.batched_get(&keys).await.into_iter().collect();
    let get_time = start.elapsed();
    let read = read?;
    tell(out, format_args!("  get      {amount} in {}: {}", Time(get_time), rate(bytes, get_time)))?;

    verify(prompt, &read)?;
    if mode::is_json() {
        return out.json(&json!({
            "store": store.name(), "model": MODEL, "chunks": keys.len(), "bytes": bytes,
            "put_seconds": put_time.as_secs_f64(), "get_seconds": get_time.as_secs_f64(), "verified": true,
        }));
    }
    let Style { green, plain, .. } = out.style();
    tell(
        out,
        format_args!(
            "\n{green}verified{plain}: all {} bytes of the prompt are equal to the file's, and every chunk has its shape,\n\
         dtype and format",
            prompt.bytes.len()
        ),
    )?;
    Ok(())
}

/// The question of an engine: how many chunks of this prompt's beginning does the store have?
async fn contains(store: &Connector, prompt: &Prompt, keys: &[CacheKey], out: &mut Out) -> Result<(), Failure> {
    let middle = keys.len() / 2;
    let (key, chunk) = &prompt.chunks[middle];
    let whole = store.batched_contains(keys).await?;
    store.remove(key).await?;
    let broken = store.batched_contains(keys).await?;
    store.put(key, chunk.clone()).await?;
    let restored = store.batched_contains(keys).await?;
    if (whole, broken, restored) != (keys.len(), middle, keys.len()) {
        let text = format!("of {} chunks the store found {whole}, {broken} and {restored}", keys.len());
        return Err(mismatch(text).into());
    }
    tell(
        out,
        format_args!(
            "  prefix   {whole} of {whole} chunks exist; without chunk {} the prefix is {broken} long; with it again {restored}",
            middle + 1
        ),
    )?;
    Ok(())
}

/// Compares every byte with the file, the padding of the last token with zeros, and every layout with the one that was put.
fn verify(prompt: &Prompt, read: &[Option<MemoryObj>]) -> Result<(), Error> {
    let mut rest = &prompt.bytes[..];
    for ((key, put), got) in prompt.chunks.iter().zip(read) {
        let Some(got) = got else { return Err(mismatch(format!("the demo put `{key}`, but it is gone"))) };
        let (expected, later) = rest.split_at(rest.len().min(got.len()));
        rest = later;
        let (content, padding) = got.split_at(expected.len());
        if content != expected || padding.iter().any(|byte| *byte != 0) {
            return Err(mismatch(format!("`{key}` has different bytes")));
        }
        if got.layout() != put.layout() {
            return Err(mismatch(format!("`{key}` has the layout `{}` instead of `{}`", got.layout(), put.layout())));
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(mismatch(format!("{} bytes did not come back", rest.len()))) }
}

fn mismatch(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, text).with_operation("verify")
}

fn rate(bytes: usize, time: Duration) -> String {
    format!("{} GiB/s", three_digits(gib_per_s(bytes, time)))
}

impl Prompt {
    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let times = if self.times > 1 { format!(", repeated {} times", self.times) } else { String::new() };
        let (file, size, token) = (self.file.display(), ByteSize(self.file_bytes), ByteSize(self.token_bytes));
        let last = self.tokens - (self.chunks.len() - 1) * CHUNK_TOKENS;
        tell(out, format_args!("  file     {file}: {size}{times}"))?;
        tell(out, format_args!("  model    {MODEL}: 12 layers, 12 heads of 64, float16; {token} a token"))?;
        let chunks = count(self.chunks.len(), "chunk");
        tell(out, format_args!("  prompt   {} tokens in {chunks} of {CHUNK_TOKENS}, the last of {last}", self.tokens))?;
        Ok(())
    }
}
