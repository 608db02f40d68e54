//! Scans the chunk files, and removes those used longest ago.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use connector_core::{Error, Result};

use super::super::layout;
use super::super::write::{self, TmpState};
use super::last_use;

/// An unlocked temporary file that has not changed for this time is removed. The time is longer than a scrub's,
/// because a scrub removes only on request.
const LEFT_BEHIND: Duration = Duration::from_secs(600);

/// All chunk files of a store at the time of a scan.
pub(super) struct Chunks<'a> {
    base_paths: &'a [PathBuf],
    files: Vec<ChunkFile>,
    sum: u64,
}

struct ChunkFile {
    base: usize,
    name: OsString,
    bytes: u64,
    used: SystemTime,
}

/// Finds every file whose name is a key's, of any writer.
pub(super) fn scan(base_paths: &[PathBuf]) -> Result<Chunks<'_>> {
    let mut chunks = Chunks { base_paths, files: Vec::new(), sum: 0 };
    for (base, dir) in base_paths.iter().enumerate() {
        let failed = |e: io::Error| Error::io(e, format_args!("scan the files of `{}`", dir.display()));
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_str().and_then(layout::key_of_file).is_none() {
                continue;
            }
            let stat = match entry.metadata() {
                Ok(stat) if stat.is_file() => stat,
                Ok(_) => continue,
                // Removed meanwhile, by a writer without a quota.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            chunks.sum += stat.len();
            chunks.files.push(ChunkFile { base, name, bytes: stat.len(), used: last_use(&stat) });
        }
    }
    Ok(chunks)
}

/// Removes temporary files of killed writers, which the sum does not count. Best effort: the room for a chunk does not depend
/// on it.
pub(super) fn remove_left_behind(tmp_dirs: &[PathBuf]) {
    for entry in tmp_dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(write::is_tmp_name) {
            continue;
        }
        let (path, stat) = (entry.path(), entry.metadata());
        if let Ok(stat) = stat
            && stat.is_file()
            && let Ok(TmpState::LeftBehind(left)) = write::tmp_state(&path, &stat, LEFT_BEHIND)
            && left.remove().is_ok()
        {
            tracing::debug!(file = %path.display(), bytes = stat.len(), "removed a killed writer's file");
        }
    }
}

impl Chunks<'_> {
    /// The sum of their bytes.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// Removes files, the one used longest ago first, until all but `kept` have at most `others` bytes. A reader that has one
    /// of them open still reads all of it. Gives the last error of a file that could not be removed.
    pub(super) fn evict(&mut self, kept: &Path, others: u64) -> Option<io::Error> {
        // Oldest last.
        self.files.sort_by(|a, b| (b.used, &b.name).cmp(&(a.used, &a.name)));
        let kept = self.files.iter().position(|file| self.base_paths[file.base].join(&file.name) == kept);
        let kept_bytes = kept.map_or(0, |at| self.files.remove(at).bytes);
        let (mut gone, mut refused) = (0_usize, None);
        while self.sum - kept_bytes > others {
            let Some(oldest) = self.files.pop() else { break };
            match std::fs::remove_file(self.base_paths[oldest.base].join(&oldest.name)) {
                Ok(()) => gone += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // In a sticky directory only owners may remove.
                Err(e) => {
                    refused = Some(e);
                    continue;
                }
            }
            self.sum -= oldest.bytes;
        }
        tracing::debug!(files = gone, bytes_left = self.sum, "made room for a chunk");
        refused
    }
}
