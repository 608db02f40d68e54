//! `--config`, `LMCACHE_CONFIG_FILE`, `LMCACHE_*` and `-v`.

use super::{KEY, file, kvconn, put, run, store};

const EXTERNAL: &str = "external://localhost:0/kvconn.fs/?connector_name=FSConnector";

#[test]
fn a_configuration_file_gives_the_options_of_a_store() {
    let (dir, url) = store();
    put(&url, KEY, b"x");
    let base = dir.path().display();
    let (_file, path) = file(
        format!(
            "chunk_size: 256\nextra_config:\n  fs_base_path: {base}\n  remote_storage_plugin.fs.a.base_path: {base}\n"
        )
        .as_bytes(),
    );
    let listed = format!("{KEY}\n");
    for url in [EXTERNAL, "plugin://fs.a"] {
        assert_eq!(run(&["ls", url, "--config", &path]).exits(0).text(), listed);
        let mut by_variable = kvconn(&["ls", url]);
        by_variable.env("LMCACHE_CONFIG_FILE", &path);
        assert_eq!(by_variable.output().expect("the command starts").stdout, listed.as_bytes());
    }
    run(&["ls", EXTERNAL]).refuses_with(&["names no directory"]);
}

#[test]
fn variables_override_the_configuration_file() {
    let (dir, url) = store();
    put(&url, KEY, b"x");
    let (_file, path) = file(b"extra_config: {fs_base_path: /nowhere}");
    let mut command = kvconn(&["ls", EXTERNAL, "--config", &path]);
    command.env("LMCACHE_EXTRA_CONFIG", format!(r#"{{"fs_base_path": "{}"}}"#, dir.path().display()));
    assert_eq!(command.output().expect("the command starts").stdout, format!("{KEY}\n").as_bytes());
}

#[test]
fn a_wrong_configuration_names_the_file_and_the_key() {
    let (_file, path) = file(b"chunk_size: none");
    run(&["ls", "memory://x", "--config", &path]).refuses_with(&[&path, "`chunk_size`", "none"]);
    let (_file, option) = file(b"extra_config: {memory_connector_capacity: none}");
    run(&["ls", "memory://x", "--config", &option]).refuses_with(&["`memory_connector_capacity`", "none"]);
    run(&["ls", "memory://x", "--config", "/nowhere.yaml"]).fails_with(&["/nowhere.yaml"]);
    let output = kvconn(&["ls", "memory://x"]).env("LMCACHE_CHUNK_SIZE", "none").output();
    super::Finished::from(output.expect("the command starts")).refuses_with(&["LMCACHE_CHUNK_SIZE"]);
}

/// It may be a key of a later LMCache.
#[test]
fn an_unknown_configuration_key_is_a_warning() {
    let (_file, path) = file(b"chunk_sise: 3");
    let finished = run(&["ls", "memory://x", "--config", &path]).exits(0);
    assert!(finished.err.contains("chunk_sise") && finished.err.contains("did you mean `chunk_size`?"), "{finished:?}");
}

#[test]
fn logs_go_to_stderr_on_request() {
    assert_eq!(run(&["ls", "memory://x"]).exits(0).err, "");
    let logged = run(&["ls", "memory://x", "-v"]).exits(0);
    assert!(
        logged.err.contains("DEBUG") && logged.err.contains("kvconn.memory") && logged.out.is_empty(),
        "{logged:?}"
    );
    let by_variable = kvconn(&["ls", "memory://x"]).env("RUST_LOG", "debug").output().expect("the command starts");
    assert!(String::from_utf8_lossy(&by_variable.stderr).contains("opened"), "{by_variable:?}");
}

#[test]
fn a_hostile_configuration_is_refused_at_once() {
    let (_deep, deep) = file(&[b'['; 100_000]);
    run(&["ls", "memory://x", "--config", &deep]).refuses_with(&[&deep, "128"]);
    run(&["ls", "memory://x", "--config", "/dev/zero"]).refuses_with(&["/dev/zero", "16 MiB"]);
}
