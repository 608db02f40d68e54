//! Names of the store that belong to something else: symlinks, pipes, sockets, devices, directories.

use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use connectors::fs::{FindingKind, ScrubOptions, scrub};
use connectors::{ErrorKind, MemoryObj, MemoryObjMut};
use rustix::fs::{CWD, FileType, Mode};

use super::{Place, file_name, files, key, keys, kv};

const OURS: &str = ".kvconn-4711-00112233445566ff-7.tmp";

/// A description, and a function that makes such a thing at a path.
type Thing = (&'static str, Box<dyn Fn(&Path)>);

/// One thing of each kind.
fn things(secret: &Path) -> Vec<Thing> {
    let secret = secret.to_owned();
    let link = |to: PathBuf| move |at: &Path| std::os::unix::fs::symlink(&to, at).unwrap();
    let node =
        |kind, dev| move |at: &Path| rustix::fs::mknodat(CWD, at, kind, Mode::from_raw_mode(0o666), dev).unwrap();
    let mut all: Vec<Thing> = vec![
        ("a symlink to a file", Box::new(link(secret))),
        ("a symlink to nothing", Box::new(link("/nonexistent/kvconn".into()))),
        ("a symlink to a device", Box::new(link("/dev/zero".into()))),
        ("a symlink to itself", Box::new(|at: &Path| std::os::unix::fs::symlink(at, at).unwrap())),
        ("a directory", Box::new(|at: &Path| std::fs::create_dir(at).unwrap())),
        ("a pipe", Box::new(node(FileType::Fifo, 0))),
        ("a socket", Box::new(|at: &Path| drop(std::os::unix::net::UnixListener::bind(at).unwrap()))),
    ];
    let probe = tempfile::tempdir().unwrap();
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    if rustix::fs::mknodat(CWD, probe.path().join("x"), FileType::CharacterDevice, mode, null).is_ok() {
        all.push(("a device", Box::new(node(FileType::CharacterDevice, null))));
    } else {
        // Written directly, because the test runner hides a macro's output if the test passes.
        std::io::stderr().write_all(b"NOT TESTED: devices, which this user may not make\n").unwrap();
    }
    all
}

fn remove(path: &Path) {
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::remove_dir(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

#[tokio::test]
async fn a_foreign_thing_under_a_chunks_name_is_a_miss_is_not_listed_and_is_foreign() {
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let place = Place(tempfile::tempdir_in(dir).unwrap());
        let secret = place.path("secret");
        std::fs::write(&secret, b"secret").unwrap();
        for options in ["", "?save_chunk_meta=false", "?capacity=100000&save_chunk_meta=false"] {
            let store = place.open(options).await;
            store.put(&key(2), kv(1, 1)).await.unwrap();
            for (thing, make) in things(&secret) {
                let at = place.dir().join(file_name(1));
                make(&at);
                let before = at.symlink_metadata().unwrap();
                let what = format!("{thing}, {options}");
                assert_eq!(store.get(&key(1)).await.unwrap(), None, "{what}");
                let mut memory = MemoryObjMut::zeroed(1000);
                assert_eq!(store.get_into(&key(1), &mut memory).await.unwrap(), None, "{what}");
                assert!(!store.exists(&key(1)).await.unwrap(), "{what}");
                let both = store.batched_exists(&[key(1), key(2)]).await;
                assert_eq!(both.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), [false, true], "{what}");
                assert_eq!(store.batched_contains(&[key(2), key(1)]).await.unwrap(), 1, "{what}");
                let found = store.batched_get(&[key(1), key(2)]).await;
                assert!(matches!(&found[..], [Ok(None), Ok(Some(_))]), "{what}: {found:?}");
                assert_eq!(keys(&store, "").await, [key(2).as_str()], "{what}");
                assert!(!store.remove(&key(1)).await.unwrap(), "{what}");
                assert_eq!(at.symlink_metadata().unwrap().file_type(), before.file_type(), "{what}");

                let all = ScrubOptions { remove: true, min_age: Duration::ZERO };
                let report = scrub(&connectors::builder(&place.url(options)).build().unwrap(), &all).unwrap();
                let foreign: Vec<_> = report.findings.iter().map(|f| (f.kind, f.path.clone(), f.removed)).collect();
                assert_eq!((report.chunks, foreign), (1, vec![(FindingKind::Foreign, at.clone(), false)]), "{what}");

                // A put replaces it, as a rename does, but for a directory.
                let put = store.put(&key(1), kv(1, 1)).await;
                if before.is_dir() {
                    let e = put.unwrap_err();
                    assert!(e.to_string().contains("a directory has the chunk's name"), "{e}");
                    remove(&at);
                } else {
                    put.unwrap();
                    assert!(store.remove(&key(1)).await.unwrap());
                }
                assert_eq!(std::fs::read(&secret).unwrap(), b"secret", "{what}");
            }
            let left: Vec<_> = files(&place.dir()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert!(Path::new("/dev/null").symlink_metadata().unwrap().file_type().is_char_device());
    }
}

#[tokio::test]
async fn a_foreign_thing_under_the_ledgers_name_is_refused_and_not_touched() {
    let place = Place::new();
    let (secret, created) = (place.path("secret"), place.path("created"));
    std::fs::write(&secret, b"secret").unwrap();
    let at = place.dir().join(".kvconn-quota");
    place.open("").await.put(&key(2), kv(1, 1)).await.unwrap();
    let mut all = things(&secret);
    let dangling = created.clone();
    all.push((
        "a symlink to nothing here",
        Box::new(move |at: &Path| std::os::unix::fs::symlink(&dangling, at).unwrap()),
    ));
    for (thing, make) in all {
        make(&at);
        let store = place.open("?capacity=100000").await;
        let e = store.put(&key(1), kv(1, 1)).await.unwrap_err();
        assert!(
            e.to_string().contains("is not a regular file") && e.to_string().contains("move it away"),
            "{thing}: {e}"
        );
        assert_eq!(std::fs::read(&secret).unwrap(), b"secret", "{thing}");
        assert!(!created.exists(), "{thing}");
        assert_eq!(store.get(&key(2)).await.unwrap(), Some(kv(1, 1)), "{thing}");
        let report = scrub(&connectors::builder(&place.url("")).build().unwrap(), &ScrubOptions::default()).unwrap();
        assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::Foreign], "{thing}");
        // A remove does not need the ledger.
        let plain = place.open("").await;
        plain.put(&key(3), kv(1, 1)).await.unwrap();
        assert!(store.remove(&key(3)).await.unwrap(), "{thing}");
        remove(&at);
    }
}

#[tokio::test]
async fn a_foreign_thing_under_a_temporary_name_is_not_opened_or_removed() {
    let place = Place::new();
    std::fs::create_dir_all(place.dir().join("tmp")).unwrap();
    let secret = place.path("secret");
    std::fs::write(&secret, b"secret").unwrap();
    for (thing, make) in things(&secret) {
        let at = [place.dir().join(OURS), place.dir().join("tmp").join(OURS)];
        at.iter().for_each(|at| make(at));
        let all = ScrubOptions { remove: true, min_age: Duration::ZERO };
        let store = connectors::builder(&place.url("?relative_tmp_dir=tmp")).build().unwrap();
        let report = scrub(&store, &all).unwrap();
        assert!(report.findings.iter().all(|f| f.kind == FindingKind::Foreign && !f.removed), "{thing}: {report:?}");
        assert_eq!(std::fs::read(&secret).unwrap(), b"secret", "{thing}");
        at.iter().for_each(|at| remove(at));
    }
}

#[tokio::test]
async fn the_writer_of_a_pipe_does_not_notice_a_read() {
    for options in ["", "?save_chunk_meta=false", "?save_chunk_meta=false&use_odirect=true"] {
        let place = Place::new();
        let store = place.open(options).await;
        store.put(&key(2), kv(1, 1)).await.unwrap();
        let at = place.dir().join(file_name(1));
        rustix::fs::mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        let (send, opened) = mpsc::channel();
        let writer = std::thread::spawn({
            let at = at.clone();
            move || send.send(std::fs::File::options().write(true).open(at).is_ok())
        });
        for _ in 0..20 {
            assert_eq!(store.get(&key(1)).await.unwrap(), None);
            assert!(!store.exists(&key(1)).await.unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(opened.try_recv(), Err(mpsc::TryRecvError::Empty), "{options}: no reader opened it");
        // Lets the writer go.
        let _reader = std::fs::File::open(&at).unwrap();
        writer.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn base_paths_and_the_temporary_directory_may_be_symlinks() {
    let place = Place::new();
    for dir in ["real", "written"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    std::os::unix::fs::symlink("real", place.dir()).unwrap();
    std::os::unix::fs::symlink("../written", place.path("real/tmp")).unwrap();
    for options in ["?relative_tmp_dir=tmp", "?relative_tmp_dir=tmp&capacity=9000&fsync=full"] {
        let store = place.open(options).await;
        store.put(&key(1), kv(1, 1)).await.unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(1, 1)));
        assert!(store.remove(&key(1)).await.unwrap());
    }
    assert_eq!(files(&place.path("real")), [".kvconn-quota", "tmp"]);
    let loops = place.path("loop");
    std::os::unix::fs::symlink(&loops, &loops).unwrap();
    let e = connectors::open(&format!("fs://{}", loops.display())).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
}

#[tokio::test]
async fn a_batch_of_puts_fails_only_where_a_directory_has_the_chunks_name() {
    let place = Place::new();
    std::fs::create_dir_all(place.dir().join(file_name(1))).unwrap();
    for options in ["", "?capacity=90000"] {
        let store = place.open(options).await;
        let items: Vec<_> = (0..4).map(|n| (key(n), MemoryObj::from(vec![1; 9]))).collect();
        let put: Vec<_> = store.batched_put(&items).await.into_iter().map(|put| put.is_ok()).collect();
        assert_eq!(put, [true, false, true, true], "{options}");
    }
}
