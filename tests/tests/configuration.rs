//! Configuration files and variables are read as LMCache reads them, and a hostile file is refused at once.
#![forbid(unsafe_code)]

use connector_core::{ErrorKind, LMCacheEngineConfig, Result};
use kvconn_tests::{rows, vectors};
use serde_json::{Value, json};

const NUMBERS: [&str; 3] = ["chunk_size", "max_local_cpu_size", "blocking_timeout_secs"];
const TEXTS: [&str; 3] = ["remote_url", "remote_serde", "audit_actual_remote_url"];
const FLAGS: [&str; 2] = ["use_layerwise", "save_unfull_chunk"];

fn read(row: &Value) -> Result<LMCacheEngineConfig> {
    let mut config = match row["file"].as_str() {
        Some(yaml) => LMCacheEngineConfig::from_yaml(yaml)?,
        None => LMCacheEngineConfig::default(),
    };
    config.apply_variables(|name| row["variables"][name].as_str().map(str::to_owned))?;
    Ok(config)
}

/// kvconn may give an error where LMCache fails, and where it logs a warning and goes on without the value.
#[test]
fn files_and_variables_are_read_as_lmcache_reads_them() {
    let defaults = LMCacheEngineConfig::default();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for row in rows(&vectors("configuration"), "rows") {
        let values = &row["values"];
        let number_is_usable = |key: &str| match values.get(key) {
            // The row has no key with the default value.
            None => true,
            Some(value) => value.as_f64().is_some_and(|n| n > 0.0 && n <= u64::MAX as f64),
        };
        let usable = NUMBERS.into_iter().all(number_is_usable) && row["failed"] == json!(false);
        let config = match read(&row) {
            Ok(_) if row["ok"] == json!(false) => continue,
            Ok(config) => config,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::InvalidOption, "{row}: {e}");
                if usable {
                    wrong.push(format!("{row}: {e}"));
                }
                continue;
            }
        };
        compared += 1;
        let expected = |key: &str| values.get(key).cloned().or_else(|| defaults.get(key)).unwrap_or_default();
        let mut compare = |key: &str, expected: Value| {
            let read = config.get(key).unwrap_or_default();
            if read != expected {
                wrong.push(format!("{row}: `{key}` is {read} instead of {expected}"));
            }
        };
        for key in NUMBERS {
            // Without a number, LMCache fails later; kvconn takes the default.
            compare(key, if number_is_usable(key) { expected(key) } else { defaults.get(key).unwrap_or_default() });
        }
        for key in FLAGS {
            // LMCache treats a null as false.
            compare(key, json!(expected(key) == json!(true)));
        }
        for key in TEXTS {
            // An empty text is not set. kvconn has one encoding of chunks, the default.
            let unset = if key == "remote_serde" { json!("naive") } else { Value::Null };
            compare(key, Some(expected(key)).filter(|value| *value != json!("") && !value.is_null()).unwrap_or(unset));
        }
        let list = expected("remote_storage_plugins");
        compare("remote_storage_plugins", if list.is_null() { json!([]) } else { list });
        let map = expected("extra_config");
        compare("extra_config", if map.is_null() { json!({}) } else { map });
    }
    assert!(compared > 150, "only {compared} rows were compared");
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

fn refused(yaml: &str, why: &str) {
    let e = LMCacheEngineConfig::from_yaml(yaml).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    assert!(e.to_string().contains(why), "{e}");
}

#[test]
fn lists_and_maps_have_at_most_128_levels() {
    let nested = |open: &str, close: &str, levels: usize| {
        // The map around the list is a level, too.
        format!("numa_mode: {}1{}", open.repeat(levels - 1), close.repeat(levels - 1))
    };
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("[{a: ", "}]")] {
        let levels = 128 / open.matches(['[', '{']).count();
        LMCacheEngineConfig::from_yaml(&nested(open, close, levels)).unwrap();
        refused(&nested(open, close, levels + 2), "line 1");
        refused(&nested(open, close, 100_000), "more than 128 levels");
        refused(&open.repeat(1_000_000), "more than 128 levels");
    }
    refused(&"- ".repeat(1_000_000), "more than 128 levels");
    refused(&"? ".repeat(1_000_000), "more than 128 levels");
    let mut config = LMCacheEngineConfig::default();
    for text in ["[".repeat(100_000), r#"{"a":"#.repeat(100_000)] {
        let e = config.apply_variables(|name| (name == "LMCACHE_EXTRA_CONFIG").then(|| text.clone())).unwrap_err();
        assert!(e.to_string().contains("LMCACHE_EXTRA_CONFIG") && e.to_string().contains("recursion limit"), "{e}");
    }
}

