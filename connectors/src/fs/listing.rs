//! Lists a store in steps, so that a stream that is not polled holds no thread.

use std::sync::Arc;

use connector_core::{CacheKey, Error, Result};
use futures::stream::{self, Stream, StreamExt};
use rustix::fs::FileType;

use super::files::Files;
use super::folder::{Entries, Entry, Folder, Wait};
use super::layout;
use super::threads::Threads;

/// Directory entries that one visit to a blocking thread reads.
const STEP: usize = 512;

/// The rest of a listing.
struct Listing {
    files: Arc<Files>,
    prefix: String,
    /// Index of the base path after the current one.
    next_base: usize,
    /// The entries of the current base path.
    entries: Option<(Folder, Entries)>,
}

/// All keys with the prefix. Does not enter the gate, because a caller may keep the stream and never poll it again.
pub(super) fn keys(files: Arc<Files>, threads: Threads, prefix: &str) -> impl Stream<Item = Result<CacheKey>> + use<> {
    let begin = Listing { files, prefix: prefix.to_owned(), next_base: 0, entries: None };
    let steps = stream::unfold(Some(begin), move |rest| {
        let threads = threads.clone();
        async move {
            let listing = rest?;
            // An error, because a listing that only ended would look complete.
            let lost = |e| (vec![Err(e)], None);
            Some(threads.run(|| Ok(listing.step())).await.unwrap_or_else(lost))
        }
    });
    steps.flat_map(stream::iter)
}

impl Listing {
    /// Some keys, and the rest of the listing if there is one.
    fn step(mut self) -> (Vec<Result<CacheKey>>, Option<Self>) {
        let mut found = Vec::new();
        for _ in 0..STEP {
            let Some((folder, entries)) = &mut self.entries else {
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
                    found.extend(key(folder, &entry).filter(|key| key.as_str().starts_with(&self.prefix)).map(Ok));
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
        let base = self.next_base;
        if base == self.files.dirs.count() {
            return Ok(false);
        }
        self.next_base += 1;
        let open = || {
            let folder = self.files.dirs.folder(base, Wait::Yes)?;
            let entries = folder.entries()?;
            Ok((folder, entries))
        };
        match open() {
            Ok(opened) => self.entries = Some(opened),
            // The first put makes the directory.
            Err(e) if self.files.dirs.may_be_missing(base, &e) => {}
            Err(e) => return Err(self.failed(e)),
        }
        Ok(true)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(e, format_args!("list `{}`", self.files.dirs.path(self.next_base - 1).display()))
    }
}

/// The key of a chunk's file.
fn key(folder: &Folder, entry: &Entry) -> Option<CacheKey> {
    let name = entry.text()?;
    let key = layout::key_of_file(name)?;
    let is_file = match entry.kind() {
        FileType::Unknown => folder.stat_file(name).is_ok_and(|stat| stat.is_some()),
        kind => kind.is_file(),
    };
    is_file.then_some(key)
}
