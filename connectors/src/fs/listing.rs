//! Lists a store in steps: a stream that is held and not polled holds no thread.

use std::fs::ReadDir;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use connector_core::{CacheKey, Error, Result};
use futures::stream::{self, Stream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::file::Files;
use super::{connector, record};

/// Names that one visit to a blocking thread looks at.
const STEP: usize = 512;

/// Where a listing stands.
struct Walk {
    files: Arc<Files>,
    prefix: String,
    /// Of the base paths, the next to be listed.
    next_base: usize,
    entries: Option<ReadDir>,
}

/// What a step finds, and what is left to do after it.
type Step = (Vec<Result<CacheKey>>, Option<Walk>);

/// All keys with the prefix. Begins when it is first polled, and is at most one step ahead of its caller. No pass of the
/// gate, because a caller may keep the stream and never poll it again.
pub(super) fn keys(files: Arc<Files>, handle: Handle, prefix: &str) -> impl Stream<Item = Result<CacheKey>> + use<> {
    enum State {
        Begin(Walk),
        Goes(std::vec::IntoIter<Result<CacheKey>>, Option<JoinHandle<Step>>),
    }
    let begin = State::Begin(Walk { files, prefix: prefix.to_owned(), next_base: 0, entries: None });
    stream::unfold(begin, move |mut state| {
        let handle = handle.clone();
        async move {
            loop {
                let (mut found, running) = match state {
                    State::Begin(walk) => (Vec::new().into_iter(), Some(walk.step_on(&handle))),
                    State::Goes(found, running) => (found, running),
                };
                if let Some(item) = found.next() {
                    return Some((item, State::Goes(found, running)));
                }
                state = match running?.await {
                    Ok((found, rest)) => State::Goes(found.into_iter(), rest.map(|walk| walk.step_on(&handle))),
                    // A listing that just stops would pass for a whole one.
                    Err(e) => State::Goes(vec![Err(connector::lost(e))].into_iter(), None),
                };
            }
        }
    })
}

impl Walk {
    fn step_on(self, handle: &Handle) -> JoinHandle<Step> {
        handle.spawn_blocking(|| self.step())
    }

    fn step(mut self) -> Step {
        let mut found = Vec::new();
        for _ in 0..STEP {
            let Some(entries) = &mut self.entries else {
                match self.open_next() {
                    Ok(true) => continue,
                    Ok(false) => return (found, None),
                    Err(e) => {
                        found.push(Err(e));
                        return (found, None);
                    }
                }
            };
            match entries.next() {
                None => self.entries = None,
                Some(Ok(entry)) => {
                    let key = entry.file_name().to_str().and_then(|name| record::key_of_entry(name, &entry.path()));
                    found.extend(key.filter(|key| key.as_str().starts_with(&self.prefix)).map(Ok));
                }
                // What was read of this directory so far is right, and the next one may be whole.
                Some(Err(e)) => {
                    self.entries = None;
                    found.push(Err(self.failed(e)));
                }
            }
        }
        (found, Some(self))
    }

    /// `false` after the last one.
    fn open_next(&mut self) -> Result<bool> {
        let Some(base) = self.files.base_paths.get(self.next_base) else { return Ok(false) };
        self.next_base += 1;
        match std::fs::read_dir(base) {
            Ok(entries) => self.entries = Some(entries),
            // Nothing was put yet.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !self.files.made.load(Ordering::Acquire) => {}
            Err(e) => return Err(self.failed(e)),
        }
        Ok(true)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(e, format_args!("list `{}`", self.files.base_paths[self.next_base - 1].display()))
    }
}