#[test]
fn a_text_and_what_its_aliases_repeat_have_at_most_16_mib() {
    refused(&"#".repeat((16 << 20) + 1), "more than 16 MiB");
    LMCacheEngineConfig::from_yaml(&format!("a: &a {}\nnuma_mode: [*a, *a]", "x".repeat(1 << 20))).unwrap();
    refused(&format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(16)), "more than 16 MiB");
    let laughs: Vec<_> = (1..20).map(|n| format!("a{n}: &a{n} [{}]", format!("*a{},", n - 1).repeat(9))).collect();
    refused(&format!("a0: &a0 lol\n{}", laughs.join("\n")), "more than 16 MiB");
    let merged: Vec<_> = (1..40).map(|n| format!("a{n}: &a{n} {{x: *a{0}, <<: *a{0}}}", n - 1)).collect();
    refused(&format!("a0: &a0 {{y: 1}}\n{}", merged.join("\n")), "more than 16 MiB");
    refused("extra_config: &e {a: *e}", "line 1 column 22: an alias is inside its value");
    refused("a: *unknown", "unknown anchor");
    refused("chunk_size: 16\nremote_url: !hunter2", "line 2 column 13: the value has an unknown tag");
    for secret in [
        "!hunter2",
        "!hunter2 x",
        "*hunter2",
        "&hunter2 [",
        "`hunter2",
        "@hunter2",
        "%hunter2",
        "\"\\hunter2\"",
        "[hunter2",
    ] {
        let e = LMCacheEngineConfig::from_yaml(&format!("extra_config: {{password: {secret}}}")).unwrap_err();
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
    }
}

#[test]
fn a_file_that_is_not_a_configuration_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, why) in [
        ("/dev/zero".into(), "more than 16 MiB"),
        (file("utf-16", b"\xff\xfec\0"), "not UTF-8"),
        (file("large", &vec![b' '; (16 << 20) + 1]), "more than 16 MiB"),
        (folder.path().to_owned(), "directory"),
        (folder.path().join("missing"), "No such file"),
    ] {
        let e = LMCacheEngineConfig::from_file(&path).unwrap_err();
        assert!(e.to_string().contains(why) && e.to_string().contains(&*path.to_string_lossy()), "{e}");
    }
    let bom = file("bom", "\u{feff}chunk_size: 16\n".as_bytes());
    assert_eq!(LMCacheEngineConfig::from_file(&bom).unwrap().chunk_size, 16);
}

#[test]
fn a_fifo_is_read_to_its_end_or_to_16_mib() {
    let folder = tempfile::tempdir().unwrap();
    for (script, expected) in [("echo chunk_size: 16", Ok(16)), ("yes", Err("more than 16 MiB"))] {
        let path = folder.path().join(script.replace(' ', "_"));
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut writer = std::process::Command::new("sh")
            .args(["-c", &format!("{script} > \"$0\""), path.to_str().unwrap()])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let read = LMCacheEngineConfig::from_file(&path);
        let _ = writer.wait();
        match expected {
            Ok(tokens) => assert_eq!(read.unwrap().chunk_size, tokens),
            Err(why) => assert!(read.unwrap_err().to_string().contains(why)),
        }
    }
}

#[test]
fn a_key_is_one_value_whether_it_is_set_by_its_field_or_by_its_name() {
    let mut config =
        LMCacheEngineConfig::from_yaml("chunk_size: 1_024\nmax_local_cpu_size: '2'\nremote_url: ''").unwrap();
    assert_eq!((config.get("chunk_size"), config.chunk_size), (Some(json!(1024)), 1024));
    assert_eq!((config.get("max_local_cpu_size"), config.get("remote_url")), (Some(json!(2.0)), None));
    config.chunk_size = 16;
    config.remote_storage_plugins = vec!["fs.a".to_owned()];
    let config = config.with_extra_config("a", 1);
    assert_eq!(config.get("chunk_size"), Some(json!(16)));
    assert_eq!(config.get("remote_storage_plugins"), Some(json!(["fs.a"])));
    assert_eq!(config.get("extra_config"), Some(json!({"a": 1})));
    let shown = format!("{config:?}");
    assert!(shown.contains("\"chunk_size\": Number(16)") && !shown.contains("1024"), "{shown}");
}

/// A file of a later LMCache has keys that kvconn does not know, some of them near to a known one.
#[test]
fn a_key_that_kvconn_does_not_know_is_not_an_error() {
    for key in ["chunk_sizes", "chunk_size2", "remote_urls", "remote_ulr", "use_layerwise_v2", "extra_configs"] {
        let config = LMCacheEngineConfig::from_yaml(&format!("{key}: [1, 2]\nchunk_size: 16")).unwrap();
        assert_eq!((config.chunk_size, config.get(key)), (16, None), "{key}");
    }
}
