//! Scans the chunk files, and removes those used longest ago.

use std::io;
use std::time::{Duration, SystemTime};

use connector_core::{Error, Result};

use super::super::dirs::Dirs;
use super::super::files::Place;
use super::super::folder::{Stat, Wait};
use super::super::walk::Walk;
use super::super::write::{self, TmpState};
use super::super::Layout;
use super::last_use;

/// An unlocked temporary file that has not changed for this time is removed. The time is longer than a scrub's,
/// because a scrub removes only on request.
const LEFT_BEHIND: Duration = Duration::from_secs(600);

/// All chunk files of a store at the time of a scan.
pub(super) struct Chunks {
    files: Vec<ChunkFile>,
    sum: u64,
}

struct ChunkFile {
    place: Place,
    bytes: u64,
    used: SystemTime,
}

/// Finds every file whose name is a key's, of any writer.
pub(super) fn scan(dirs: &Dirs, layout: Layout, now: SystemTime) -> Result<Chunks> {
    let mut chunks = Chunks { files: Vec::new(), sum: 0 };
    for base in 0..dirs.count() {
        let failed = |e: io::Error| Error::io(e, format_args!("scan the files of `{}`", dirs.path(base).display()));
        let mut walk = dirs.folder(base, Wait::Yes).and_then(|folder| Walk::new(folder, layout)).map_err(failed)?;
        while let Some(visited) = walk.next().map_err(failed)? {
            if layout.key_of(&visited.path).is_none() {
                continue;
            }
            // A writer without a quota may have removed the file meanwhile.
            let stat = visited.folder.stat(visited.entry.name()).map_err(failed)?;
            let Some(stat) = stat.filter(Stat::is_file) else { continue };
            chunks.sum += stat.bytes;
            let place = Place { base, path: visited.path };
            chunks.files.push(ChunkFile { place, bytes: stat.bytes, used: last_use(&stat, now) });
        }
    }
    Ok(chunks)
}

/// Removes temporary files of killed writers, which the sum does not count. Best effort: the room for a chunk does not depend
/// on it.
pub(super) fn remove_left_behind(dirs: &Dirs) {
    let folder = |base| {
        let folder = dirs.folder(base, Wait::Yes)?;
        Ok::<_, io::Error>(dirs.tmp_folder(&folder)?.unwrap_or(folder))
    };
    for folder in (0..dirs.count()).filter_map(|base| folder(base).ok()) {
        for entry in folder.entries().into_iter().flatten().flatten() {
            let Some(name) = entry.text().filter(|name| write::is_tmp_name(name)) else { continue };
            if let Ok(Some(stat)) = folder.stat_file(name)
                && let Ok(TmpState::LeftBehind(left)) = write::tmp_state(&folder, name, &stat, LEFT_BEHIND)
                && left.remove(&folder, name).is_ok()
            {
                let file = folder.path().join(name);
                tracing::debug!(file = %file.display(), bytes = stat.bytes, "removed a killed writer's file");
            }
        }
    }
}

impl Chunks {
    /// The sum of their bytes.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// Like [`evict`](Self::evict), from the base path of `kept` alone. Frees at least `bytes`, and at least a tenth of the
    /// base path's bytes. Gives the bytes of the removed files.
    pub(super) fn evict_from(&mut self, dirs: &Dirs, kept: &Place, bytes: u64) -> u64 {
        self.files.retain(|file| file.place.base == kept.base && file.place != *kept);
        let (before, here) = (self.sum, self.files.iter().map(|file| file.bytes).sum::<u64>());
        self.evict(dirs, kept, before.saturating_sub(bytes.max(here / 10)));
        before - self.sum
    }

    /// Removes files, the one used longest ago first, until all but `kept` have at most `others` bytes. A reader that has one
    /// of them open still reads all of it. Gives the last error of a file that could not be removed.
    pub(super) fn evict(&mut self, dirs: &Dirs, kept: &Place, others: u64) -> Option<io::Error> {
        // Oldest last.
        self.files.sort_by(|a, b| (b.used, &b.place.path).cmp(&(a.used, &a.place.path)));
        let kept = self.files.iter().position(|file| file.place == *kept);
        let kept_bytes = kept.map_or(0, |at| self.files.remove(at).bytes);
        let (mut gone, mut refused) = (0_usize, None);
        while self.sum - kept_bytes > others {
            let Some(oldest) = self.files.pop() else { break };
            let removed = dirs.folder_of(&oldest.place, Wait::Yes).and_then(|(folder, name)| folder.remove(name));
            match removed {
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
