//! Names of connectors, modules, schemes, options and keys, and the errors for wrong ones.

use super::{KEY, file, kvconn, run, store};

#[test]
fn connectors_names_every_store_and_list_is_the_same_command() {
    let shown = run(&["connectors"]).exits(0);
    assert_eq!(run(&["list"]).exits(0).text(), shown.text());
    for name in ["kvconn.fs/FSConnector", "fs://", "kvconn.memory/MemoryConnector", "memory://", "connectors 0."] {
        assert!(shown.text().contains(name), "{name}: {}", shown.text());
    }
    let json = run(&["list", "--json"]).exits(0).json();
    let fs = json["connectors"].as_array().and_then(|all| all.iter().find(|c| c["module"] == "kvconn.fs"));
    let fs = fs.unwrap_or_else(|| panic!("no kvconn.fs in {json}"));
    assert_eq!(fs["schemes"], serde_json::json!(["fs"]));
    assert!(fs["summary"].as_str().is_some_and(|s| !s.is_empty()), "{json}");
    assert!(json["adapters"].is_array(), "{json}");
}

#[test]
fn describe_finds_a_connector_by_any_of_its_names() {
    let external = "external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path=/never/opened";
    for name in ["fs", "kvconn.fs", "FSConnector", "kvconn.fs/FSConnector", "fs:///never/opened", external] {
        let shown = run(&["describe", name]).exits(0);
        for part in ["kvconn.fs/FSConnector", "base_path", "fs_connector_base_path, fs_base_path", "plugin://fs"] {
            assert!(shown.text().contains(part), "{name}: {part}: {}", shown.text());
        }
        assert_eq!(run(&["describe", name, "--json"]).exits(0).json()["name"], "FSConnector");
    }
    assert!(!std::path::Path::new("/never").exists());
}

#[test]
fn described_options_have_type_default_and_keys() {
    let json = run(&["describe", "memory", "--json"]).exits(0).json();
    let option = &json["options"][0];
    assert_eq!(
        (&option["name"], &option["type"], &option["secret"]),
        (&"capacity".into(), &"integer".into(), &false.into())
    );
    assert_eq!(option["extra_config"], serde_json::json!(["memory_connector_capacity"]));
}

#[test]
fn a_misspelt_name_gives_a_suggestion() {
    let url = |module: &str, name: &str| format!("external://localhost:0/{module}/?connector_name={name}");
    for (args, nearest) in [
        (["describe", "FSConector"], "did you mean `FSConnector`?"),
        (["describe", "kvconn.memroy"], "did you mean `kvconn.memory`?"),
        (["describe", "kvconn.fs/FsConector"], "did you mean `FSConnector`?"),
        (["describe", "memry://x"], "did you mean `memory`?"),
        (["ls", "memry://x"], "did you mean `memory`?"),
        (["ls", &url("kvcon.fs", "FSConnector")], "did you mean `kvconn.fs`?"),
        (["ls", &url("kvconn.fs", "FSConnecter")], "did you mean `FSConnector`?"),
        (["ls", "memory://x?capcity=1"], "did you mean `capacity`?"),
    ] {
        run(&args).refuses_with(&[nearest]);
    }
}

#[test]
fn the_error_for_a_wrong_url_gives_the_reason() {
    for (url, why) in [
        ("fs://host:70000/x", "the port is not a number from 0 to 65535"),
        ("/var/cache/kv", "for a directory write `fs:///path`"),
        ("fs:///var/cache/kv#1", "has a fragment"),
        ("external://localhost:0/kvconn.fs/", "connector_name"),
        ("external://localhost/kvconn.fs/?connector_name=FSConnector", "port"),
        ("external://a:1,b:2/kvconn.fs/?connector_name=FSConnector", "only one host"),
    ] {
        run(&["ls", url]).refuses_with(&[why]);
    }
    run(&["ls", "memory://x?capacity=many"]).refuses_with(&["`capacity`"]);
}

#[test]
fn the_error_for_a_wrong_key_names_the_field() {
    for (key, why) in [
        ("opt@01@0@ff@half", "field 2 (world size) is `01`; write `1`"),
        ("opt@1@0@FF@half", "`ff`"),
        ("opt@1@0@ff@float17", "float17"),
        ("opt", "`opt` is not a key"),
    ] {
        run(&["exists", "memory://x", key]).refuses_with(&[why]);
    }
}

#[test]
fn key_kind_sets_the_kind_of_key() {
    run(&["exists", "memory://x", KEY, "--key-kind", "engine"]).exits(1);
    run(&["exists", "memory://x", KEY, "--key-kind", "object"]).refuses_with(&["field 2 (kv rank)"]);
    run(&["exists", "memory://x", KEY, "--key-kind", "chunk"]).exits(2);
}

#[test]
fn every_command_with_keys_reads_them_as_the_kind_that_the_user_names() {
    let (_dir, url) = store();
    // An object key at first sight, and an engine key of the model `m@00000001`.
    let key = "m@00000001@1@0@ff@half";
    let (_file, path) = file(b"a chunk with a header");
    run(&["put", &url, key, &path, "--key-kind", "engine"]).exits(0);
    run(&["exists", &url, key, "--key-kind", "engine"]).exits(0);
    assert_eq!(run(&["get", &url, key, "--key-kind", "engine"]).exits(0).out, b"a chunk with a header");
    run(&["rm", &url, key, "--key-kind", "engine"]).exits(0);
    for command in [&["put", &url, KEY, &path][..], &["exists", &url, KEY], &["get", &url, KEY], &["rm", &url, KEY]] {
        run(&[command, &["--key-kind", "object"]].concat()).refuses_with(&[KEY]);
        run(&[command, &["--key-kind", "chunk"]].concat()).exits(2);
    }
}

