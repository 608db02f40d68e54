//! `kvconn demo`: a file as a chain of chunks in a store, read back and verified.

mod prompt;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj};
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::args::DemoArgs;
use crate::interrupt::Interrupt;
use crate::output::{Answer, BOLD, Failure, GREEN, Out, PLAIN, Time, count, gib_per_s, three_digits};
use crate::setup::Setup;
use crate::size::ByteSize;
use prompt::{CHUNK_TOKENS, MODEL, Prompt};

/// How often existence is asked, to tell what one question takes.
const QUESTIONS: usize = 1000;

pub(crate) async fn run(setup: &Setup, args: &DemoArgs, out: &mut Out) -> Result<Answer, Failure> {
    let interrupt = Interrupt::listen();
    let place = Place::new(args.keep.as_deref())?;
    let url = external_url(place.path())?;
    let metadata = prompt::metadata()?;
    let prompt = Prompt::of_this_executable(&metadata)?;
    writeln!(out, "{BOLD}kvconn demo{PLAIN}: a file as the KV cache of a prompt, stored and read back\n")?;
    prompt.introduce(out)?;
    writeln!(out, "  store    {url}\n")?;

    let builder = setup.builder(&url).metadata(metadata);
    let shown = setup.with_opened(builder, async |store| {
        tokio::select! {
            shown = show(store, &prompt, out) => shown.map(|()| Answer::Yes),
            () = interrupt.wait() => Ok(Answer::Interrupted),
        }
    });
    let shown = shown.await;
    let ended = place.end(shown.is_ok(), out);
    let answer = shown?;
    ended?;
    Ok(answer)
}

/// Where the demo stores: a directory that ends with it, or the user's own.
enum Place {
    Fresh(TempDir),
    Kept(PathBuf),
}

impl Place {
    fn new(keep: Option<&Path>) -> Result<Self, Error> {
        match keep {
            Some(dir) => std::path::absolute(dir)
                .map(Self::Kept)
                .map_err(|e| Error::io(e, format_args!("find `{}`", dir.display()))),
            None => tempfile::Builder::new()
                .prefix("kvconn-demo-")
                .tempdir()
                .map(Self::Fresh)
                .map_err(|e| Error::io(e, "make a temporary directory").with_hint("name one: `--keep DIR`")),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Fresh(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }

    fn end(self, stored: bool, out: &mut Out) -> Result<(), Failure> {
        match self {
            Self::Fresh(dir) => {
                let what = format!("remove `{}`", dir.path().display());
                Ok(dir.close().map_err(|e| Error::io(e, what))?)
            }
            Self::Kept(_) if !stored => Ok(()),
            Self::Kept(dir) => Ok(writeln!(out, "kept: kvconn ls fs://{}", dir.display())?),
        }
    }
}

/// The URL that LMCache's users write, with the directory as an option.
fn external_url(dir: &Path) -> Result<String, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::InvalidInput, format!("`{}` {why}", dir.display()));
    let text = dir.to_str().ok_or_else(|| refuse("is not UTF-8, so no URL can name it"))?;
    if text.contains(',') {
        return Err(refuse("has a comma, which separates directories"));
    }
    let mut url = String::from("external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path=");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(byte.into()),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    Ok(url)
}

/// The steps, each said in a line when it is done.
async fn show(store: &Connector, prompt: &Prompt, out: &mut Out) -> Result<(), Failure> {
    let keys: Vec<CacheKey> = prompt.chunks.iter().map(|(key, _)| key.clone()).collect();
    let bytes: usize = prompt.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
    let amount = format!("{}, {}", count(keys.len(), "chunk"), ByteSize(bytes));

    let start = Instant::now();
    let stored: Result<Vec<()>, Error> = store.batched_put(&prompt.chunks).await.into_iter().collect();
    let put_time = start.elapsed();
    stored?;
    writeln!(out, "  put      {amount} in {}: {}", Time(put_time), rate(bytes, put_time))?;
    for (which, index) in [("first", 0), ("last ", keys.len() - 1)] {
        let (key, chunk) = &prompt.chunks[index];
        writeln!(out, "             {which}  {key}\n                    {}", chunk.layout())?;
    }

    let listed: Vec<CacheKey> = store.list(MODEL).try_collect().await?;
    if let Some(key) = keys.iter().find(|key| !listed.contains(key)) {
        return Err(not_as_promised(format!("`{key}` was put, but is not listed")).into());
    }
    writeln!(out, "  list     {}, all that were put among them", count(listed.len(), "key"))?;

    contains(store, prompt, &keys, out).await?;

    let median = question_time(store, &keys).await?;
    writeln!(out, "  exists   {} a question (median of {QUESTIONS})", Time(median))?;

    let start = Instant::now();
    let read: Result<Vec<_>, Error> = store.batched_get(&keys).await.into_iter().collect();
    let get_time = start.elapsed();
    let read = read?;
    writeln!(out, "  get      {amount} in {}: {}", Time(get_time), rate(bytes, get_time))?;

    verify(prompt, &read)?;
    writeln!(
        out,
        "\n{GREEN}verified{PLAIN}: all {} bytes of the prompt came back as the file has them, every chunk with its shape,\n\
         dtype and format",
        prompt.bytes.len()
    )?;
    Ok(())
}

