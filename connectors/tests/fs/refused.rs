//! Full disks and read-only directories.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use connectors::ErrorKind;

use super::{Place, child, file_name, files, key, kv};

/// The result that the child wrote.
fn answer(mut child: Child) -> String {
    let said: Vec<String> = child::lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    said[0].clone()
}

#[tokio::test]
async fn a_file_that_cannot_grow_is_an_error_and_leaves_the_old_chunk_and_no_other_file() {
    for options in ["", "?capacity=9000000", "?save_chunk_meta=false&use_odirect=true", "?fsync=full"] {
        let place = Place::new();
        let store = place.open(options).await;
        store.put(&key(1), kv(9, 1)).await.unwrap();
        let old = std::fs::read(place.dir().join(file_name(1))).unwrap();
        // Limits files to 256 blocks (of 512 or 1024 bytes, depending on the shell). The signal is ignored, so that the write
        // fails after a part was written.
        let put = |bytes| {
            let mut limited = Command::new("sh");
            limited
                .args(["-c", "trap '' XFSZ; ulimit -f 256; exec \"$0\" \"$@\""])
                .arg(std::env::current_exe().unwrap());
            child::job(&mut limited, "put_one", &place.url(options), bytes);
            answer(limited.spawn().unwrap())
        };
        let said = put(1 << 20);
        assert!(said.starts_with("too_large: ") && said.contains("cannot write"), "{options}: {said}");
        assert_eq!(std::fs::read(place.dir().join(file_name(1))).unwrap(), old);
        assert_eq!(files(&place.dir()).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
        assert_eq!(put(4096), "done", "the store works on");
    }
}

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

/// Starts this program as a user that permissions bind: root starts a copy of it as the user `nobody`.
fn bound_by_permissions(place: &Place) -> impl Fn() -> Command {
    let is_root = place.0.path().metadata().unwrap().uid() == 0;
    let mut program = std::env::current_exe().unwrap();
    mode(place.0.path(), 0o755);
    if is_root {
        let copy = place.path("program");
        std::fs::copy(program, &copy).unwrap();
        mode(&copy, 0o755);
        program = copy;
    }
    let command = move || {
        let mut command = Command::new(&program);
        if is_root {
            command.uid(65_534).gid(65_534).current_dir("/");
        }
        command
    };
    let run = || command().arg("--list").output();
    let mut ran = run();
    // A child of another test, forked during the copy, may still have the copy open for writing.
    while ran.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ExecutableFileBusy) {
        std::thread::sleep(std::time::Duration::from_millis(5));
        ran = run();
    }
    assert!(
        ran.as_ref().is_ok_and(|ran| ran.status.success()),
        "as root this test needs a TMPDIR from which every user can run programs, unlike `{}`: {ran:?}",
        std::env::temp_dir().display()
    );
    command
}

#[tokio::test]
async fn a_store_that_can_evict_nothing_is_store_full() {
    let place = Place::new();
    // The last base path is read-only, and its chunk fills the store. `key(1)` belongs into one of the others.
    let paths = [place.path("a"), place.path("b"), place.path("c")];
    paths.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    std::fs::write(paths[2].join(file_name(2)), [0; 1000]).unwrap();
    let command = bound_by_permissions(&place);
    for (dir, bits) in paths.iter().zip([0o777, 0o777, 0o555]) {
        mode(dir, bits);
    }
    let url = format!("fs://{},{},{}?capacity=1010", paths[0].display(), paths[1].display(), paths[2].display());
    let mut writer = command();
    child::job(&mut writer, "put_one", &url, 100);
    let said = answer(writer.spawn().unwrap());
    assert!(said.starts_with("store_full: ") && said.contains("1000 bytes"), "{said}");
}

#[tokio::test]
async fn a_directory_that_may_only_be_read_is_denied_to_writers_and_serves_readers() {
    let place = Place::new();
    place.open("").await.put(&key(2), kv(1, 1)).await.unwrap();
    let command = bound_by_permissions(&place);
    mode(&place.dir(), 0o555);
    for options in ["", "?capacity=9000000", "?relative_tmp_dir=tmp"] {
        let mut writer = command();
        child::job(&mut writer, "put_one", &place.url(options), 100);
        let said = answer(writer.spawn().unwrap());
        assert!(said.starts_with("denied: "), "{options}: {said}");
    }
    assert_eq!(files(&place.dir()), [file_name(2)]);
    assert_eq!(place.open("").await.get(&key(2)).await.unwrap(), Some(kv(1, 1)));
    mode(&place.dir(), 0o755);
    // A file that the user may not read does not exist for a raw store, although a `stat` gives its length.
    mode(&place.dir().join(file_name(2)), 0);
    for options in ["", "?save_chunk_meta=false"] {
        let mut asker = command();
        child::job(&mut asker, "exist", &place.url(options), 2);
        assert_eq!(answer(asker.spawn().unwrap()), "[Err(Denied), Ok(false)]", "{options}");
    }
}

