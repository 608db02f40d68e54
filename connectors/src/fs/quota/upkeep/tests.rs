//! Handles of one store, as in several processes, whose scans and evictions take one step at a time.

use std::fs::{File, FileTimes};
use std::sync::Arc;
use std::time::SystemTime;

use connector_core::CacheKey;
use connector_core::Error;
use futures::FutureExt;

use super::super::super::Layout;
use super::super::super::files::Place;
use super::super::super::folder::Stat;
use super::super::super::layout::file_name;
use super::super::{AT_ONCE, Ledger, Made};
use super::*;

struct Store {
    dir: tempfile::TempDir,
    dirs: Dirs,
}

impl Store {
    /// Files of 10 bytes; the first one was used longest ago.
    fn new(files: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(vec![dir.path().to_owned()], None, None, false);
        let store = Self { dir, dirs };
        let now = SystemTime::now();
        for n in 0..files {
            let file = File::create(store.dir.path().join(name(n))).unwrap();
            file.set_len(10).unwrap();
            let used = now - Duration::from_secs(100_000 - n);
            file.set_times(FileTimes::new().set_accessed(used).set_modified(used)).unwrap();
        }
        store
    }

    /// The bytes of all chunks, and their number.
    fn look(&self) -> (u64, usize) {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap());
        let chunks = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".data"));
        let sizes: Vec<u64> = chunks.map(|entry| entry.metadata().unwrap().len()).collect();
        (sizes.iter().sum(), sizes.len())
    }

    fn has(&self, n: u64) -> bool {
        self.dir.path().join(name(n)).exists()
    }

    async fn put(&self, quota: &Quota, n: u64, bytes: u64) -> Result<()> {
        self.put_at(quota, n, bytes, Duration::ZERO).await
    }

    /// Puts on a file system whose clock is `ahead`.
    async fn put_at(&self, quota: &Quota, n: u64, bytes: u64, ahead: Duration) -> Result<()> {
        let new = self.dir.path().join("new");
        let file = File::create(&new).unwrap();
        file.set_len(bytes).unwrap();
        if !ahead.is_zero() {
            let now = SystemTime::now() + ahead;
            file.set_times(FileTimes::new().set_accessed(now).set_modified(now)).unwrap();
        }
        let stat = Stat::of_file(&file).unwrap();
        let mut search = Search::default();
        while self.search(quota, n, stat, &mut search).await? == Made::Part {}
        Ok(())
    }

    /// A put's part under the lock.
    async fn search(&self, quota: &Quota, n: u64, stat: Stat, search: &mut Search) -> Result<Made> {
        let (_cancel, work) = cancellable();
        let place = Place { base: 0, path: name(n) };
        let new = self.dir.path().join("new");
        let rename = || std::fs::rename(&new, self.dir.path().join(name(n))).map_err(|e| Error::io(e, "rename"));
        quota.replace(quota.turn(&self.dirs).await?, &self.dirs, (&place, stat), search, &work, rename)
    }

    async fn remove(&self, quota: &Quota, n: u64) -> Result<bool> {
        let (_cancel, work) = cancellable();
        let place = Place { base: 0, path: name(n) };
        let remove = || Ok(std::fs::remove_file(self.dir.path().join(name(n))).is_ok());
        quota.remove(quota.turn(&self.dirs).await, &self.dirs, &place, &work, remove)
    }

    /// Does a piece of the background's work, if there is one.
    async fn step(&self, quota: &Quota) -> Option<Step> {
        let step = quota.next_step()?;
        let (_cancel, work) = cancellable();
        match step {
            Step::Scan => quota.scan_step(&self.dirs).unwrap(),
            Step::Settle => quota.settle_step(quota.turn(&self.dirs).await.unwrap(), &self.dirs, &work).unwrap(),
        }
        Some(step)
    }

    fn record(&self) -> Record {
        self.record_at(SystemTime::now())
    }

    fn record_at(&self, now: SystemTime) -> Record {
        let (_cancel, work) = cancellable();
        let locked = Ledger::open(&self.dirs).unwrap().lock(&self.dirs, Instant::now(), &work);
        locked.unwrap().unwrap().read(now).unwrap()
    }
}

/// A quota whose puts scan no further than the first files.
fn quota(capacity: u64) -> Quota {
    Quota { scan_at_once: Duration::ZERO, ..Quota::new(capacity, Layout::Lmcache) }
}

fn name(n: u64) -> String {
    file_name(&format!("m@1@0@{n:x}@half").parse::<CacheKey>().unwrap()).unwrap()
}

