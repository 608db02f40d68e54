//! Names of stores: `@NAME`, `@`, `KVCONN_URL` and the file of stores.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{Finished, KEY, file, kvconn, put, store};

/// A file of stores in a directory of its own.
fn config(text: &str) -> (TempDir, String) {
    let (dir, path) = file(text.as_bytes());
    set_mode(&path, 0o600);
    (dir, path)
}

fn set_mode(path: &str, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

fn run_with(variables: &[(&str, &str)], args: &[&str]) -> Finished {
    kvconn(args).envs(variables.iter().copied()).output().expect("the command starts").into()
}

fn with_file(path: &str, args: &[&str]) -> Finished {
    run_with(&[("KVCONN_CONFIG", path)], args)
}

#[test]
fn a_name_stands_for_the_url_and_the_options_of_its_table() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    let (_config, path) =
        config(&format!("[stores.prod]\nurl = '{url}'\ntimeout_ms = 5000\n[stores.copy]\nurl = '{url}/copy'\n"));
    let listed = format!("{KEY}\n");
    assert_eq!(with_file(&path, &["ls", "@prod"]).exits(0).text(), listed);
    for args in [&["exists", "@prod", KEY][..], &["stat", "@prod", KEY], &["ping", "@prod"], &["du", "@prod"]] {
        with_file(&path, args).exits(0);
    }
    with_file(&path, &["cp", "@prod", "@copy"]).exits(0);
    assert_eq!(with_file(&path, &["ls", "@copy"]).exits(0).text(), listed);
    with_file(&path, &["cp", "@prod", "@prod"]).refuses_with(&["are the same store"]);
    assert_eq!(with_file(&path, &["describe", "@prod", "--json"]).exits(0).json()["module"], "kvconn.fs");
    with_file(&path, &["scrub", "@prod", "--min-age", "0"]).exits(0);
}

#[test]
fn a_file_that_is_not_utf_8_has_its_advice() {
    let (_dir, path) = file(b"[stores.a]\nurl = 'memory://\xff'");
    with_file(&path, &["ls", "@a"]).refuses_with(&["is not UTF-8", "save the file as UTF-8"]);
    run_with(&[], &["--config", &path, "ls", "memory://x"]).refuses_with(&["is not UTF-8", "save the file as UTF-8"]);
}

#[test]
fn the_file_of_stores_is_in_the_users_configuration() {
    let (_dir, url) = store();
    let home = TempDir::new().expect("a directory can be made");
    let write = |folder: &Path| {
        std::fs::create_dir_all(folder.join("kvconn")).expect("the directory can be made");
        std::fs::write(folder.join("kvconn/config.toml"), format!("[stores.a]\nurl = '{url}'"))
            .expect("it can be written");
    };
    write(&home.path().join(".config"));
    let home = home.path().display().to_string();
    run_with(&[("HOME", &home)], &["ls", "@a"]).exits(0);
    let xdg = TempDir::new().expect("a directory can be made");
    let path = xdg.path().display().to_string();
    run_with(&[("XDG_CONFIG_HOME", &path), ("HOME", &home)], &["ls", "@a"]).refuses_with(&["does not exist", &path]);
    write(xdg.path());
    run_with(&[("XDG_CONFIG_HOME", &path)], &["ls", "@a"]).exits(0);
}

#[test]
fn kvconn_url_is_the_store_without_a_name() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    let listed = format!("{KEY}\n");
    for args in [&["ls"][..], &["ls", "@"]] {
        assert_eq!(run_with(&[("KVCONN_URL", &url)], args).exits(0).text(), listed);
    }
    run_with(&[("KVCONN_URL", &url)], &["exists", "@", KEY]).exits(0);
    run_with(&[("KVCONN_URL", &url)], &["du"]).exits(0);
    let (_config, path) = config(&format!("[stores.default]\nurl = '{url}'\n[stores.b]\nurl = 'memory://x'"));
    let both = |variable: &str, args: &[&str]| run_with(&[("KVCONN_CONFIG", &path), ("KVCONN_URL", variable)], args);
    assert_eq!(with_file(&path, &["ls"]).exits(0).text(), listed);
    assert_eq!(both("@b", &["ls"]).exits(0).text(), "");
    both("@", &["ls"]).refuses_with(&["KVCONN_URL"]);
    for command in ["ls", "du", "ping", "doctor"] {
        run_with(&[], &[command]).refuses_with(&["no store is given", "KVCONN_URL"]);
    }
    for command in ["du", "ping", "doctor"] {
        run_with(&[("KVCONN_URL", "memory://x")], &[command]).exits(0);
    }
    let not_utf8 = OsStr::from_bytes(b"fs:///\xff");
    let end = kvconn(&["ls"]).env("KVCONN_URL", not_utf8).output().expect("the command starts");
    Finished::from(end).refuses_with(&["`KVCONN_URL` is not UTF-8"]);
}

