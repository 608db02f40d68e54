//! Finds the files of a store that are not chunks: torn files, and those that killed writers left behind.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use connector_core::{ConnectorContext, Error, ErrorKind, Result};

use super::Layout;
use super::files::Files;
use super::folder::{Folder, Stat, Wait};
use super::quota;
use super::read::{Lookup, Purpose};
use super::walk::{Visited, Walk};
use super::write::{self, TmpState};

const NOT_A_FILE: &str = "it has the name of a store's file, but is not a regular file";
const NO_NAME: &str = "it is not the name of a key's file";

/// Options of a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Whether to remove files that a kvconn writer left behind. Other files are never removed.
    pub remove: bool,
    /// Temporary files that changed within this time count as being written.
    pub min_age: Duration,
}

impl Default for ScrubOptions {
    /// Removes nothing; a file of the last minute counts as being written.
    fn default() -> Self {
        Self { remove: false, min_age: Duration::from_secs(60) }
    }
}

/// The result of a scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Files that hold a chunk.
    pub chunks: u64,
    /// Their bytes, with headers.
    pub chunk_bytes: u64,
    /// Files that kvconn writers are writing.
    pub being_written: u64,
    /// Directories that the scrub did not enter, such as those of namespaces.
    pub directories: u64,
    /// All other files.
    pub findings: Vec<Finding>,
}

/// A file that is not a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file's path.
    pub path: PathBuf,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The file's kind.
    pub kind: FindingKind,
    /// Why the file is of this kind.
    pub reason: String,
    /// Whether this scrub removed it.
    pub removed: bool,
}

/// The kind of a file that is not a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A chunk's file whose header and length disagree: a get fails with `Corrupt`.
    Torn,
    /// A temporary file of a kvconn writer that is gone. Only this kind is ever removed.
    LeftBehind,
    /// The engine's name for a file that is being written. A scrub cannot tell whether the writer is alive.
    Unfinished,
    /// A file with any other name.
    Foreign,
    /// The system cannot open, read or remove it.
    Unreadable,
}

impl FindingKind {
    /// The kind in snake case, for logs and JSON: `left_behind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::LeftBehind => "left_behind",
            Self::Unfinished => "unfinished",
            Self::Foreign => "foreign",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Scans the directories of the store that the context's URL names, and reads every chunk's header. Blocks: run it on a
/// blocking thread.
///
/// With the engine's metadata, a scrub checks that the length of a raw file is a whole number of tokens. It does not
/// see a changed byte of a chunk's content, because LMCache's format has no checksum. Below a base path it enters
/// only `relative_tmp_dir`.
///
/// ```
/// # async fn f() -> connector_core::Result<()> {
/// use connector_core::ConnectorContext;
/// use connectors::fs::{ScrubOptions, scrub};
/// let store = connectors::builder("fs:///var/cache/kv").build()?;
/// let report = tokio::task::spawn_blocking(move || scrub(&store, &ScrubOptions::default())).await.expect("no panic")?;
/// for found in report.findings {
///     println!("{}: {}", found.path.display(), found.reason);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidUrl` for another store's URL, the errors of opening the store, and the system's error if a directory cannot be
/// listed. A file that cannot be read is a finding.
pub fn scrub(store: &ConnectorContext, options: &ScrubOptions) -> Result<ScrubReport> {
    scrub_with(store, options, |_| {})
}

/// Scrubs like [`scrub`], and calls `progress` with the report so far after each file or directory that it examines.
///
/// # Errors
/// Those of [`scrub`].
pub fn scrub_with(
    store: &ConnectorContext,
    options: &ScrubOptions,
    mut progress: impl FnMut(&ScrubReport),
) -> Result<ScrubReport> {
    let url = store.url();
    let is_fs = match url.scheme() {
        "fs" | "plugin" => true,
        "external" => url.query("connector_name").is_some_and(|name| name.trim() == "FSConnector"),
        _ => false,
    };
    if !is_fs {
        return Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` is not a store of files"))
            .with_hint("write `fs:///path`"));
    }
    let files = Files::of(store)?.prepare()?;
    let mut report = ScrubReport::default();
    for base in files.dirs.distinct() {
        let failed =
            |e: io::Error| Error::io(e, format_args!("list the files of `{}`", files.dirs.path(base).display()));
        let folder = files.dirs.folder(base, Wait::Yes).map_err(failed)?;
        let walk = Walk::new(files.dirs.folder(base, Wait::Yes).map_err(failed)?, files.layout).map_err(failed)?;
        let look = |report: &mut ScrubReport, found: &Found<'_>| {
            report.look_at_chunk(&files, base, options, found);
            progress(report);
        };
        report.each_file(walk, look).map_err(failed)?;
        match files.dirs.tmp_folder(&folder) {
            Ok(Some(tmp)) => {
                // Never enters a directory.
                let walk = Walk::new(tmp, Layout::Lmcache).map_err(failed)?;
                let look = |report: &mut ScrubReport, found: &Found<'_>| {
                    report.look_in_tmp(&files, options, found);
                    progress(report);
                };
                report.each_file(walk, look).map_err(failed)?;
            }
            Ok(None) => {}
            // The first put makes the directory.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(report)
}

/// Anything in a directory.
struct Found<'a> {
    folder: &'a Folder,
    path: PathBuf,
    /// Below the directory of the chunks. Empty if it is not UTF-8, because every chunk's name is.
    name: &'a str,
    stat: Stat,
}