#[tokio::test]
async fn the_bound_holds_while_two_handles_scan_put_remove_and_evict() {
    const FILES: u64 = 2000;
    let store = Store::new(FILES);
    let capacity = 10 * FILES;
    let quotas = [quota(capacity), quota(capacity)];
    let mut random = fastrand::Rng::with_seed(11);
    let (mut unknown, mut known) = (0, 0);
    for turn in 0..600 {
        let quota = &quotas[random.usize(..2)];
        let n = random.u64(..2 * FILES);
        match random.u8(..10) {
            0 => drop(store.remove(quota, n).await.unwrap()),
            // The scans end some time after the puts have begun.
            1 | 2 if turn > 100 => drop(store.step(quota).await),
            _ => store.put(quota, n, random.u64(1..50)).await.unwrap(),
        }
        if turn % 3 != 0 {
            continue;
        }
        let (bytes, _) = store.look();
        assert!(bytes <= capacity, "{bytes} after {turn}");
        match store.record().sum {
            Some(sum) => {
                assert!(sum >= bytes, "a sum of {sum} for {bytes} bytes");
                known += 1;
            }
            None => unknown += 1,
        }
    }
    assert!(unknown > 20 && known > 20, "puts go on without a sum ({unknown} times) and with one ({known})");
    for quota in &quotas {
        while store.step(quota).await.is_some() {}
    }
    // The sum is exact but for the one put during the next scan.
    std::fs::remove_file(store.dir.path().join(super::super::LEDGER)).unwrap();
    store.put(&quotas[0], 2 * FILES, 10).await.unwrap();
    while store.step(&quotas[0]).await.is_some() {}
    let (sum, bytes) = (store.record().sum.unwrap(), store.look().0);
    assert!((bytes..=bytes + 60).contains(&sum), "{sum} for {bytes} bytes");
}

#[tokio::test]
async fn a_put_visits_some_files_and_the_rest_is_left_to_the_background() {
    const FILES: u64 = 3000;
    let store = Store::new(FILES);
    let quota = quota(100 * FILES);
    let mut steps = 0;
    for n in 0..4 {
        store.put(&quota, FILES + n, 10).await.unwrap();
        let found: u64 = quota.upkeep().scan.as_ref().unwrap().bytes.iter().sum();
        assert!(found <= 10 * AT_ONCE as u64, "only the first put visits files, and not all: {found} bytes");
        assert_eq!(store.record().sum, None);
    }
    // As many bytes were removed as were put, the oldest of those found so far.
    assert_eq!(store.look(), (10 * FILES, FILES as usize));
    while store.step(&quota).await.is_some() {
        steps += 1;
    }
    assert!(steps >= (FILES as usize - AT_ONCE) / STEP, "{steps}");
    // The scan may have seen both what was put meanwhile and what was removed, 40 bytes each.
    let sum = store.record().sum.unwrap();
    assert!((10 * FILES..=10 * FILES + 80).contains(&sum), "{sum}");
    assert!(quota.is_upkeep_wanted() && !quota.is_upkeep_wanted(), "one task does it all");
}

#[tokio::test]
async fn a_store_without_a_sum_loses_nothing_while_it_has_room() {
    const FILES: u64 = 3000;
    for (capacity, stays) in [(10 * FILES + 100, true), (10 * FILES + 5, false)] {
        let store = Store::new(FILES);
        let quota = Quota { scan_at_once: Duration::MAX, ..Quota::new(capacity, Layout::Lmcache) };
        store.put(&quota, FILES, 10).await.unwrap();
        assert_eq!(store.look().1 == FILES as usize + 1, stays, "{capacity}");
        assert!(store.look().0 <= capacity && store.has(FILES) && store.has(FILES - 1));
    }
}

#[tokio::test]
async fn a_put_scans_no_further_once_the_files_so_far_fill_the_store() {
    const FILES: u64 = 3000;
    let store = Store::new(FILES);
    let quota = Quota { scan_at_once: Duration::MAX, ..Quota::new(10_000, Layout::Lmcache) };
    store.put(&quota, FILES, 10).await.unwrap();
    let found: u64 = quota.upkeep().scan.as_ref().unwrap().bytes.iter().sum();
    assert!((9_990..10_000 + 10 * AT_ONCE as u64).contains(&found), "{found} bytes");
    assert_eq!(store.look(), (10 * FILES, FILES as usize));
}

#[tokio::test]
async fn after_a_boot_puts_count_against_the_last_sum() {
    const FILES: u64 = 3000;
    let store = Store::new(FILES);
    let before = quota(20 * FILES);
    store.put(&before, FILES, 10).await.unwrap();
    while store.step(&before).await.is_some() {}
    let sum = store.record().sum.unwrap();
    let ledger = store.dir.path().join(super::super::LEDGER);
    let text = std::fs::read_to_string(&ledger).unwrap();
    let mut words: Vec<&str> = text.split(' ').collect();
    words[3] = "0123456789abcdef";
    std::fs::write(&ledger, words.join(" ")).unwrap();
    let after = quota(20 * FILES);
    let files = store.look().1;
    for n in 1..20 {
        store.put(&after, FILES + n, 10).await.unwrap();
        assert_eq!(store.record().sum, Some(sum + 10 * n));
    }
    assert!(!after.upkeep().scan.as_ref().unwrap().is_done(), "the scan goes on");
    assert_eq!(store.look().1, files + 19, "no chunk goes");
    // A sum from before a power cut may be too small.
    let text = std::fs::read_to_string(&ledger).unwrap().replace(&format!("{:020}", sum + 190), &format!("{:020}", 5));
    std::fs::write(&ledger, text.replacen('=', "?", 1)).unwrap();
    store.put(&after, FILES, 10).await.unwrap();
    assert!(store.record().sum >= Some(5 * AT_ONCE as u64), "the sum is at least the files found so far");
}

