//! Options with a wrong type, a wrong name or a conflict.

use super::*;

#[tokio::test]
async fn an_option_of_the_wrong_type_is_refused_with_its_place_type_and_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let fs = format!("fs://{}", folder.path().display());
    let table = [
        (json!({}), "memory://?capacity=lots".to_owned(), vec!["option `capacity`", "lots", "it takes an integer"]),
        (
            json!({}),
            "memory://?capacity=-1".to_owned(),
            vec!["option `capacity`: `-1` is not a whole number, 0 or more"],
        ),
        (json!({}), "memory://?capacity=1GiB".to_owned(), vec!["`1GiB` is not", "write `capacity=1073741824`"]),
        (
            json!({}),
            "memory://?timeout_ms=5s".to_owned(),
            vec!["`5s` is not a whole number", "write `timeout_ms=5000`"],
        ),
        (json!({}), "memory://?retries=-1".to_owned(), vec!["`-1` is not a whole number from 0 to 4294967295"]),
        (json!({}), "memory://?min_reconnect_interval=soon".to_owned(), vec!["`soon` is not a number", "(seconds)"]),
        (json!({}), format!("{fs}?fsync=often"), vec!["`often` is not one of never, file, full"]),
        (json!({}), format!("{fs}?use_odirect=2"), vec!["`2` is not `true` or `false`"]),
        (json!({"fs_connector_use_odirect": 2}), fs.clone(), vec!["`2` is not `true` or `false`"]),
        (json!({"fs_connector_fsync": 2}), fs.clone(), vec!["`2` is not one of never, file, full"]),
        (
            json!({"memory_connector_capacity": -1}),
            "memory://".to_owned(),
            vec!["`-1` is not a whole number, 0 or more"],
        ),
        (json!({"memory_connector_capacity": 1.5}), "memory://".to_owned(), vec!["`1.5` is not a whole number"]),
        (json!({"memory_connector_capacity": true}), "memory://".to_owned(), vec!["`true` is not a whole number"]),
        (json!({"memory_connector_capacity": {"a": 1}}), "memory://".to_owned(), vec!["a map is not a whole number"]),
        (json!({}), "memory://?capacity=1.5".to_owned(), vec!["option `capacity`", "1.5"]),
        (json!({}), "strict://h:0?connections=256".to_owned(), vec!["option `connections`", "256"]),
        (
            json!({"memory_connector_capacity": "lots"}),
            "memory://".to_owned(),
            vec![
                "in extra_config key `memory_connector_capacity`",
                "lots",
                "it takes an integer (bytes): The largest size",
            ],
        ),
        (
            json!({"remote_storage_plugin.memory.capacity": [1]}),
            "plugin://memory".to_owned(),
            vec!["in extra_config key `remote_storage_plugin.memory.capacity`", "it takes an integer"],
        ),
        (json!({}), format!("{fs}?save_chunk_meta=perhaps"), vec!["`save_chunk_meta`", "it takes a boolean"]),
        (
            json!({"save_chunk_meta": "perhaps"}),
            fs.clone(),
            vec!["option `save_chunk_meta` in extra_config key `save_chunk_meta`", "it takes a boolean"],
        ),
    ];
    for (extra, url, parts) in table {
        let e = connectors::builder(&url).config(config(&extra)).open().await.unwrap_err();
        assert_is(&e, ErrorKind::InvalidOption, &parts);
    }
}

#[tokio::test]
async fn the_error_of_an_enum_names_its_values_once() {
    for (url, values) in
        [("memory://?connect=maybe", "eager, lazy"), ("fs:///tmp/kvconn-x?fsync=often", "never, file, full")]
    {
        let e = connectors::open(url).await.unwrap_err().to_string();
        assert_eq!(e.matches(values).count(), 1, "{e}");
    }
}

#[tokio::test]
async fn an_option_that_would_set_nothing_is_refused() {
    use ErrorKind::InvalidOption;
    assert_refused(&[
        ("memory://?capacity=", InvalidOption, &["URL option `capacity` has no value", "write `capacity=value`"]),
        ("memory://?capacity", InvalidOption, &["URL option `capacity` has no value"]),
        ("memory://?capacity=1&capacity=2", InvalidOption, &["URL option `capacity` is set more than once"]),
        ("memory://?retries=1&retries=1", InvalidOption, &["URL option `retries` is set more than once"]),
    ])
    .await;
}

#[tokio::test]
async fn an_unknown_option_is_named_unless_its_name_may_be_a_part_of_a_secret() {
    use ErrorKind::InvalidOption;
    assert_refused(&[
        (
            "strict://h:0?ttl=1",
            InvalidOption,
            &["option 1 of the URL is unknown", "its options are password, password_file"],
        ),
        ("strict://h:0?password=x&hunter2=1", InvalidOption, &["option 2 of the URL is unknown"]),
        ("strict://h:0?conections=1", InvalidOption, &["did you mean `connections`?"]),
        ("strict://h:0?tenant_code=a&b=c", InvalidOption, &["option 2 of the URL is unknown", "`%26`"]),
        ("strict://h:0?a%20b=c", InvalidOption, &["option 1 of the URL is unknown"]),
        ("strict://h:0?password=1&conections=1", InvalidOption, &["option 2", "(did you mean `connections`?)"]),
        ("strict://h:0?pwd=1", InvalidOption, &["unknown URL option `pwd`", "did you mean `password`?"]),
        ("redis://h:1?ttl=1", InvalidOption, &["did you mean `ttl_sec`?"]),
        ("redis://h:1?user=a", InvalidOption, &["did you mean `username`?"]),
        ("redis://h:1?database=1", InvalidOption, &["did you mean `db`?"]),
        ("strict://h:0?x", InvalidOption, &["option 1 of the URL is unknown"]),
        ("memory://a?connector_name=X", InvalidOption, &["unknown URL option `connector_name`"]),
    ])
    .await;
}

#[tokio::test]
async fn a_secret_option_of_the_wrong_type_is_refused_without_its_value() {
    let e = connectors::open("strict://h:0?password=hunter2").await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidOption, &["option `password`", "it takes an integer"]);
    assert!(!all_of(&e).contains(SECRET), "{e:?}");
}

#[tokio::test]
async fn an_unknown_key_under_a_connectors_prefix_is_refused_and_foreign_keys_are_not() {
    for (key, near) in [
        ("memory_connector_capcity", "did you mean `memory_connector_capacity`?"),
        ("memory_connector_ttl", "its options are capacity"),
    ] {
        let e = connectors::builder("memory://").config(config(&json!({key: 1}))).open().await.unwrap_err();
        assert_is(&e, ErrorKind::InvalidOption, &[&format!("unknown extra_config key `{key}`"), near]);
    }
    // All parts of LMCache share extra_config, so a connector ignores the keys of other parts.
    let foreign = json!({
        "fs_connector_read_ahead_size": 4096,
        "capcity": 1,
        "capacity": "lots",
        "save_chunk_meta": true,
        "remote_storage_plugin.other.capcity": 1,
        "internal_api_server_port": 7000,
    });
    connectors::builder("memory://").config(config(&foreign)).open().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_open_with_another_capacity_is_refused_with_both() {
    let _open = connectors::open("memory://sized?capacity=10").await.unwrap();
    let e = connectors::open("memory://sized?capacity=20").await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidOption, &["`memory://sized`", "10 bytes", "20", "leave `capacity` out"]);
}
