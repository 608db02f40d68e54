//! Looks through a store's directories for what is no chunk: torn files, and what writers left behind.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use connector_core::{ConnectorContext, Error, ErrorKind, Result};

use super::file::Files;
use super::found::{Look, Wait};
use super::{layout, quota, record, writing};

/// What a scrub does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Whether files that a kvconn writer left behind are removed. Nothing else ever is.
    pub remove: bool,
    /// Files that were changed within this time count as being written.
    pub min_age: Duration,
}

impl Default for ScrubOptions {
    /// Removes nothing; takes files of the last minute for files that are being written.
    fn default() -> Self {
        Self { remove: false, min_age: Duration::from_secs(60) }
    }
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Files that hold a chunk.
    pub chunks: u64,
    /// Their bytes, headers and all.
    pub chunk_bytes: u64,
    /// Files that kvconn writers have in hand.
    pub being_written: u64,
    /// Everything else.
    pub findings: Vec<Finding>,
}

/// A file that is no chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What it is.
    pub kind: FindingKind,
    /// How that was seen.
    pub reason: String,
    /// Whether this scrub removed it.
    pub removed: bool,
}

/// What a file is that is no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A chunk's file, but its header and its length do not agree: a get says `Corrupt`.
    Torn,
    /// A temporary file of a kvconn writer that is gone: the only kind that is ever removed.
    LeftBehind,
    /// LMCache's name for a file that is being written. Nobody can tell whether its writer lives.
    Unfinished,
    /// Any other name that no key has.
    Foreign,
}

impl FindingKind {
    /// The kind in snake case, for logs and JSON: `left_behind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::LeftBehind => "left_behind",
            Self::Unfinished => "unfinished",
            Self::Foreign => "foreign",
        }
    }
}

/// Looks through the directories of the store that the context's URL names, and reads every chunk's header. Blocks: run it
/// on a blocking thread.
///
/// A raw file holds nothing that could be wrong but a length that is no whole number of tokens, which needs the engine's
/// metadata. A changed byte of a chunk's content is seen by no scrub: nothing in LMCache's format says what it was.
/// Directories below a base path are not entered, but for `relative_tmp_dir`.
///
/// ```
/// # async fn f() -> connector_core::Result<()> {
/// use connector_core::ConnectorContext;
/// use connectors::fs::{ScrubOptions, scrub};
/// let store = ConnectorContext::builder("fs:///var/cache/kv").build()?;
/// let report = tokio::task::spawn_blocking(move || scrub(&store, &ScrubOptions::default())).await.expect("no panic")?;
/// for found in report.findings {
///     println!("{}: {}", found.path.display(), found.reason);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Unsupported` for another store's URL, as for opening the store if the URL or an option is wrong, and what the system
/// says if a directory cannot be read.
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
        each_file(base, |path, name, stat| report.look_in_base(&files, options, path, name, stat))?;
        if let Some(tmp) = &tmp_dir {
            match each_file(&base.join(tmp), |path, name, stat| report.look_in_tmp(options, path, name, stat)) {
                // The first put makes it.
                Err(e) if is_not_found(&e) => {}
                done => done?,
            }
        }
    }
    Ok(report)
}

impl ScrubReport {
    /// Findings that are still there.
    pub fn left(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|found| !found.removed)
    }

    fn look_in_base(
        &mut self,
        files: &Files,
        options: &ScrubOptions,
        path: &Path,
        name: &str,
        stat: &Metadata,
    ) -> Result<()> {
        let Some(key) = record::key_of_entry(name, path) else {
            return match name {
                quota::LEDGER => Ok(()),
                _ if writing::is_name(name) => self.look_at_ours(options, path, stat),
                _ if layout::is_unfinished(name) => {
                    self.add(path, stat.len(), FindingKind::Unfinished, "LMCache writes under such a name");
                    Ok(())
                }
                _ => {
                    self.add(path, stat.len(), FindingKind::Foreign, "no key has a file of this name");
                    Ok(())
                }
            };
        };
        if files.path(&key)? != path {
            let elsewhere = "a get of its key looks into another base path";
            self.add(path, stat.len(), FindingKind::Foreign, elsewhere);
            return Ok(());
        }
        match files.find(&key, Wait::Yes) {
            Ok(Look::Found(_)) => {
                self.chunks += 1;
                self.chunk_bytes += stat.len();
            }
            Ok(_) if stat.is_file() => {}
            Ok(_) => self.add(path, stat.len(), FindingKind::Foreign, "it has a chunk's name, but is no file"),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let reason = e.hint().map_or_else(|| e.message().into(), |hint| format!("{}; {hint}", e.message()));
                self.add(path, stat.len(), FindingKind::Torn, &reason);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn look_in_tmp(&mut self, options: &ScrubOptions, path: &Path, name: &str, stat: &Metadata) -> Result<()> {
        if writing::is_name(name) {
            return self.look_at_ours(options, path, stat);
        }
        if layout::key_of_file(name).is_some() {
            self.add(path, stat.len(), FindingKind::Unfinished, "LMCache writes in this directory");
        } else {
            self.add(path, stat.len(), FindingKind::Foreign, "not a file that is being written");
        }
        Ok(())
    }

    /// A file with a name that only this crate's writers give. They hold its lock as long as they live.
    fn look_at_ours(&mut self, options: &ScrubOptions, path: &Path, stat: &Metadata) -> Result<()> {
        let failed = |step: &str, e: io::Error| Error::io(e, format_args!("{step} `{}`", path.display()));
        let age = stat.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        if age < options.min_age {
            self.being_written += 1;
            return Ok(());
        }
        let file = match File::open(path) {
            Ok(file) => file,
            // It was finished meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("open", e)),
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => self.being_written += 1,
            Err(TryLockError::Error(e)) => {
                let reason = format!("its writer may live: the file system has no locks ({e})");
                self.add(path, stat.len(), FindingKind::Unfinished, &reason);
            }
            // It was finished before it was locked.
            Ok(()) if path.symlink_metadata().is_err() => {}
            Ok(()) => {
                self.add(path, stat.len(), FindingKind::LeftBehind, "its writer is gone");
                // While it is locked: a writer that has just made it sees that, and takes another name.
                if options.remove {
                    match std::fs::remove_file(path) {
                        Ok(()) => {}
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(e) => return Err(failed("remove", e)),
                    }
                    self.findings.iter_mut().rev().take(1).for_each(|found| found.removed = true);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, bytes: u64, kind: FindingKind, reason: &str) {
        let (path, reason) = (path.to_owned(), reason.to_owned());
        self.findings.push(Finding { path, bytes, kind, reason, removed: false });
    }
}

/// Gives every entry that is no directory to `each`.
fn each_file(dir: &Path, mut each: impl FnMut(&Path, &str, &Metadata) -> Result<()>) -> Result<()> {
    let failed = |e: io::Error| Error::io(e, format_args!("look at the files of `{}`", dir.display()));
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.metadata() {
            Ok(stat) if stat.is_dir() => {}
            Ok(stat) => each(&entry.path(), &entry.file_name().to_string_lossy(), &stat)?,
            // Renamed or removed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

fn is_not_found(e: &Error) -> bool {
    use std::error::Error as _;
    let cause = e.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
}
