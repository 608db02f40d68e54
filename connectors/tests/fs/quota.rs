//! `capacity`: the limit of all chunk files, of every writer.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use connectors::fs::{ScrubOptions, scrub};
use connectors::{CacheKey, ErrorKind, MemoryObj, MemoryObjMut};

use super::{Place, bytes, child, chunk_bytes, file_name, files, key, keys, object_key};

/// The ledger's sum, if it is not marked.
pub(crate) fn ledger(dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dir.join(".kvconn-quota")).unwrap();
    text.strip_prefix('=').map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
}

/// Sets a file's last use to `seconds` ago.
pub(crate) fn backdate(path: &Path, seconds: u64) {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_accessed(at).set_modified(at))
        .unwrap();
}

/// A file of 1000 bytes with a header.
fn thousand(seed: u32) -> MemoryObj {
    MemoryObj::from(bytes(1000 - 28, seed))
}

#[tokio::test]
async fn the_chunk_used_longest_ago_goes_first_and_a_get_is_a_use() {
    // A disk and tmpfs record a use in different ways.
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let place = Place(tempfile::tempdir_in(dir).unwrap());
        let store = place.open("?capacity=10000").await;
        for n in 0..10 {
            store.put(&key(n), thousand(n)).await.unwrap();
            backdate(&place.dir().join(file_name(n)), 1000 - u64::from(n));
        }
        store.get(&key(0)).await.unwrap().unwrap();
        store.get_into(&key(1), &mut MemoryObjMut::zeroed(1000)).await.unwrap().unwrap();
        store.batched_get(&[key(2), key(3)]).await;
        // Waits until the uses are recorded.
        store.close().await.unwrap();
        let store = place.open("?capacity=10000").await;
        store.put(&key(10), thousand(10)).await.unwrap();
        let mut expected: Vec<String> = [0, 1, 2, 3, 6, 7, 8, 9, 10].map(|n| key(n).to_string()).into();
        expected.sort();
        assert_eq!(keys(&store, "").await, expected, "a tenth is made free");
        assert_eq!(ledger(&place.dir()), Some(9000));
    }
}

#[tokio::test]
async fn files_with_times_in_the_future_or_before_1970_are_evicted_before_new_chunks() {
    let place = Place::new();
    let store = place.open("?capacity=10000").await;
    for n in 0..10 {
        store.put(&key(n), thousand(n)).await.unwrap();
        let file = File::options().write(true).open(place.dir().join(file_name(n))).unwrap();
        let (ahead, epoch) = (Duration::from_secs(86_400 * u64::from(n + 1)), SystemTime::UNIX_EPOCH);
        let at = if n < 8 { SystemTime::now() + ahead } else { epoch - ahead };
        file.set_times(FileTimes::new().set_accessed(at).set_modified(at)).unwrap();
    }
    // Reads make two of them recent.
    for n in [3, 8] {
        store.get(&key(n)).await.unwrap().unwrap();
    }
    store.close().await.unwrap();
    let store = place.open("?capacity=10000").await;
    for n in 20..27 {
        store.put(&key(n), thousand(n)).await.unwrap();
        for kept in (20..=n).chain([3, 8]) {
            assert!(store.exists(&key(kept)).await.unwrap(), "{kept} after {n}");
        }
    }
}

#[tokio::test]
async fn a_chunk_larger_than_the_store_is_refused_with_both_sizes_and_evicts_nothing() {
    let place = Place::new();
    let store = place.open("?capacity=2000").await;
    store.put(&key(1), thousand(1)).await.unwrap();
    assert_eq!(store.capabilities().max_chunk_bytes, Some(2000 - 28));
    let e = store.put(&key(2), MemoryObj::from(vec![0; 1973])).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
    assert!(e.to_string().contains("2001") && e.to_string().contains("2000"), "{e}");
    assert!(store.exists(&key(1)).await.unwrap());
    // A chunk that fills the store evicts everything else.
    store.put(&key(2), MemoryObj::from(vec![0; 1972])).await.unwrap();
    assert_eq!(files(&place.dir()), [".kvconn-quota", &file_name(2)]);
    let raw = place.open("?capacity=2000&save_chunk_meta=false").await;
    assert_eq!(raw.capabilities().max_chunk_bytes, Some(2000));
}

#[tokio::test]
async fn replacing_and_removing_a_chunk_frees_its_bytes() {
    let place = Place::new();
    let store = place.open("?capacity=3500").await;
    for n in [1, 2, 3, 3, 3, 3] {
        store.put(&key(n), thousand(n)).await.unwrap();
    }
    assert_eq!((keys(&store, "").await.len(), ledger(&place.dir())), (3, Some(3000)));
    assert!(store.remove(&key(1)).await.unwrap() && !store.remove(&key(1)).await.unwrap());
    assert_eq!(ledger(&place.dir()), Some(2000));
    store.put(&key(4), thousand(4)).await.unwrap();
    assert_eq!(keys(&store, "").await.len(), 3);
}