/// What an engine asks: how much of this prompt's beginning is stored?
async fn contains(store: &Connector, prompt: &Prompt, keys: &[CacheKey], out: &mut Out) -> Result<(), Failure> {
    let middle = keys.len() / 2;
    let (key, chunk) = &prompt.chunks[middle];
    let whole = store.batched_contains(keys).await?;
    store.remove(key).await?;
    let broken = store.batched_contains(keys).await?;
    store.put(key, chunk.clone()).await?;
    let mended = store.batched_contains(keys).await?;
    if (whole, broken, mended) != (keys.len(), middle, keys.len()) {
        let what = format!("of {} chunks the store found {whole}, {broken} and {mended}", keys.len());
        return Err(not_as_promised(what).into());
    }
    writeln!(
        out,
        "  prefix   {whole} of {whole} chunks are stored; with chunk {} removed only the first {broken} count; put back: {mended}",
        middle + 1
    )?;
    Ok(())
}

async fn question_time(store: &Connector, keys: &[CacheKey]) -> Result<Duration, Error> {
    let mut times = Vec::with_capacity(QUESTIONS);
    for key in keys.iter().cycle().take(QUESTIONS) {
        let start = Instant::now();
        let there = store.exists(key).await?;
        times.push(start.elapsed());
        if !there {
            return Err(not_as_promised(format!("`{key}` was put, but does not exist")));
        }
    }
    times.sort_unstable();
    Ok(times[QUESTIONS / 2])
}

/// Every byte against the file's, the padding of the last token against zeros, every layout against what was put.
fn verify(prompt: &Prompt, read: &[Option<MemoryObj>]) -> Result<(), Error> {
    let mut rest = &prompt.bytes[..];
    for ((key, put), got) in prompt.chunks.iter().zip(read) {
        let Some(got) = got else { return Err(not_as_promised(format!("`{key}` was put, but is gone"))) };
        let (expected, later) = rest.split_at(rest.len().min(got.len()));
        rest = later;
        let (content, padding) = got.split_at(expected.len());
        if content != expected || padding.iter().any(|byte| *byte != 0) {
            return Err(not_as_promised(format!("`{key}` came back with other bytes")));
        }
        if got.layout() != put.layout() {
            return Err(not_as_promised(format!("`{key}` came back as `{}`, not `{}`", got.layout(), put.layout())));
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(not_as_promised(format!("{} bytes did not come back", rest.len()))) }
}

fn not_as_promised(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, what).with_operation("verify")
}

fn rate(bytes: usize, time: Duration) -> String {
    format!("{} GiB/s", three_digits(gib_per_s(bytes, time)))
}

impl Prompt {
    fn introduce(&self, out: &mut Out) -> Result<(), Failure> {
        let times = if self.times > 1 { format!(", {} times over", self.times) } else { String::new() };
        let (file, size, token) = (self.file.display(), ByteSize(self.file_bytes), ByteSize(self.token_bytes));
        let last = self.tokens - (self.chunks.len() - 1) * CHUNK_TOKENS;
        writeln!(out, "  file     {file}: {size}{times}")?;
        writeln!(out, "  model    {MODEL}: 12 layers, 12 heads of 64, float16; {token} a token")?;
        let chunks = count(self.chunks.len(), "chunk");
        writeln!(out, "  prompt   {} tokens in {chunks} of {CHUNK_TOKENS}, the last of {last}", self.tokens)?;
        Ok(())
    }
}
