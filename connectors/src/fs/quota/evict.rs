//! Removes the chunk files used longest ago.

use std::io;
use std::time::SystemTime;

use connector_core::Result;

use super::super::dirs::Dirs;
use super::super::files::Place;
use super::super::folder::Wait;
use super::ledger::{Locked, Record};
use super::oldest::Candidate;
use super::{Quota, Upkeep, last_use};

/// How much a caller still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The caller waits for the room.
    Now,
    /// The background may make the rest of the room.
    Soon,
    Nothing,
}

/// An eviction under the ledger's lock.
pub(super) struct Eviction<'a> {
    pub(super) quota: &'a Quota,
    pub(super) dirs: &'a Dirs,
    /// The file that stays.
    pub(super) kept: Option<&'a Place>,
    /// The base path to evict from, or all.
    pub(super) base: Option<usize>,
    pub(super) now: SystemTime,
    /// The most files to look at while the caller's need can wait.
    pub(super) at_once: usize,
    /// The bytes of removed files.
    pub(super) freed: u64,
    /// The number of removed files.
    pub(super) files: usize,
    /// The number of files that were used after the scan, or that another process has removed.
    pub(super) gone: usize,
    /// The last error of a file that could not be removed.
    pub(super) refused: Option<io::Error>,
}

impl Eviction<'_> {
    /// Removes files until `need` is satisfied. `false` if none is left although the caller needs more. A reader that
    /// has one of the files open still reads all of it.
    pub(super) fn run(
        &mut self,
        upkeep: &mut Upkeep,
        ledger: &mut Locked,
        record: &mut Record,
        need: impl Fn(&Record, u64) -> Need,
    ) -> Result<bool> {
        // Whether a scan that began here has ended. It has then seen all files.
        let (mut began, mut has_seen_all, mut has_scanned) = (false, false, false);
        upkeep.is_evicting = false;
        loop {
            let is_urgent = match need(record, self.freed) {
                Need::Nothing => return Ok(true),
                Need::Soon if self.files + self.gone >= self.at_once => {
                    upkeep.is_evicting = true;
                    return Ok(true);
                }
                need => need == Need::Now,
            };
            if let Some(oldest) = upkeep.pop(self.base, is_urgent) {
                if let Some(bytes) = self.remove(&oldest) {
                    (self.freed, self.files, has_seen_all) = (self.freed + bytes, self.files + 1, false);
                    record.sum = record.sum.map(|sum| sum.saturating_sub(bytes));
                    record.changes.removed = record.changes.removed.wrapping_add(bytes);
                }
            } else if has_seen_all || (!is_urgent && self.files == 0 && self.refused.is_some()) {
                return Ok(!is_urgent);
            } else if !is_urgent && has_scanned {
                upkeep.is_evicting = true;
                return Ok(true);
            } else {
                has_scanned = true;
                began |= upkeep.scan.is_none();
                if self.quota.scan(self.dirs, upkeep, ledger, record, self.now)? {
                    (has_seen_all, began) = (began, false);
                }
            }
        }
    }

    /// Removes the file, unless it was used after the scan. Returns its bytes.
    fn remove(&mut self, oldest: &Candidate) -> Option<u64> {
        let place = oldest.place();
        if self.kept == Some(&place) {
            return None;
        }
        let removed = self.dirs.folder_of(&place, Wait::Yes).and_then(|(folder, name)| {
            let stat = folder.stat_file(name)?.filter(|stat| last_use(stat, self.now) <= oldest.used);
            stat.map(|stat| folder.remove(name).map(|()| stat.bytes)).transpose()
        });
        match removed {
            Ok(Some(bytes)) => return Some(bytes),
            Ok(None) => self.gone += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.gone += 1,
            // In a sticky directory only owners may remove.
            Err(e) => self.refused = Some(e),
        }
        None
    }
}