#[tokio::test]
async fn a_process_without_free_descriptors_fails_with_a_temporary_error_and_then_works() {
    for options in ["", "?capacity=9000000"] {
        let place = Place::new();
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        child::job(&mut limited, "put_without_descriptors", &place.url(options), 100);
        let mut writer = limited.spawn().unwrap();
        let said: Vec<String> = child::lines(&mut writer).collect();
        assert!(writer.wait().unwrap().success(), "{said:?}");
        assert!(said[0].starts_with("io (temporary): ") && said[1] == "done", "{options}: {said:?}");
    }
}

/// Mounts a file system for this test's child alone, if this user may.
fn mounted(place: &Place, mount: &str) -> Option<Command> {
    let script = format!("mkdir -p {0} && {mount} && exec \"$0\" \"$@\"", place.dir().display());
    let tried = Command::new("unshare").args(["-m", "sh", "-c", &script, "true"]).status();
    if !tried.is_ok_and(|tried| tried.success()) {
        // Written directly, because the test runner hides a macro's output if the test passes.
        let missing = format!("NOT TESTED: `{mount}`, which this user may not do\n");
        std::io::stderr().write_all(missing.as_bytes()).unwrap();
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(std::env::current_exe().unwrap());
    Some(command)
}

#[tokio::test]
async fn a_full_and_a_read_only_file_system_are_errors_of_their_own_kinds() {
    let place = Place::new();
    let dir = place.dir().display().to_string();
    let full = format!("mount -t tmpfs -o size=256k none {dir}");
    let read_only = format!("mount -t tmpfs none {dir} && mount -o remount,ro {dir}");
    for (mount, kind) in [(full, "store_full: "), (read_only, "read_only: ")] {
        for options in ["", "?capacity=9000000", "?fsync=full&relative_tmp_dir=tmp"] {
            let Some(mut command) = mounted(&place, &mount) else { return };
            child::job(&mut command, "put_one", &place.url(options), 1 << 20);
            let said = answer(command.spawn().unwrap());
            assert!(said.starts_with(kind), "{options}: {said}");
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_below_the_capacity_evicts_the_oldest_chunks_once() {
    for options in ["?capacity=9000000", "?capacity=9000000&relative_tmp_dir=tmp"] {
        let place = Place::new();
        let mount = format!("mount -t tmpfs -o size=1m none {}", place.dir().display());
        let Some(mut command) = mounted(&place, &mount) else { return };
        // 30 chunks of 100 KiB, of which about nine fit.
        child::job(&mut command, "put_many", &place.url(options), 30);
        let said = answer(command.spawn().unwrap());
        let kept: Vec<u32> = said.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!((5..10).contains(&kept.len()) && kept.last() == Some(&29), "{said}");
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "the oldest go first: {said}");
        // A chunk that is larger than the disk evicts all others, and is refused.
        let Some(mut command) = mounted(&place, &mount) else { return };
        child::job(&mut command, "put_one", &place.url(options), 2 << 20);
        assert!(answer(command.spawn().unwrap()).starts_with("store_full: "));
    }
}

#[tokio::test]
async fn a_disk_that_takes_no_ledger_takes_a_remove() {
    let place = Place::new();
    place.open("").await.put(&key(1), kv(1, 1)).await.unwrap();
    // No file may grow, as on a full disk.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    child::job(&mut limited, "remove_one", &place.url("?capacity=9000000"), 1);
    assert_eq!(answer(limited.spawn().unwrap()), "Ok(true)");
    assert!(!place.dir().join(file_name(1)).exists());
}

#[tokio::test]
async fn a_relative_base_path_is_where_it_was_when_the_store_was_opened() {
    let place = Place::new();
    let url = "external://h:0/kvconn.fs/?connector_name=FSConnector&base_path=rel%2Fkv&fsync=full";
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.current_dir(place.0.path());
    child::job(&mut writer, "put_elsewhere", url, 100);
    assert_eq!(answer(writer.spawn().unwrap()), "done");
    assert_eq!(files(&place.path("rel/kv")), [file_name(1)]);
}

#[tokio::test]
async fn a_base_path_that_cannot_be_a_directory_is_refused_when_the_store_is_opened() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    for base in [place.path("file"), place.path("file/below"), "/proc/kvconn".into()] {
        let opened = connectors::open(&format!("fs://{}", base.display())).await;
        match opened {
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Denied), "{e}"),
            // Its mode allows root to write into /proc, but the first put fails.
            Ok(store) => {
                let e = store.put(&key(1), kv(1, 1)).await.unwrap_err();
                assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Denied), "{e}");
            }
        }
    }
}