#[tokio::test]
async fn files_of_other_writers_count_and_are_evicted_and_other_files_stay() {
    let place = Place::new();
    let dir = place.dir();
    std::fs::create_dir_all(dir.join("m@1@0@1@half.data")).unwrap();
    // LMCache's files: two chunks, one of them of multiprocess mode, and a file that is not complete.
    for (name, age) in [("m@1@0@2@half.data", 500), ("m@0x01000100@0@0000000a.data", 400), ("m@1@0@3@half.tmp", 900)] {
        std::fs::write(dir.join(name), [0; 1000]).unwrap();
        backdate(&dir.join(name), age);
    }
    for name in ["notes.txt", "m@1@2@0a.data"] {
        std::fs::write(dir.join(name), [0; 5000]).unwrap();
        backdate(&dir.join(name), 900);
    }
    let store = place.open("?capacity=2500").await;
    store.put(&key(1), thousand(1)).await.unwrap();
    let stay = ["m@1@0@1@half.data", "m@1@0@3@half.tmp", "m@1@2@0a.data", "notes.txt"];
    let new = file_name(1);
    let mut expected = [&stay[..], &[".kvconn-quota", &new, "m@0x01000100@0@0000000a.data"]].concat();
    expected.sort();
    assert_eq!(files(&dir), expected);
    store.put(&object_key(2), MemoryObj::from(vec![1; 1000])).await.unwrap();
    assert!(!dir.join("m@0x01000100@0@0000000a.data").exists());
    assert_eq!(ledger(&dir), Some(2000));
}

#[tokio::test]
async fn a_scan_removes_the_files_that_killed_writers_left_behind() {
    for options in ["?capacity=9000", "?capacity=9000&relative_tmp_dir=tmp"] {
        let place = Place::new();
        let tmp = if options.contains("tmp") { place.dir().join("tmp") } else { place.dir() };
        std::fs::create_dir_all(&tmp).unwrap();
        let path = |n: u32| tmp.join(format!(".kvconn-4711-00112233445566ff-{n}.tmp"));
        for n in 0..3 {
            std::fs::write(path(n), [0; 700]).unwrap();
        }
        backdate(&path(0), 10_000);
        backdate(&path(1), 10_000);
        let live = File::open(path(1)).unwrap();
        live.lock().unwrap();
        place.open(options).await.put(&key(1), thousand(1)).await.unwrap();
        let there = [0, 1, 2].map(|n| path(n).exists());
        assert_eq!(there, [false, true, true], "{options}: one has a writer, one is young");
    }
}

#[tokio::test]
async fn several_base_paths_have_one_quota() {
    let place = Place::new();
    let (a, b) = (place.path("a"), place.path("b"));
    let store = connectors::open(&format!("fs://{},{}?capacity=4500", a.display(), b.display())).await.unwrap();
    for n in 0..20 {
        store.put(&key(n), thousand(n)).await.unwrap();
        assert!(chunk_bytes(&a) + chunk_bytes(&b) <= 4500);
    }
    assert!(chunk_bytes(&a) >= 1000 && chunk_bytes(&b) >= 1000);
    assert!(a.join(".kvconn-quota").exists() && !b.join(".kvconn-quota").exists());
}

#[tokio::test]
async fn a_ledger_that_is_wrong_lost_or_half_written_is_found_out() {
    let place = Place::new();
    let store = place.open("?capacity=5000").await;
    let ledger_path = place.dir().join(".kvconn-quota");
    for n in 0..4 {
        store.put(&key(n), thousand(n)).await.unwrap();
    }
    let whole = std::fs::read(&ledger_path).unwrap();
    let killed_meanwhile = [b"?", &whole[1..]].concat();
    for (n, text) in [(10, killed_meanwhile), (20, Vec::new()), (30, whole[..9].to_vec()), (40, b"nonsense".to_vec())] {
        // The store's background would otherwise write its own line over this one.
        let held = File::open(&ledger_path).unwrap();
        held.lock().unwrap();
        // A file of another writer, which the ledger does not count.
        std::fs::write(place.dir().join(file_name(n)), vec![0; 1000]).unwrap();
        std::fs::write(&ledger_path, text).unwrap();
        drop(held);
        store.put(&key(n + 1), thousand(n)).await.unwrap();
        is_found_out(&place.dir()).await;
    }
    std::fs::remove_file(&ledger_path).unwrap();
    store.put(&key(50), thousand(50)).await.unwrap();
    is_found_out(&place.dir()).await;
}

/// Waits until the background has scanned the files, and evicted those above 5000 bytes.
async fn is_found_out(dir: &Path) {
    let is_right = || ledger(dir).is_some_and(|sum| sum <= 5000 && sum == chunk_bytes(dir));
    let wait = async {
        while !is_right() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the ledger has the sum of the files");
}

#[tokio::test]
async fn a_closed_store_holds_no_file_so_its_disk_can_be_unmounted() {
    let place = Place::new();
    std::fs::create_dir_all(place.dir()).unwrap();
    for n in 0..2000 {
        std::fs::write(place.dir().join(file_name(n)), [0; 10]).unwrap();
    }
    let store = place.open("?capacity=100000").await;
    store.put(&key(1), thousand(1)).await.unwrap();
    // A scan of so many files has begun, and goes on in the background.
    store.close().await.unwrap();
    let held = std::fs::read_dir("/proc/self/fd").unwrap();
    let held: Vec<_> = held.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).collect();
    assert!(!held.iter().any(|path| path.starts_with(place.dir())), "{held:?}");
}

