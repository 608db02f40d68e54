//! Finds the files of a store that are not chunks: torn files, and those that killed writers left behind.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connector_core::{ConnectorContext, Error, ErrorKind, Result};

use super::files::Files;
use super::read::{Lookup, Purpose, Wait};
use super::write::{self, TmpState};
use super::{layout, quota};

const NOT_A_FILE: &str = "it has a chunk's name, but is not a file";

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
    /// LMCache's name for a file that is being written. A scrub cannot tell whether the writer is alive.
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
/// `Unsupported` for another store's URL, the errors of opening the store, and the system's error if a directory cannot be
/// listed. A file that cannot be read is a finding.
pub fn scrub(store: &ConnectorContext, options: &ScrubOptions) -> Result<ScrubReport> {
    let url = store.url();
    let is_fs = match url.scheme() {
        "fs" | "plugin" => true,
        "external" => url.query("connector_name").is_some_and(|name| name.trim() == "FSConnector"),
        _ => false,
    };
    if !is_fs {
        return Err(Error::new(ErrorKind::Unsupported, format!("`{url}` is not a store of files"))
            .with_hint("write `fs:///path`"));
    }
    let files = Files::of(store)?.prepare()?;
    let mut report = ScrubReport::default();
    let tmp_dir = files.tmp_dir.clone().filter(|dir| dir.components().next().is_some());
    for base in &files.base_paths {
        report.each_file(base, |report, path, name, stat| report.look_at_chunk(&files, options, path, name, stat))?;
        // The first put makes the directory.
        if let Some(tmp) = tmp_dir.as_ref().map(|tmp| base.join(tmp)).filter(|tmp| tmp.exists()) {
            report.each_file(&tmp, |report, path, name, stat| report.look_in_tmp(options, path, name, stat))?;
        }
    }
    Ok(report)
}

impl ScrubReport {
    /// Findings that were not removed.
    pub fn left(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|found| !found.removed)
    }

    fn look_at_chunk(&mut self, files: &Files, options: &ScrubOptions, path: &Path, name: &str, stat: &Metadata) {
        let Some(key) = layout::key_of_file(name) else {
            return match name {
                quota::LEDGER => {}
                _ if write::is_tmp_name(name) => self.look_at_tmp_file(options, path, stat),
                _ if layout::is_unfinished(name) => {
                    self.add(path, stat.len(), FindingKind::Unfinished, "LMCache writes under this name");
                }
                _ => self.add(path, stat.len(), FindingKind::Foreign, "it is not the name of a key's file"),
            };
        };
        if files.path(&key).is_ok_and(|expected| expected != path) {
            self.add(path, stat.len(), FindingKind::Foreign, "a get of its key reads another base path");
            return;
        }
        // A link may lead to a file; anything else is not opened.
        if !stat.is_file() && !stat.is_symlink() {
            self.add(path, stat.len(), FindingKind::Foreign, NOT_A_FILE);
            return;
        }
        match files.find(&key, Purpose::Inspect, Wait::Yes) {
            Ok(Lookup::Found(_)) => {
                self.chunks += 1;
                self.chunk_bytes += stat.len();
            }
            // The file was removed meanwhile.
            Ok(_) if stat.is_file() => {}
            Ok(_) => self.add(path, stat.len(), FindingKind::Foreign, NOT_A_FILE),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let reason = e.hint().map_or_else(|| e.message().into(), |hint| format!("{}; {hint}", e.message()));
                self.add(path, stat.len(), FindingKind::Torn, &reason);
            }
            Err(e) => self.add(path, stat.len(), FindingKind::Unreadable, &format!("cannot be read: {e}")),
        }
    }

    fn look_in_tmp(&mut self, options: &ScrubOptions, path: &Path, name: &str, stat: &Metadata) {
        if write::is_tmp_name(name) {
            self.look_at_tmp_file(options, path, stat);
        } else if layout::key_of_file(name).is_some() {
            self.add(path, stat.len(), FindingKind::Unfinished, "LMCache writes in this directory");
        } else {
            self.add(path, stat.len(), FindingKind::Foreign, "not a file that is being written");
        }
    }

    /// A file with a name that only kvconn gives.
    fn look_at_tmp_file(&mut self, options: &ScrubOptions, path: &Path, stat: &Metadata) {
        match write::tmp_state(path, stat, options.min_age) {
            Ok(TmpState::InUse) => self.being_written += 1,
            Ok(TmpState::Gone) => {}
            Ok(TmpState::Unknown(e)) => {
                let reason = format!("its writer may be alive: the file system has no locks ({e})");
                self.add(path, stat.len(), FindingKind::Unfinished, &reason);
            }
            Ok(TmpState::LeftBehind(left)) => {
                let mut reason = "its writer is gone".to_owned();
                let removed = options.remove.then(|| left.remove());
                if let Some(Err(e)) = &removed {
                    reason = format!("{reason}, and it cannot be removed: {e}");
                }
                self.add(path, stat.len(), FindingKind::LeftBehind, &reason);
                if let Some(found) = self.findings.last_mut() {
                    found.removed = matches!(removed, Some(Ok(())));
                }
            }
            Err(e) => self.add(path, stat.len(), FindingKind::Unreadable, &format!("cannot be opened: {e}")),
        }
    }

    fn add(&mut self, path: &Path, bytes: u64, kind: FindingKind, reason: &str) {
        let (path, reason) = (path.to_owned(), reason.to_owned());
        self.findings.push(Finding { path, bytes, kind, reason, removed: false });
    }

    /// Calls `look` for every entry that is not a directory.
    fn each_file(&mut self, dir: &Path, look: impl Fn(&mut Self, &Path, &str, &Metadata)) -> Result<()> {
        let failed = |e: io::Error| Error::io(e, format_args!("list the files of `{}`", dir.display()));
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.metadata() {
                Ok(stat) if stat.is_dir() => {}
                Ok(stat) => look(self, &entry.path(), &entry.file_name().to_string_lossy(), &stat),
                // The file was renamed or removed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => self.add(&entry.path(), 0, FindingKind::Unreadable, &format!("cannot be read: {e}")),
            }
        }
        Ok(())
    }
}
