//! `kvconn get -o`: which files it replaces, and which it writes through.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, mknodat};
use rustix::process::geteuid;
use tempfile::TempDir;

use super::{Finished, KEY, entries, put, run, store};

/// A store with the chunk `new` under [`KEY`], and a directory for files.
struct Place {
    store: TempDir,
    url: String,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let (store, url) = store();
        put(&url, KEY, b"new");
        Self { store, url, dir: TempDir::new().expect("a directory can be made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with an old and longer content.
    fn old(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, "old, and longer").expect("the file can be written");
        path
    }

    fn get(&self, path: &Path) -> Finished {
        run(&["get", &self.url, KEY, "-o", path.to_str().expect("temporary paths are UTF-8")])
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file is there").permissions().mode() & 0o7777
}

#[test]
fn a_plain_file_is_replaced_and_keeps_its_mode() {
    let place = Place::new();
    let path = place.old("plain");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("the mode can be set");
    let before = fs::metadata(&path).expect("the file is there").ino();
    place.get(&path).exits(0);
    assert_eq!((fs::read(&path).expect("the file is there"), mode(&path)), (b"new".to_vec(), 0o640));
    assert_ne!(fs::metadata(&path).expect("the file is there").ino(), before, "the whole file came at once");
    assert_eq!(entries(place.dir.path()), ["plain"]);
}

#[test]
fn a_link_stays_and_its_target_is_written() {
    let place = Place::new();
    let target = place.old("target");
    for (link, to) in [("link", &target), ("dangling", &place.path("made"))] {
        let link = place.path(link);
        symlink(to, &link).expect("a link can be made");
        place.get(&link).exits(0);
        assert!(fs::symlink_metadata(&link).expect("the link is there").is_symlink());
        assert_eq!(fs::read(to).expect("the target is there"), b"new");
    }
}

#[test]
fn all_names_of_a_file_get_the_chunk() {
    let place = Place::new();
    let (path, other) = (place.old("one"), place.path("two"));
    fs::hard_link(&path, &other).expect("a link can be made");
    place.get(&path).exits(0);
    assert_eq!(fs::read(&other).expect("the file is there"), b"new");
}

#[test]
fn a_pipe_stays_and_its_reader_gets_the_chunk() {
    let place = Place::new();
    let path = place.path("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::read(path).expect("the pipe can be read")
    });
    place.get(&path).exits(0);
    assert_eq!(reader.join().expect("the reader ends"), b"new");
    assert!(fs::symlink_metadata(&path).expect("the pipe is there").file_type().is_fifo());
}

#[test]
fn a_device_stays_a_device() {
    let place = Place::new();
    place.get(Path::new("/dev/null")).exits(0);
    assert!(fs::metadata("/dev/null").expect("it is there").file_type().is_char_device());
    place.get(Path::new("/dev/full")).fails_with(&["cannot write `/dev/full`", "No space left"]);
}

#[test]
fn the_commands_own_stdout_can_be_named() {
    let place = Place::new();
    assert_eq!(place.get(Path::new("/dev/stdout")).exits(0).out, b"new");
}

/// Runs the command as a user without rights that owns these files. A test as root would show nothing, because root may
/// write every file. That user may not be able to reach the program, so it runs a copy.
fn get_as_plain_user(place: &Place, path: &Path, own: &[&Path]) -> Finished {
    let args = ["get", &place.url, KEY, "-o", path.to_str().expect("temporary paths are UTF-8")];
    if !geteuid().is_root() {
        return run(&args);
    }
    for path in own {
        chown(*path, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).expect("root may change the owner");
    }
    let programs = TempDir::new().expect("a directory can be made");
    for dir in [place.store.path(), programs.path()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    }
    let program = programs.path().join("kvconn");
    fs::copy(env!("CARGO_BIN_EXE_kvconn"), &program).expect("the command can be copied");
    loop {
        let mut command = Command::new(&program);
        match command.args(args).env_clear().stdin(Stdio::null()).uid(65534).gid(65534).current_dir("/").output() {
            // A child of another test, forked during the copy, may still have the copy open for writing.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(Duration::from_millis(5)),
            ran => return ran.expect("every user can run programs in the directory for temporary files").into(),
        }
    }
}

#[test]
fn a_file_in_a_directory_that_takes_no_new_files_is_written_through() {
    let place = Place::new();
    let path = place.old("plain");
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o555)).expect("the mode can be set");
    let before = fs::metadata(&path).expect("the file is there").ino();
    get_as_plain_user(&place, &path, &[&path]).exits(0);
    let after = fs::metadata(&path).expect("the file is there");
    assert_eq!((fs::read(&path).expect("the file is there"), after.ino()), (b"new".to_vec(), before));
}

#[test]
fn a_file_that_may_not_be_written_is_not_replaced() {
    let place = Place::new();
    let path = place.old("plain");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("the mode can be set");
    get_as_plain_user(&place, &path, &[&path, place.dir.path()]).fails_with(&["Permission denied"]);
    assert_eq!(fs::read(&path).expect("the file is there"), b"old, and longer");
}

#[test]
fn a_directory_is_an_error() {
    let place = Place::new();
    place.get(place.dir.path()).fails_with(&["cannot write", "directory"]);
}
