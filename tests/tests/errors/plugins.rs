//! `plugin://` and its configuration.

use super::*;

#[tokio::test]
async fn a_plugin_that_the_configuration_does_not_describe_is_refused_with_the_key_to_set() {
    use ErrorKind::{InvalidOption, InvalidUrl, NotFound};
    let table = [
        (
            json!({}),
            "plugin://mine",
            InvalidOption,
            vec!["does not define plugin `mine`", "set `remote_storage_plugin.mine.url`", "`.module_path`"],
        ),
        (
            json!({"remote_storage_plugin.main.url": "memory://a"}),
            "plugin://mian",
            InvalidOption,
            vec!["plugin `mian`", "did you mean `main`?"],
        ),
        (
            json!({"remote_storage_plugin.kv.urll": "memory://a"}),
            "plugin://kv",
            InvalidOption,
            vec![
                "unknown extra_config key `remote_storage_plugin.kv.urll` (did you mean `remote_storage_plugin.kv.url`?)",
            ],
        ),
        (
            json!({"remote_storage_plugin.kv.modul_path": "m", "remote_storage_plugin.kv.class_nam": "C"}),
            "plugin://kv",
            InvalidOption,
            vec!["did you mean `remote_storage_plugin.kv."],
        ),
        (json!({}), "plugin://memry", InvalidOption, vec!["plugin `memry`", "did you mean `memory`?"]),
        (
            json!({"remote_storage_plugin.mine.module_path": "kvconn.memory"}),
            "plugin://mine",
            InvalidOption,
            vec!["plugin `mine` needs extra_config key `remote_storage_plugin.mine.class_name`"],
        ),
        (
            json!({"remote_storage_plugin.mine.class_name": "MemoryConnector"}),
            "plugin://mine",
            InvalidOption,
            vec!["needs extra_config key `remote_storage_plugin.mine.module_path`"],
        ),
        (
            json!({"remote_storage_plugin.mine.module_path": 3}),
            "plugin://mine",
            InvalidOption,
            vec!["extra_config key `remote_storage_plugin.mine.module_path` is not text"],
        ),
        (
            json!({
                "remote_storage_plugin.mine.module_path": "kvconn.memory",
                "remote_storage_plugin.mine.class_name": "MemoryConector",
            }),
            "plugin://mine",
            NotFound,
            vec!["did you mean `MemoryConnector`?"],
        ),
        (
            json!({"remote_storage_plugin.mine.url": "plugin://other"}),
            "plugin://mine",
            InvalidOption,
            vec!["plugin `mine` has another plugin as its url"],
        ),
        (json!({"remote_storage_plugin.mine.url": "memory"}), "plugin://mine", InvalidUrl, vec!["no `scheme://`"]),
        (
            json!({"remote_storage_plugin.memory.b.capcity": 1}),
            "plugin://memory.b",
            InvalidOption,
            vec![
                "unknown extra_config key `remote_storage_plugin.memory.b.capcity`",
                "did you mean `remote_storage_plugin.memory.b.capacity`?",
            ],
        ),
        (json!({}), "plugin://fs.primary", InvalidUrl, vec!["names no directory"]),
    ];
    for (extra, url, kind, parts) in table {
        let e = connectors::builder(url).config(config(&extra)).open().await.unwrap_err();
        assert_is(&e, kind, &parts);
    }
}

#[tokio::test]
async fn a_plugin_that_the_configuration_describes_opens() {
    let folder = tempfile::tempdir().unwrap();
    for (extra, url, name) in [
        (json!({"remote_storage_plugin.a.url": "memory://a"}), "plugin://a", "kvconn.memory/MemoryConnector"),
        (
            json!({
                "remote_storage_plugin.a.module_path": "kvconn.memory",
                "remote_storage_plugin.a.class_name": "MemoryConnector",
                "remote_storage_plugin.a.capacity": 10,
            }),
            "plugin://a",
            "kvconn.memory/MemoryConnector",
        ),
        (
            json!({"remote_storage_plugin.fs.primary.base_path": folder.path()}),
            "plugin://fs.primary",
            "kvconn.fs/FSConnector",
        ),
    ] {
        let store = connectors::builder(url).config(config(&extra)).open().await.unwrap();
        assert_eq!(store.name(), name);
    }
}
