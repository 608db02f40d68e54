//! Visits everything in the directories of a base path's chunks.

use std::io;

use rustix::fs::FileType;

use super::Layout;
use super::folder::{Entries, Entry, Folder, Wait};

/// The rest of a visit. Holds descriptors, but no thread.
pub(super) struct Walk {
    layout: Layout,
    /// The directory of the chunks, and those below it that lead to the current one.
    levels: Vec<Level>,
}

struct Level {
    folder: Folder,
    entries: Entries,
    /// Below the directory of the chunks; with `/` at its end, unless empty.
    path: String,
}

/// Anything in a directory that the walk does not enter.
pub(super) struct Visited<'a> {
    pub(super) folder: &'a Folder,
    pub(super) entry: Entry,
    /// Below the directory of the chunks. Empty if the name is not UTF-8, because every chunk's name is.
    pub(super) path: String,
}

impl Walk {
    /// Begins in the directory of the chunks.
    pub(super) fn new(folder: Folder, layout: Layout) -> io::Result<Self> {
        let entries = folder.entries()?;
        Ok(Self { layout, levels: vec![Level { folder, entries, path: String::new() }] })
    }

    /// The next name, `None` after the last. After an error the walk leaves the directory that caused it, and continues.
    pub(super) fn next(&mut self) -> io::Result<Option<Visited<'_>>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let entry = match level.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(e)) => {
                    self.levels.pop();
                    return Err(e);
                }
                None => {
                    self.levels.pop();
                    continue;
                }
            };
            let path = entry.text().map_or_else(String::new, |name| format!("{}{name}", level.path));
            if self.layout.is_folder(&path) && matches!(entry.kind(), FileType::Directory | FileType::Unknown) {
                let name = entry.text().unwrap_or_default();
                match level.folder.subfolder(name, Wait::Yes).and_then(|folder| Ok((folder.entries()?, folder))) {
                    Ok((entries, folder)) => {
                        self.levels.push(Level { folder, entries, path: path + "/" });
                        continue;
                    }
                    // Another process has removed it.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
                    Err(e) => return Err(e),
                }
            }
            // Looked up again, because `level` would keep the levels borrowed while the loop changes them.
            return Ok(self.levels.last().map(|level| Visited { folder: &level.folder, entry, path }));
        }
    }
}

impl Visited<'_> {
    /// Whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        match self.entry.kind() {
            FileType::Unknown => {
                self.entry.text().is_some_and(|name| matches!(self.folder.stat_file(name), Ok(Some(_))))
            }
            kind => kind.is_file(),
        }
    }
}
