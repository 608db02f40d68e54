//! Lists a store in steps, so that a stream that is not polled holds no thread.

use std::sync::Arc;

use connector_core::{CacheKey, Error, ListEntry, Result};
use futures::stream::{self, Stream, StreamExt};

use super::files::Files;
use super::folder::{Stat, Wait};
use super::threads::Threads;
use super::walk::{Visited, Walk};

/// Directory entries that one visit to a blocking thread reads.
const STEP: usize = 512;

/// The rest of a listing.
struct Listing {
    files: Arc<Files>,
    /// Whether to look at each file for its size and time.
    sizes: bool,
    prefix: String,
    /// Index of the base path after the current one.
    next_base: usize,
    /// The rest of the current base path.
    walk: Option<Walk>,
}

/// All keys with the prefix. With `sizes`, each entry has the length and the modification time of its file. Does not
/// enter the gate, because a caller may keep the stream and never poll it again.
pub(super) fn entries(
    files: Arc<Files>,
    threads: Threads,
    prefix: &str,
    sizes: bool,
) -> impl Stream<Item = Result<ListEntry>> + use<> {
    let begin = Listing { files, sizes, prefix: prefix.to_owned(), next_base: 0, walk: None };
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
    fn step(mut self) -> (Vec<Result<ListEntry>>, Option<Self>) {
        let mut found = Vec::new();
        for _ in 0..STEP {
            let Some(walk) = &mut self.walk else {
                match self.open_next() {
                    Ok(true) => continue,
                    Ok(false) => return (found, None),
                    Err(e) => {
                        found.push(Err(e));
                        return (found, None);
                    }
                }
            };
            match walk.next() {
                Ok(None) => self.walk = None,
                Ok(Some(visited)) => {
                    let key = self.files.layout.key_of(&visited.path);
                    if let Some(key) = key.filter(|key| key.as_str().starts_with(&self.prefix)) {
                        found.extend(entry(key, &visited, self.sizes).map_err(|e| self.failed(e)).transpose());
                    }
                }
                // The next directory may still be listed.
                Err(e) => found.push(Err(self.failed(e))),
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
        if self.files.dirs.first(base) != base {
            return Ok(true);
        }
        let open = || {
            let folder = self.files.dirs.folder(base, Wait::Yes)?;
            Walk::new(folder, self.files.layout)
        };
        match open() {
            Ok(walk) => self.walk = Some(walk),
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

/// The entry of a chunk's file. `None` if the path is not a regular file, or was removed meanwhile.
fn entry(key: CacheKey, visited: &Visited<'_>, sizes: bool) -> std::io::Result<Option<ListEntry>> {
    if !sizes {
        return Ok(visited.is_file().then(|| ListEntry::new(key)));
    }
    let stat = visited.folder.stat(visited.entry.name())?.filter(Stat::is_file);
    Ok(stat.map(|stat| ListEntry::new(key).with_size(stat.bytes).with_modified(stat.modified)))
}
