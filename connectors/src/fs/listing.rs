//! Lists a store in steps, so that a stream that is not polled holds no thread.

use std::fs::ReadDir;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use connector_core::{CacheKey, Error, Result};
use futures::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;

use super::files::Files;
use super::{connector, layout};

/// Directory entries that one visit to a blocking thread reads.
const STEP: usize = 512;

/// The rest of a listing.
struct Listing {
    files: Arc<Files>,
    prefix: String,
    /// Index of the base path after the current one.
    next_base: usize,
    /// The entries of the current base path.
    entries: Option<ReadDir>,
}

/// All keys with the prefix. Does not enter the gate, because a caller may keep the stream and never poll it again.
pub(super) fn keys(files: Arc<Files>, handle: Handle, prefix: &str) -> impl Stream<Item = Result<CacheKey>> + use<> {
    let begin = Listing { files, prefix: prefix.to_owned(), next_base: 0, entries: None };
    let steps = stream::unfold(Some(begin), move |rest| {
        let handle = handle.clone();
        async move {
            let listing = rest?;
            // An error, because a listing that only ended would look complete.
            let lost = |e| (vec![Err(connector::lost(e))], None);
            Some(handle.spawn_blocking(|| listing.step()).await.unwrap_or_else(lost))
        }
    });
    steps.flat_map(stream::iter)
}

impl Listing {
    /// Some keys, and the rest of the listing if there is one.
    fn step(mut self) -> (Vec<Result<CacheKey>>, Option<Self>) {
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
                    let key = entry.file_name().to_str().and_then(layout::key_of_file);
                    found.extend(key.filter(|key| key.as_str().starts_with(&self.prefix)).map(Ok));
                }
                // The next base path may still be listed.
                Some(Err(e)) => {
                    self.entries = None;
                    found.push(Err(self.failed(e)));
                }
            }
        }
        (found, Some(self))
    }

    /// Opens the next base path; `false` after the last one.
    fn open_next(&mut self) -> Result<bool> {
        let Some(base) = self.files.base_paths.get(self.next_base) else { return Ok(false) };
        self.next_base += 1;
        match std::fs::read_dir(base) {
            Ok(entries) => self.entries = Some(entries),
            // The first put makes the directory.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !self.files.are_dirs_made.load(Ordering::Acquire) => {
            }
            Err(e) => return Err(self.failed(e)),
        }
        Ok(true)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(e, format_args!("list `{}`", self.files.base_paths[self.next_base - 1].display()))
    }
}