#[test]
fn the_error_for_a_name_says_what_to_change() {
    let (_config, path) = config(
        "[stores.prod]\nurl = 'memory://x'\n[stores.empty]\n[stores.pw]\nurl = 'redis://h'\npassword = 'hunter2'\n\
         [stores.plugin]\nurl = 'plugin://kv'\npassword = 'hunter2'",
    );
    with_file(&path, &["ls", "@prdo"]).refuses_with(&["no store `prdo`", "did you mean `prod`?", "`@prod`", &path]);
    with_file(&path, &["ls", "@empty"]).refuses_with(&["store `empty`", "no `url`"]);
    with_file(&path, &["ls", "@pw"]).refuses_with(&["store `pw`", "`password` is a secret", "password_file = "]);
    // Only the configuration names the connector of a `plugin://` URL. So kvconn refuses an option that is secret for any.
    with_file(&path, &["ls", "@plugin"]).refuses_with(&["store `plugin`", "`password` is a secret"]);
    with_file("/no/such/file", &["ls", "@prod"]).fails_with(&["/no/such/file"]);
    run_with(&[], &["ls", "@prod"]).refuses_with(&["HOME"]);
    let (_broken, path) = config("[stores.a]\nurl = 'redis://:hunter2@h\n");
    with_file(&path, &["ls", "@a"]).refuses_with(&["line 2", &path]);
    with_file(&path, &["ls", "memory://x"]).exits(0);
}

#[test]
fn a_secret_of_the_file_is_never_shown_and_the_file_must_be_the_users_own() {
    let (_config, path) = config("[stores.a]\nurl = 'redis://u:hunter2@127.0.0.1:1'\nconnect_timeout_ms = 100");
    for args in [&["ls", "@a"][..], &["stores"], &["stores", "--json"], &["describe", "@a"], &["ls", "@a", "-vv"]] {
        let end = with_file(&path, args);
        assert!(!end.err.contains("hunter2") && !end.text().contains("hunter2"), "{args:?}: {end:?}");
        assert!(!end.err.contains("chmod"), "{args:?}: {end:?}");
    }
    let end = run_with(&[("KVCONN_URL", "redis://u:hunter2@127.0.0.1:1")], &["ping", "@"]).exits(3);
    assert!(!end.err.contains("hunter2"), "{end:?}");
    set_mode(&path, 0o644);
    let end = with_file(&path, &["stores"]).exits(0);
    assert!(end.err.contains("mode 644") && end.err.contains(&format!("chmod 600 {path}")), "{end:?}");
    let (_harmless, path) = config(
        "[stores.a]\nurl = 'memory://x'\n[stores.b]\nurl = 'redis://kv@h'\npassword_file = '/run/pw'\n[stores.c]\nurl = \
         'redis://h?password_file=/run/pw'\nusername = 'kv'\n[stores.d]\nurl = 'redis://kv:${PW}@h'\n[stores.e]\nurl = 'plugin://kv'\nnamespace = 'a'",
    );
    set_mode(&path, 0o644);
    assert_eq!(with_file(&path, &["stores"]).exits(0).err, "");
    let (_behind, path) = config("[stores.a]\nurl = 'tiered://?front=memory://x'\nback = 'redis://u:hunter2@h'");
    set_mode(&path, 0o644);
    let end = with_file(&path, &["stores"]).exits(0);
    assert!(end.err.contains("mode 644") && !end.err.contains("hunter2"), "{end:?}");
}

#[test]
fn stores_lists_the_names() {
    let (_config, path) = config("[stores.b]\nurl = 'memory://x'\ncapacity = 4096\n[stores.a]\nurl = 'fs:///kv'");
    let shown = with_file(&path, &["stores"]).exits(0);
    assert_eq!(shown.text(), "@a  fs:///kv\n@b  memory://x?capacity=4096\n");
    let json = run_with(&[("KVCONN_CONFIG", &path), ("KVCONN_URL", "redis://u:pw@h:1")], &["stores", "--json"])
        .exits(0)
        .json();
    assert_eq!(
        json,
        json!({"file": path, "default": "redis://***@h:1", "stores": [
            {"name": "a", "url": "fs:///kv"}, {"name": "b", "url": "memory://x?capacity=4096"},
        ]})
    );
    let none = run_with(&[], &["stores"]).exits(0);
    assert!(none.text().is_empty() && none.err.contains("no store has a name"), "{none:?}");
}