impl ScrubReport {
    /// Findings that were not removed.
    pub fn left(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|found| !found.removed)
    }

    fn look_at_chunk(&mut self, files: &Files, base: usize, options: &ScrubOptions, found: &Found<'_>) {
        let name = found.name;
        let key = files.layout.key_of(name);
        let is_unfinished = files.layout.is_unfinished(name);
        let is_known = key.is_some() || name == quota::LEDGER || write::is_tmp_name(name) || is_unfinished;
        if !found.stat.is_file() {
            // The directory of temporary files, or another one that does not concern the store.
            if is_known || !found.stat.kind.is_dir() {
                self.add(found, FindingKind::Foreign, if is_known { NOT_A_FILE } else { NO_NAME });
            } else if !files.dirs.is_tmp(name) {
                self.directories += 1;
            }
            return;
        }
        let Some(key) = key else {
            return match name {
                quota::LEDGER => {}
                _ if write::is_tmp_name(name) => self.look_at_tmp_file(options, found),
                _ if is_unfinished => {
                    let writer = files.layout.writer();
                    self.add(found, FindingKind::Unfinished, &format!("{writer} writes under this name"));
                }
                _ => self.add(found, FindingKind::Foreign, NO_NAME),
            };
        };
        if files.place(&key).is_ok_and(|expected| expected.base != base || expected.path != name) {
            self.add(found, FindingKind::Foreign, "a get of its key reads another base path");
            return;
        }
        match files.find(&mut files.dirs.opened(), &key, Purpose::Inspect, Wait::Yes) {
            Ok(Lookup::Found(_)) => {
                self.chunks += 1;
                self.chunk_bytes += found.stat.bytes;
            }
            // The file was removed meanwhile.
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let reason = e.hint().map_or_else(|| e.message().into(), |hint| format!("{}; {hint}", e.message()));
                self.add(found, FindingKind::Torn, &reason);
            }
            Err(e) => self.add(found, FindingKind::Unreadable, &format!("cannot be read: {e}")),
        }
    }

    fn look_in_tmp(&mut self, files: &Files, options: &ScrubOptions, found: &Found<'_>) {
        let is_chunk = files.layout == Layout::Lmcache && files.layout.key_of(found.name).is_some();
        if !found.stat.is_file() {
            if !found.stat.kind.is_dir() {
                self.add(found, FindingKind::Foreign, "it is not a file");
            }
        } else if write::is_tmp_name(found.name) {
            self.look_at_tmp_file(options, found);
        } else if is_chunk {
            self.add(found, FindingKind::Unfinished, "LMCache writes in this directory");
        } else {
            self.add(found, FindingKind::Foreign, "not a file that is being written");
        }
    }

    /// A file with a name that only kvconn gives.
    fn look_at_tmp_file(&mut self, options: &ScrubOptions, found: &Found<'_>) {
        match write::tmp_state(found.folder, found.name, &found.stat, options.min_age) {
            Ok(TmpState::InUse) => self.being_written += 1,
            Ok(TmpState::Gone) => {}
            Ok(TmpState::Unknown(e)) => {
                let reason = format!("its writer may be alive: the file system has no locks ({e})");
                self.add(found, FindingKind::Unfinished, &reason);
            }
            Ok(TmpState::LeftBehind(left)) => {
                let mut reason = "its writer is gone".to_owned();
                let removed = options.remove.then(|| left.remove(found.folder, found.name));
                if let Some(Err(e)) = &removed {
                    reason = format!("{reason}, and it cannot be removed: {e}");
                }
                self.add(found, FindingKind::LeftBehind, &reason);
                if let Some(finding) = self.findings.last_mut() {
                    finding.removed = matches!(removed, Some(Ok(())));
                }
            }
            Err(e) => self.add(found, FindingKind::Unreadable, &format!("cannot be opened: {e}")),
        }
    }

    fn add(&mut self, found: &Found<'_>, kind: FindingKind, reason: &str) {
        self.add_path(found.path.clone(), found.stat.bytes, kind, reason);
    }

    fn add_path(&mut self, path: PathBuf, bytes: u64, kind: FindingKind, reason: &str) {
        self.findings.push(Finding { path, bytes, kind, reason: reason.to_owned(), removed: false });
    }

    /// Calls `look` for everything in the directories that the walk does not enter.
    fn each_file(&mut self, mut walk: Walk, mut look: impl FnMut(&mut Self, &Found<'_>)) -> io::Result<()> {
        while let Some(Visited { folder, entry, path: name }) = walk.next()? {
            let path = entry.path_in(folder);
            match folder.stat(entry.name()) {
                Ok(Some(stat)) => look(self, &Found { folder, path, name: &name, stat }),
                // The file was renamed or removed meanwhile.
                Ok(None) => {}
                Err(e) => self.add_path(path, 0, FindingKind::Unreadable, &format!("cannot be read: {e}")),
            }
        }
        Ok(())
    }
}