#[tokio::test]
async fn a_store_of_no_bytes_is_refused() {
    let e = connectors::open(&Place::new().url("?capacity=0")).await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("capacity"), "{e}");
}

#[tokio::test]
async fn a_base_path_that_is_given_twice_is_listed_counted_and_scrubbed_once() {
    let place = Place::new();
    let (a, b) = (place.path("a"), place.path("b"));
    let url = format!("fs://{},{},{}/?capacity=20500", a.display(), b.display(), a.display());
    let store = connectors::open(&url).await.unwrap();
    for n in 0..20 {
        store.put(&key(n), thousand(n)).await.unwrap();
    }
    assert_eq!((keys(&store, "").await.len(), ledger(&a)), (20, Some(20_000)));
    let report = scrub(&connectors::builder(&url).build().unwrap(), &ScrubOptions::default()).unwrap();
    assert_eq!((report.chunks, report.findings.len()), (20, 0));
    std::fs::remove_file(a.join(".kvconn-quota")).unwrap();
    let store = connectors::open(&url).await.unwrap();
    store.put(&key(1), thousand(1)).await.unwrap();
    assert_eq!(ledger(&a), Some(20_000));
}

#[test]
fn the_quota_holds_at_every_moment_while_four_processes_write() {
    for layout in ["lmcache", "vllm", "sglang"] {
        four_processes_write(layout, 0);
    }
}

/// Larger than a put scans: the processes write while each of them scans and evicts in the background.
#[test]
#[ignore = "slow: ./tests/run --full runs it"]
fn the_quota_holds_while_four_processes_write_into_a_large_store_without_a_ledger() {
    four_processes_write("lmcache", 50_000);
}

fn four_processes_write(layout: &str, before: u32) {
    const CAPACITY: u64 = 1_000_000;
    let place = Place::new();
    std::fs::create_dir_all(place.dir()).unwrap();
    for n in 0..before {
        std::fs::write(place.dir().join(file_name(1000 + n)), [0; 20]).unwrap();
    }
    let url = place.url(&format!("?capacity={CAPACITY}&layout={layout}"));
    let mut writers: Vec<_> = (1..=4).map(|seed| child::command("put_and_get", &url, seed).spawn().unwrap()).collect();
    let lines: Vec<_> = writers.iter_mut().map(child::lines).collect();
    let (mut looks, mut most) = (0, 0);
    while writers.iter_mut().any(|writer| writer.try_wait().unwrap().is_none()) {
        // Without the lock this scan would see files of different times.
        let Ok(ledger) = File::open(place.dir().join(".kvconn-quota")) else { continue };
        ledger.lock_shared().unwrap();
        let sum = chunk_bytes(&place.dir());
        ledger.unlock().unwrap();
        assert!(sum <= CAPACITY, "{sum}");
        (looks, most) = (looks + 1, most.max(sum));
        // Lets the writers take the lock.
        std::thread::sleep(Duration::from_millis(1));
    }
    for (writer, lines) in writers.iter_mut().zip(lines) {
        assert!(writer.wait().unwrap().success(), "{:?}", lines.collect::<Vec<_>>());
    }
    assert!(looks > 5 && most > CAPACITY * 8 / 10, "{looks} looks, at most {most} bytes");
    let (sum, bytes) = (ledger(&place.dir()), chunk_bytes(&place.dir()));
    // A scan during the puts may have found both what was put and what was removed meanwhile.
    assert!(if before == 0 { sum == Some(bytes) } else { sum >= Some(bytes) }, "{sum:?} for {bytes} bytes");
    let rest: Vec<_> = files(&place.dir()).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(rest, [".kvconn-quota"], "no temporary file is left");
}

#[tokio::test]
async fn a_chunk_that_is_evicted_during_a_read_is_read_whole() {
    let place = Place::new();
    let store = place.open("?capacity=3000000").await;
    let chunk = |n| MemoryObj::from(bytes(1 << 20, n));
    let reading: Vec<CacheKey> = (0..2).map(key).collect();
    for round in 0..20 {
        store.batched_put(&[(key(0), chunk(0)), (key(1), chunk(1))]).await;
        let reads = store.batched_get(&reading);
        let puts = [(key(2 + round), chunk(9)), (key(100 + round), chunk(9))];
        let writes = store.batched_put(&puts);
        let (found, written) = futures::join!(reads, writes);
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        for (n, found) in found.into_iter().enumerate() {
            assert!(found.unwrap().is_none_or(|found| found == chunk(n as u32)));
        }
        assert!(chunk_bytes(&place.dir()) <= 3_000_000);
    }
}