#[test]
fn no_output_ever_holds_a_password() {
    let (user, query) = ("redis://u:hunter2@h:6379", "memory://x?password=hunter2");
    let nested = "external://h:0/kvconn.fs/?connector_name=FSConnector&back=redis%3A%2F%2Fu%3Ahunter2%40h%3A1";
    for url in [user, query, nested, "redis://u:hunter2@h:99999999", "fs://u:hunter2@h/x", "fs://u:hunter2@h"] {
        let all: [&[&str]; 9] = [
            &["-vv", "ls", url],
            &["describe", url],
            &["ping", url],
            &["get", url, KEY],
            &["cp", url, url],
            &["cp", "memory://x", url],
            &["bench", url, "--keys", "1"],
            // The error for wrong usage repeats the argument.
            &["list", url],
            &["bench", "memory://x", &format!("--chunk-size={url}")],
        ];
        for args in all {
            let result = run(args);
            // Describe opens no store, so it may succeed.
            assert!(result.code != Some(0) || args[0] == "describe", "{args:?}");
            assert!(!result.err.contains("hunter2") && !result.text().contains("hunter2"), "{args:?}: {result:?}");
        }
    }
}

#[test]
fn no_place_of_the_command_line_repeats_a_password() {
    for url in [
        "redis://u:hunter2@h:1",
        "redis:u:hunter2@h:1",
        "u:hunter2@h",
        "redis//u:hunter2@h:1",
        "redis://u:12/hunter2@h:1",
        "redis://h:1/0#password=hunter2",
        "h:6379?password=hunter2",
        "password=hunter2",
        "tiered://?front=memory://&back=redis://u:12/hunter2@h:1",
    ] {
        let glued = |option: &str| format!("{option}={url}");
        let places: &[&[&str]] = &[
            &[url],
            &[url, "get"],
            &["help", url],
            &["list", url],
            &["describe", url],
            &["doctor", url, "--timeout", "2"],
            &["scrub", url],
            &["get", "memory://x", url],
            &["put", "memory://x", url, "/dev/null"],
            &["put", "memory://x", KEY, url],
            &["get", "memory://x", KEY, "-o", url, url],
            &["ls", "memory://x", "--config", url],
            &["ls", "memory://x", &glued("--config")],
            &["ls", "memory://x", &glued("--key-kind")],
            &["ls", "memory://x", &glued("--json")],
            &["ls", "memory://x", &glued("--password")],
            &["ls", "memory://x", &format!("-p{url}")],
            &["put", "memory://x", KEY, "/dev/null", &glued("--shape")],
            &["put", "memory://x", KEY, "/dev/null", &glued("--dtype")],
            &["put", "memory://x", KEY, "/dev/null", &glued("--format")],
            &["bench", "memory://x", &glued("--keys")],
            &["scrub", "/", &glued("--min-age")],
            &["check", "memory://x", &glued("--timeout")],
            &["check", "memory://x", &glued("--filter")],
            &["demo", &format!("--keep=/nowhere,{url}")],
        ];
        for args in places {
            let end = run(args);
            assert!(!end.err.contains("hunter2") && !end.text().contains("hunter2"), "{args:?}: {end:?}");
            // `describe` opens no store.
            assert!(end.code != Some(0) || args[0] == "describe", "{args:?}");
        }
        let variable = kvconn(&["ls", "memory://x"]).env("LMCACHE_CONFIG_FILE", url).output().expect("it starts");
        assert!(!String::from_utf8_lossy(&variable.stderr).contains("hunter2"), "{variable:?}");
    }
}

#[test]
fn help_shows_exit_codes_and_examples() {
    let help = run(&["--help"]).exits(0);
    assert!(help.text().contains("Exit codes") && help.text().contains("kvconn demo"), "{}", help.text());
    for command in [
        "connectors",
        "stores",
        "describe",
        "put",
        "get",
        "exists",
        "stat",
        "ls",
        "du",
        "rm",
        "cp",
        "ping",
        "bench",
        "demo",
        "new",
        "completions",
        "man",
        "version",
    ] {
        let help = run(&[command, "--help"]).exits(0);
        assert!(help.text().contains(&format!("  kvconn {command}")), "{}", help.text());
    }
    run(&["no-such-command"]).exits(2);
    run(&["exists", "memory://x"]).exits(2);
}

#[test]
fn no_output_holds_a_password_of_a_misplaced_or_broken_url() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = format!("fs://{}", dir.path().display());
    for args in [
        &["ls", "redis//user:hunter2@h:6379"][..],
        &["bench", "redis:u:hunter2@h:1"],
        &["ls", "user:hunter2@h:6379"],
        &["ls", "redis://u:hunter2@h:6379"],
        &["exists", &store, "redis://u:hunter2@h:1"],
        &["put", &store, KEY, "redis://u:hunter2@h:1"],
        &["ls", &store, "--config", "redis://u:hunter2@h:1"],
        &["demo", "redis:/u:hunter2@h:1"],
        &["describe", "nosuch://u:hunter2@h:1"],
    ] {
        let answer = run(args);
        assert!(!answer.err.contains("hunter2") && !answer.text().contains("hunter2"), "{args:?}: {answer:?}");
        assert_ne!(answer.code, Some(0), "{args:?}");
    }
}
