//! Finds the sum of all chunk files, and the oldest of them, while puts go on.
//!
//! A scan is not a snapshot: it may see or miss a file that is put, replaced or removed meanwhile. The ledger counts
//! the bytes that all processes add and remove. So the true sum at the end of a scan is at least the bytes that the scan
//! found, less the bytes removed meanwhile. It is at most the bytes found plus the bytes added meanwhile.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, Result};

use super::super::Layout;
use super::super::dirs::Dirs;
use super::super::folder::{Folder, Stat, Wait};
use super::super::walk::Walk;
use super::super::write::{self, TmpState};
use super::last_use;
use super::ledger::{Changes, Record};
use super::oldest::Oldest;

/// An unlocked temporary file that has not changed for this time is removed. The time is longer than a scrub's,
/// because a scrub removes only on request.
const LEFT_BEHIND: Duration = Duration::from_secs(600);

/// The rest of a scan, and its result so far.
pub(super) struct Scan {
    pub(super) began: SystemTime,
    /// The time of its steps so far.
    pub(super) took: Duration,
    /// The ledger's count at the begin.
    changes: Changes,
    /// Whether the ledger was due for a scan when this one began.
    is_due: bool,
    /// The base path after the current one.
    next_base: usize,
    /// The rest of the current base path.
    walk: Option<Walk>,
    /// The bytes found in each base path.
    pub(super) bytes: Vec<u64>,
    pub(super) oldest: Oldest,
}

impl Scan {
    /// `record` is the ledger's content, read under its lock.
    pub(super) fn new(dirs: &Dirs, record: &Record, now: SystemTime) -> Self {
        Self {
            began: now,
            took: Duration::ZERO,
            changes: record.changes,
            is_due: record.is_due,
            next_base: 0,
            walk: None,
            bytes: vec![0; dirs.count()],
            oldest: Oldest::default(),
        }
    }

    /// Whether the scan began because this ledger needed one.
    pub(super) fn is_due_by(&self, record: &Record) -> bool {
        self.is_due && record.changes.since(&self.changes).is_some()
    }

    /// Whether all files were visited.
    pub(super) fn is_done(&self) -> bool {
        self.walk.is_none() && self.next_base == self.bytes.len()
    }

    /// The lower bound of the sum: the bytes that the scan has found, less those that processes have removed meanwhile.
    pub(super) fn least(&self, record: &Record) -> u64 {
        let found: u64 = self.bytes.iter().sum();
        record.changes.since(&self.changes).map_or(0, |(_, removed)| found.saturating_sub(removed))
    }

    /// Visits the next `names`. Finds every file whose name is a key's, of any writer. `now` is the time of the files.
    pub(super) fn step(&mut self, dirs: &Dirs, layout: Layout, names: usize, now: SystemTime) -> Result<()> {
        let begin = Instant::now();
        let visited = self.visit(dirs, layout, names, now);
        self.took += begin.elapsed();
        visited
    }

    fn visit(&mut self, dirs: &Dirs, layout: Layout, names: usize, now: SystemTime) -> Result<()> {
        for _ in 0..names {
            if self.is_done() {
                break;
            }
            let base = self.next_base.saturating_sub(1);
            let Some(walk) = &mut self.walk else {
                let base = self.next_base;
                self.next_base += 1;
                if dirs.first(base) == base {
                    self.walk = Some(begin(dirs, base, layout).map_err(|e| failed(dirs, base, e))?);
                }
                continue;
            };
            let Some(visited) = walk.next().map_err(|e| failed(dirs, base, e))? else {
                self.walk = None;
                continue;
            };
            if layout.key_of(&visited.path).is_some() {
                // A writer without a quota may have removed the file meanwhile.
                let stat = visited.folder.stat(visited.entry.name()).map_err(|e| failed(dirs, base, e))?;
                let Some(stat) = stat.filter(Stat::is_file) else { continue };
                self.bytes[base] += stat.bytes;
                self.oldest.offer(last_use(&stat, now), base, &visited.path);
            } else if write::is_tmp_name(&visited.path) {
                remove_left_behind(visited.folder, &visited.path);
            }
        }
        Ok(())
    }

    /// The sum at the end of the scan: a known one between the two bounds, or else the upper bound. `record` is the
    /// ledger's content now. If another store or a new ledger has replaced the count of changes, the scan says nothing
    /// about the sum.
    pub(super) fn sum(&self, record: &Record) -> Option<u64> {
        let Some((added, removed)) = record.changes.since(&self.changes) else { return record.sum };
        let found: u64 = self.bytes.iter().sum();
        let (least, most) = (found.saturating_sub(removed), found.saturating_add(added));
        // A sum outside of the bounds missed files of writers without a quota, also some that this scan missed.
        Some(record.sum.filter(|sum| (least..=most).contains(sum)).unwrap_or(most))
    }
}

fn failed(dirs: &Dirs, base: usize, e: io::Error) -> Error {
    Error::io(e, format_args!("scan the files of `{}`", dirs.path(base).display()))
}

/// Opens a base path, and looks into its directory of temporary files, if that is another one.
fn begin(dirs: &Dirs, base: usize, layout: Layout) -> io::Result<Walk> {
    let folder = dirs.folder(base, Wait::Yes)?;
    if let Ok(Some(tmp)) = dirs.tmp_folder(&folder) {
        for entry in tmp.entries().into_iter().flatten().flatten() {
            if let Some(name) = entry.text().filter(|name| write::is_tmp_name(name)) {
                remove_left_behind(&tmp, name);
            }
        }
    }
    Walk::new(folder, layout)
}

/// Removes a temporary file of a killed writer, which the sum does not count. Best effort: the room for a chunk does not
/// depend on it.
fn remove_left_behind(folder: &Folder, name: &str) {
    if let Ok(Some(stat)) = folder.stat_file(name)
        && let Ok(TmpState::LeftBehind(left)) = write::tmp_state(folder, name, &stat, LEFT_BEHIND)
        && left.remove(folder, name).is_ok()
    {
        let file = folder.path().join(name);
        tracing::debug!(file = %file.display(), bytes = stat.bytes, "removed a killed writer's file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writers without a quota do not count in the ledger.
    #[tokio::test]
    async fn a_sum_outside_of_the_bounds_is_replaced_by_the_upper_bound() {
        let dir = tempfile::tempdir().unwrap();
        let context = connector_core::builder(&format!("fs://{}", dir.path().display())).build().unwrap();
        let files = super::super::super::files::Files::of(&context).unwrap();
        let record = Record { sum: None, is_due: true, scanned: SystemTime::now(), changes: Changes::default() };
        let mut scan = Scan::new(&files.dirs, &record, SystemTime::now());
        scan.bytes = vec![1000];
        let mut changes = record.changes;
        (changes.added, changes.removed) = (100, 10);
        for (sum, wanted) in [(None, 1100), (Some(989), 1100), (Some(990), 990), (Some(1100), 1100), (Some(1101), 1100)]
        {
            assert_eq!(scan.sum(&Record { sum, changes, ..record }), Some(wanted), "{sum:?}");
        }
    }
}