/// Another process evicts most of the files that a scan has found.
#[tokio::test]
async fn a_put_that_looks_at_many_files_lets_others_have_the_lock() {
    const FILES: u64 = 3000;
    let store = Store::new(FILES);
    let capacity = 10 * FILES + 1000;
    let quota = quota(capacity);
    store.put(&quota, 0, 10).await.unwrap();
    while store.step(&quota).await.is_some() {}
    let gone = 1..FILES - 20;
    gone.clone().for_each(|n| std::fs::remove_file(store.dir.path().join(name(n))).unwrap());
    let file = File::create(store.dir.path().join("new")).unwrap();
    file.set_len(capacity - 100).unwrap();
    let (mut search, mut turns) = (Search::default(), 1);
    let stat = Stat::of_file(&file).unwrap();
    while store.search(&quota, FILES, stat, &mut search).await.unwrap() == Made::Part {
        turns += 1;
    }
    assert!(turns >= gone.count() / AT_ONCE, "{turns} turns");
    assert!(store.has(FILES) && store.look().0 <= capacity);
}

#[tokio::test]
async fn a_store_that_is_too_large_shrinks_in_steps_and_the_newest_chunks_stay() {
    const FILES: u64 = 3000;
    let store = Store::new(FILES);
    let quota = quota(10_000);
    store.put(&quota, FILES, 10).await.unwrap();
    let (mut before, mut steps) = (store.look(), 0);
    assert_eq!(before.0, 10 * FILES, "the first put removes what it needs");
    while let Some(step) = store.step(&quota).await {
        let after = store.look();
        assert!(before.1 - after.1 <= if step == Step::Scan { 0 } else { AT_ONCE }, "{before:?} {after:?}");
        if steps % 3 == 0 {
            store.put(&quota, FILES + 1 + steps, 10).await.unwrap();
            assert!(store.look().0 <= after.0.max(10_000), "it never grows above the capacity");
        }
        (before, steps) = (store.look(), steps + 1);
    }
    let (bytes, _) = store.look();
    assert!(bytes <= 10_000 && store.record().sum.is_some_and(|sum| sum >= bytes));
    // The first puts took the oldest of those that were found so far.
    let oldest = (0..FILES).find(|n| store.has(*n)).unwrap();
    let gone = (oldest..FILES).filter(|n| !store.has(*n)).count();
    assert!(gone <= steps as usize, "{gone} newer chunks are gone, and {oldest} stays");
}

#[tokio::test]
async fn a_chunk_that_was_used_after_the_scan_stays() {
    let store = Store::new(8);
    let quota = quota(100);
    store.put(&quota, 8, 10).await.unwrap();
    // Nearly full: a scan prepares the eviction.
    store.put(&quota, 9, 10).await.unwrap();
    while store.step(&quota).await.is_some() {}
    super::super::note_use(&File::open(store.dir.path().join(name(0))).unwrap());
    store.put(&quota, 10, 10).await.unwrap();
    let there: Vec<u64> = (0..11).filter(|n| store.has(*n)).collect();
    assert_eq!(there, [0, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn the_oldest_chunks_go_first_on_a_file_system_whose_clock_is_ahead() {
    const FILES: u64 = 2000;
    let store = Store::new(0);
    let quota = quota(10 * FILES);
    let ahead = Duration::from_secs(3600);
    for n in 0..FILES + 10 {
        store.put_at(&quota, n, 10, ahead).await.unwrap();
    }
    while store.step(&quota).await.is_some() {}
    let there: Vec<u64> = (0..FILES + 10).filter(|n| store.has(*n)).collect();
    assert!(there.len() > FILES as usize / 2);
    assert_eq!(there, (there[0]..FILES + 10).collect::<Vec<_>>());
    assert!(!store.record_at(quota.now()).is_due, "the next put begins no scan");
}

#[tokio::test]
async fn a_put_that_holds_the_upkeep_does_not_stop_the_executor() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("fs://{}?capacity=100", dir.path().display());
    let files = Arc::new(Files::of(&connector_core::builder(&url).build().unwrap()).unwrap());
    let quota = files.quota.as_ref().unwrap();
    let (threads, gate) = (Threads::new(tokio::runtime::Handle::current()), Gate::default());
    let mut task = std::pin::pin!(run(Arc::downgrade(&files), threads, gate));
    let held = quota.upkeep();
    assert!(task.as_mut().now_or_never().is_none(), "it waits on a blocking thread");
    drop(held);
    task.await;
}
