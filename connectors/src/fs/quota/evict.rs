//! Removes the chunk files used longest ago.

use std::io;
use std::time::SystemTime;

use connector_core::Result;

use super::super::dirs::Dirs;
use super::super::files::Place;
use super::super::folder::Wait;
use super::ledger::{Locked, Record};
use super::oldest::Candidate;
use super::{AT_ONCE, Quota, Upkeep, last_use};

/// How much a caller still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The caller waits for the room.
    Now,
    /// The background may make the rest of the room.
    Soon,
    Nothing,
}

/// The result of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Made {
    /// The caller needs no more.
    Room,
    /// The caller needs more, and lets others have the lock before it goes on.
    Part,
    /// The caller needs more, and no file is left.
    Nothing,
}

/// A caller's search for room. It may take the lock several times.
#[derive(Debug, Default)]
pub(in super::super) struct Search {
    /// The bytes of removed files.
    pub(super) freed: u64,
    /// Whether it began a scan.
    began: bool,
    /// Whether such a scan has ended, and has thus seen all files.
    has_seen_all: bool,
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
    pub(super) search: &'a mut Search,
    /// The number of removed files.
    pub(super) files: usize,
    /// The number of files that were used after the scan, that another process has removed, or that stay.
    pub(super) gone: usize,
    /// The last error of a file that could not be removed.
    pub(super) refused: Option<io::Error>,
}

impl Eviction<'_> {
    /// Removes files until `need` is satisfied. A reader that has one of the files open still reads all of it.
    pub(super) fn run(
        &mut self,
        upkeep: &mut Upkeep,
        ledger: &mut Locked,
        record: &mut Record,
        need: impl Fn(&Record, u64) -> Need,
    ) -> Result<Made> {
        let mut has_scanned = false;
        upkeep.is_evicting = false;
        loop {
            let looks = self.files + self.gone;
            let is_urgent = match need(record, self.search.freed) {
                Need::Nothing => return Ok(Made::Room),
                Need::Soon if looks >= self.at_once => {
                    upkeep.is_evicting = true;
                    return Ok(Made::Room);
                }
                // Most of the files that an old scan found may be gone.
                Need::Now if looks >= AT_ONCE => return Ok(Made::Part),
                need => need == Need::Now,
            };
            if let Some(oldest) = upkeep.pop(self.base, is_urgent) {
                match self.remove(&oldest) {
                    Some(bytes) => {
                        self.files += 1;
                        self.search.freed += bytes;
                        self.search.has_seen_all = false;
                        record.sum = record.sum.map(|sum| sum.saturating_sub(bytes));
                        record.changes.removed = record.changes.removed.wrapping_add(bytes);
                    }
                    None => self.gone += 1,
                }
            } else if self.search.has_seen_all || (!is_urgent && self.files == 0 && self.refused.is_some()) {
                return Ok(if is_urgent { Made::Nothing } else { Made::Room });
            } else if has_scanned && !is_urgent {
                upkeep.is_evicting = true;
                return Ok(Made::Room);
            } else if has_scanned && upkeep.scan.is_some() {
                return Ok(Made::Part);
            } else {
                has_scanned = true;
                self.search.began |= upkeep.scan.is_none();
                if self.quota.scan(self.dirs, upkeep, ledger, record, self.now)? {
                    self.search.has_seen_all = std::mem::take(&mut self.search.began);
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
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // In a sticky directory only owners may remove.
            Err(e) => self.refused = Some(e),
        }
        None
    }
}
