//! What a caller is told about bad input: the kind to match on, the place, and what to write instead.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::path::Path;

use connector_core::{
    CacheKey, ChunkLayout, Connector, ConnectorContext, ConnectorOptions, Dtype, Error, ErrorKind, FromContext,
    LMCacheEngineConfig, LMCacheMetadata, LocalCpuBackend, MemoryFormat, MemoryObj, MemoryObjMut, RemoteConnector,
    RemoteUrl, Result, Shape, external_connector,
};
use kvconn_tests::assert_says;
use serde_json::json;

/// Options of the strict connector.
#[derive(Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
struct StrictOptions {
    /// What the server asks for.
    password: Option<u32>,
    /// Connections to the server.
    connections: Option<u8>,
}

impl ConnectorOptions for StrictOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "strict_";
}

/// Has a secret option, and nothing but the three required methods.
#[external_connector(module = "tests.strict", name = "StrictConnector", scheme = "strict", options = StrictOptions)]
struct StrictConnector;

impl FromContext for StrictConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: StrictOptions = ctx.options()?;
        let _ = (options.password, options.connections);
        Ok(Self)
    }
}

impl RemoteConnector for StrictConnector {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

/// Opens each URL and checks what the error is and says.
async fn assert_refused(table: &[(&str, ErrorKind, &[&str])]) {
    for (url, kind, parts) in table {
        assert_is(&connectors::open(url).await.unwrap_err(), *kind, parts);
    }
}

#[track_caller]
fn assert_is(e: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(e.kind(), kind, "{e}");
    assert_says(&e.to_string(), parts);
    assert!(!e.to_string().contains('\n'), "an error is one line: {e}");
}

#[tokio::test]
async fn a_misspelt_name_is_answered_with_the_nearest_one() {
    use ErrorKind::{InvalidOption, NotFound};
    assert_refused(&[
        (
            "external://h:0/kvcon.memory/?connector_name=MemoryConnector",
            NotFound,
            &["no module `kvcon.memory`", "did you mean `kvconn.memory`?", "kvconn.memory/MemoryConnector"],
        ),
        (
            "external://h:0/kvconn.memory/?connector_name=MemoryConector",
            NotFound,
            &["module `kvconn.memory` has no connector `MemoryConector`", "did you mean `MemoryConnector`?"],
        ),
        ("memroy://a", NotFound, &["scheme `memroy://`", "did you mean `memory`?", "memory://"]),
        ("extrenal://h:0/m/?connector_name=C", NotFound, &["did you mean `external`?"]),
        ("memory://?capcity=1", InvalidOption, &["unknown URL option `capcity`", "did you mean `capacity`?"]),
        (
            "external://h:0/kvconn.fs/?connector_name=FSConnector&base_paht=/tmp",
            InvalidOption,
            &["open (kvconn.fs/FSConnector)", "unknown URL option `base_paht`", "did you mean `base_path`?"],
        ),
    ])
    .await;
    let e = LMCacheEngineConfig::from_yaml("remote_ulr: fs:///tmp").unwrap_err();
    assert_is(&e, InvalidOption, &["unknown key `remote_ulr`", "did you mean `remote_url`?"]);
}

#[tokio::test]
async fn a_name_that_is_near_to_nothing_gets_no_guess_but_the_whole_list() {
    for url in ["cassandra://h:1", "external://h:0/cassandra/?connector_name=CassandraConnector"] {
        let e = connectors::open(url).await.unwrap_err();
        assert_is(&e, ErrorKind::NotFound, &["linked", "memory", "add `use its_crate as _;`"]);
        assert!(!e.to_string().contains("did you mean"), "{e}");
    }
}

#[tokio::test]
async fn a_port_out_of_range_is_refused_with_the_range() {
    for url in [
        "external://h:65536/kvconn.memory/?connector_name=MemoryConnector",
        "memory://a:99999999999999999999",
        "fs://h:-1/tmp",
        "redis://h:port",
        "redis-sentinel://h1:1,h2:65536/m",
    ] {
        assert_is(&connectors::open(url).await.unwrap_err(), ErrorKind::InvalidUrl, &["no number from 0 to 65535"]);
    }
    assert_eq!(RemoteUrl::parse("redis://h:65535").unwrap().port(), Some(65535));
}

#[tokio::test]
async fn a_url_that_lacks_a_part_is_refused_with_the_part_and_the_form_to_write() {
    use ErrorKind::InvalidUrl;
    assert_refused(&[
        ("", InvalidUrl, &["no `scheme://`", "write `scheme://host:port/path?option=value`"]),
        ("localhost:6379", InvalidUrl, &["no `scheme://`"]),
        ("://h:1", InvalidUrl, &["a scheme is letters"]),
        (" memory://a", InvalidUrl, &["starts or ends with a space"]),
        ("memory://a\u{7}", InvalidUrl, &["control character '\\u{7}'"]),
        ("external:///m/?connector_name=C", InvalidUrl, &["has no host", "write `external://host:port/m/`"]),
        ("external://h/m/?connector_name=C", InvalidUrl, &["has no port", "takes `:0`"]),
        ("external://h:0/m/", InvalidUrl, &["no `connector_name`", "module_path/?connector_name=ConnectorName"]),
        ("external://h:0/?connector_name=C", InvalidUrl, &["names no module"]),
        ("fs://", InvalidUrl, &["names no directory", "write `fs:///path`"]),
        ("fs://tmp/kv", InvalidUrl, &["host `tmp`, but no port", "`fs:///tmp/kv`"]),
        ("fs:///tmp/a,,/tmp/b", InvalidUrl, &["`/tmp/a,,/tmp/b` is empty"]),
        ("fs:///tmp/a?base_path=/tmp/b", InvalidUrl, &["gives the directory twice"]),
        ("plugin://", InvalidUrl, &["names no plugin", "write `plugin://name`"]),
    ])
    .await;
}

/// Every place where a password may stand, in URLs that open, and in URLs that fail at every stage.
const SECRET: &str = "hunter2";
const URLS_WITH_A_SECRET: [&str; 22] = [
    "memory://u:hunter2@a:1",
    "memory://:hunter2@a:1",
    "memory://u:x@hunter2@a:1",
    "memory://u:hunter2@a:1?capcity=1",
    "memory://u:hunter2@a:1?capacity=lots",
    "memory://u:hunter2@a:99999",
    "memory://u:hunter2@,b:1",
    "memory://u:hunter2@[::1",
    "memory://u:hunter2@a:1\n",
    " memory://u:hunter2@a:1",
    "cassandra://u:hunter2@h:1",
    "external://u:hunter2@h1:0,h2:0/m/?connector_name=C",
    "external://u:hunter2@h:0/no.such/?connector_name=C",
    "external://u:hunter2@h:0/m/",
    "external://u:hunter2@h/m/?connector_name=C",
    "strict://h:0?password=hunter2",
    "strict://h:0?pass%77ord=hunter2",
    "strict://h:0?back=redis://u:hunter2@h:1",
    "strict://h:0?connections=redis://u:hunter2@h:1",
    "strict://h:0?back=redis%3A%2F%2Fu%3Ahunter2%40h%3A1",
    "fs://u:hunter2@h/tmp",
    "plugin://u:hunter2@name",
];

#[tokio::test]
async fn a_secret_in_a_url_is_shown_nowhere() {
    for url in URLS_WITH_A_SECRET {
        let builder = connectors::builder(url);
        let mut shown = vec![format!("{builder:?} {builder:#?}"), connector_core::redact(url).into_owned()];
        match RemoteUrl::parse(url) {
            Ok(parsed) => {
                shown.push(format!("{parsed} {parsed:?} {parsed:#?}"));
                assert!(parsed.expose().contains(SECRET), "the connection itself needs it");
            }
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.clone().build() {
            Ok(context) => shown.push(format!("{context:?} {context:#?} {}", context.connector_name())),
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.open().await {
            Ok(connector) => shown.push(format!("{connector:?} {}", connector.name())),
            Err(e) => shown.push(all_of(&e)),
        }
        for text in shown {
            assert!(!text.contains(SECRET), "{url} is shown as\n{text}");
        }
    }
}

#[tokio::test]
async fn a_secret_in_the_configuration_is_shown_nowhere() {
    let configs = [
        json!({"strict_password": "hunter2"}),
        json!({"strict_password": ["hunter2"]}),
        json!({"strict_connections": "redis://u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.password": "hunter2"}),
        json!({"remote_storage_plugin.strict.url": "redis://u:hunter2@h:99999"}),
        json!({"remote_storage_plugin.strict.url": "plugin://u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.url": ["redis://u:hunter2@h:1"]}),
        json!({"remote_storage_plugin.strict.url": "cassandra://u:hunter2@h:1"}),
    ];
    for extra in configs {
        let builder = connectors::builder("plugin://strict").config(config(&extra));
        let shown = [format!("{builder:?}"), all_of(&builder.open().await.unwrap_err())];
        for text in shown {
            assert!(!text.contains(SECRET), "{extra} is shown as\n{text}");
        }
    }
}

/// Display, Debug, and the whole chain of causes.
fn all_of(e: &Error) -> String {
    let mut text = format!("{e} {e:?} {e:#?}");
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(&format!(" {c} {c:?}"));
        cause = c.source();
    }
    text
}

#[test]
fn a_bad_key_is_refused_with_the_field_and_what_to_write_there() {
    for (text, parts) in [
        ("", &["it has 1 of the 5 fields"][..]),
        ("m@1@0@ff", &["it has 4 of the 5 fields `model@world_size@worker_id@hash@dtype`"]),
        ("@1@0@ff@half", &["field 1 (model) is ``"]),
        ("m@x@0@ff@half", &["field 2 (world size) is `x`", "a whole number from 0 to 4294967295"]),
        ("m@01@0@ff@half", &["field 2 (world size) is `01`; write `1`"]),
        ("m@1@4294967296@ff@half", &["field 3 (worker id) is `4294967296`"]),
        ("m@1@0@FF@half", &["field 4", "is `FF`", "write `ff`"]),
        ("m@1@0@0xff@half", &["field 4", "write `ff`"]),
        ("m@1@0@xyz@half", &["field 4", "is `xyz`"]),
        ("m@1@0@ff@float16", &["field 5 (dtype) is `float16`", "half bfloat16 float double"]),
        ("m@1@0@ff@half@tag", &["field 6 (tag) is `tag`", "write `tag%value`, or a layer id in digits"]),
        ("m@1@0@ff@half@03", &["field 6 (layer id) is `03`; write `3`"]),
        ("m@1@0@ff@half@3@tag", &["field 7 (tag) is `tag`"]),
        (" m@1@0@ff@half", &["starts or ends with a space", "write `m@1@0@ff@half`"]),
        ("m@01050805@0@f", &["field 4 (chunk hash) is `f`", "two hex digits each"]),
        ("m@01050805@00@ff", &["field 3 (object group) is `00`; write `0`"]),
        ("m@01050805@0@ff@a/b", &["field 5 (salt)", "must not hold '/'"]),
    ] {
        assert_is(&text.parse::<CacheKey>().unwrap_err(), ErrorKind::InvalidKey, parts);
    }
}

#[tokio::test]
async fn a_key_that_the_store_cannot_name_is_refused_by_every_operation_with_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_fs(folder.path()).await;
    let key: CacheKey = format!("{}@1@0@ff@half", "m".repeat(300)).parse().unwrap();
    let chunk = MemoryObj::from(b"chunk".to_vec());
    let errors = [
        store.put(&key, chunk).await.unwrap_err(),
        store.get(&key).await.unwrap_err(),
        store.exists(&key).await.unwrap_err(),
        store.remove(&key).await.unwrap_err(),
    ];
    for e in errors {
        assert_is(&e, ErrorKind::InvalidKey, &["kvconn.fs/FSConnector", "317 bytes", "at most 255"]);
    }
}

#[tokio::test]
async fn a_base_path_that_cannot_be_made_is_refused_with_the_path_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "no directory").unwrap();
    let below = file.join("kv");
    for url in [
        format!("fs://{}", below.display()),
        format!("fs://{},{}", folder.path().display(), below.display()),
        format!("external://h:0/kvconn.fs/?connector_name=FSConnector&base_path={}", below.display()),
    ] {
        let e = connectors::open(&url).await.unwrap_err();
        let path = format!("cannot create the base path `{}`", below.display());
        assert_is(&e, ErrorKind::Io, &["open (kvconn.fs/FSConnector)", &path, "not a directory"]);
        assert!(!e.is_temporary() && e.source().is_some());
    }
}

#[tokio::test]
async fn a_temporary_directory_outside_the_base_path_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for dir in ["/tmp", "../tmp", "a/../../tmp"] {
        let url = format!("fs://{}?relative_tmp_dir={dir}", folder.path().display());
        let e = connectors::open(&url).await.unwrap_err();
        assert_is(&e, ErrorKind::InvalidOption, &["`relative_tmp_dir`", dir, "write a relative path without `..`"]);
    }
}

#[tokio::test]
async fn a_closed_connector_refuses_every_operation_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["memory://closed".to_owned(), format!("fs://{}", folder.path().display())] {
        let store = connectors::open(&url).await.unwrap();
        let (key, chunk) = (any_key(), MemoryObj::from(b"chunk".to_vec()));
        store.put(&key, chunk.clone()).await.unwrap();
        store.close().await.unwrap();
        store.close().await.expect("closing twice is no error");
        assert!(store.is_closed());

        let keys = [key.clone(), key.clone()];
        let mut dst = MemoryObjMut::zeroed(8);
        let mut into = [(key.clone(), MemoryObjMut::zeroed(8))];
        let mut errors = vec![
            ("exists", store.exists(&key).await.unwrap_err()),
            ("get", store.get(&key).await.unwrap_err()),
            ("put", store.put(&key, chunk.clone()).await.unwrap_err()),
            ("get_into", store.get_into(&key, &mut dst).await.unwrap_err()),
            ("remove", store.remove(&key).await.unwrap_err()),
            ("ping", store.ping().await.unwrap_err()),
            ("batched_contains", store.batched_contains(&keys).await.unwrap_err()),
            ("list", first_of_list(&store).await.unwrap_err()),
        ];
        let batches = [
            ("batched_exists", errors_of(store.batched_exists(&keys).await), 2),
            ("batched_get", errors_of(store.batched_get(&keys).await), 2),
            ("batched_get_into", errors_of(store.batched_get_into(&mut into).await), 1),
            ("batched_put", errors_of(store.batched_put(&[(key.clone(), chunk)]).await), 1),
            ("batched_remove", errors_of(store.batched_remove(&keys).await), 2),
        ];
        for (operation, answers, expected) in batches {
            assert_eq!(answers.len(), expected, "{operation} answers every key");
            errors.extend(answers.into_iter().map(|e| (operation, e)));
        }
        for (operation, e) in errors {
            assert_is(&e, ErrorKind::Closed, &[operation, "Connector", "was closed"]);
            assert_eq!(e.operation(), Some(operation));
        }
        assert!(!dst.is_taken() && !into[0].1.is_taken(), "the caller keeps its memory");
    }
}

#[tokio::test]
async fn a_clone_of_a_closed_connector_is_closed_and_another_opened_by_the_same_url_is_not() {
    let store = connectors::open("memory://shared").await.unwrap();
    let (clone, other) = (store.clone(), connectors::open("memory://shared").await.unwrap());
    store.close().await.unwrap();
    assert_eq!(clone.exists(&any_key()).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!other.exists(&any_key()).await.unwrap());
}

#[tokio::test]
async fn what_a_connector_does_not_have_is_unsupported_by_name() {
    let store = connectors::open("strict://h:0").await.unwrap();
    let key = any_key();
    for (operation, e) in [
        ("remove", store.remove(&key).await.unwrap_err()),
        ("ping", store.ping().await.unwrap_err()),
        ("list", first_of_list(&store).await.unwrap_err()),
    ] {
        let cannot = format!("this connector cannot `{operation}`");
        assert_is(&e, ErrorKind::Unsupported, &["tests.strict/StrictConnector", &cannot]);
    }
    let capabilities = store.capabilities();
    assert!(!capabilities.remove && !capabilities.list && !capabilities.ping, "it was told before");
}

#[tokio::test]
async fn a_full_pool_is_an_error_with_the_sizes_and_is_over_when_memory_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (key_number(1), key_number(2));
    let writer = open_fs(folder.path()).await;
    writer.put(&small, MemoryObj::from(vec![1; 8192])).await.unwrap();
    writer.put(&large, MemoryObj::from(vec![2; 20_000])).await.unwrap();

    let url = format!("fs://{}", folder.path().display());
    let pool = LocalCpuBackend::with_capacity(12_288);
    let store = connectors::builder(&url).local_cpu_backend(pool).open().await.unwrap();

    let e = store.get(&large).await.unwrap_err();
    assert_is(&e, ErrorKind::OutOfMemory, &["get", "larger than the whole pool of 12288 bytes", "max_local_cpu_size"]);
    assert_eq!(e.key(), Some(large.as_str()));
    assert!(!e.is_temporary(), "waiting does not help");

    let held = store.get(&small).await.unwrap().unwrap();
    let e = store.get(&small).await.unwrap_err();
    assert_is(&e, ErrorKind::OutOfMemory, &["8192 bytes", "4096 of the pool's 12288 bytes are free"]);
    assert!(e.is_temporary(), "somebody may drop a chunk");

    drop(held);
    assert_eq!(store.get(&small).await.unwrap().as_deref(), Some(&[1; 8192][..]));
}

#[tokio::test]
async fn a_chunk_larger_than_the_whole_store_is_refused_with_both_sizes() {
    let store = connectors::open("memory://?capacity=10").await.unwrap();
    let e = store.put(&any_key(), MemoryObj::from(vec![0; 11])).await.unwrap_err();
    assert_is(
        &e,
        ErrorKind::OutOfMemory,
        &["put (kvconn.memory/MemoryConnector)", "11 bytes", "10 bytes", "`capacity`"],
    );
    assert!(!store.exists(&any_key()).await.unwrap());
}

#[tokio::test]
async fn memory_that_is_too_small_is_an_error_with_both_sizes_and_stays_the_callers() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["memory://small".to_owned(), format!("fs://{}", folder.path().display())] {
        let store = connectors::open(&url).await.unwrap();
        store.put(&any_key(), MemoryObj::from(vec![7; 100])).await.unwrap();
        let mut dst = MemoryObjMut::zeroed(99);
        let e = store.get_into(&any_key(), &mut dst).await.unwrap_err();
        assert_is(&e, ErrorKind::SizeMismatch, &["get_into", "100 bytes", "99 bytes"]);
        assert_eq!((dst.is_taken(), dst.capacity()), (false, 99));

        let mut enough = MemoryObjMut::zeroed(101);
        assert_eq!(store.get_into(&any_key(), &mut enough).await.unwrap(), Some(100));
        assert_eq!(&enough[..], [7; 100]);
    }
}

#[tokio::test]
async fn memory_that_is_lent_elsewhere_is_refused() {
    let store = connectors::open("memory://taken").await.unwrap();
    let mut dst = MemoryObjMut::zeroed(8);
    let _elsewhere = dst.take();
    let e = store.get_into(&any_key(), &mut dst).await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["get_into"]);
}

#[tokio::test]
async fn a_plugin_that_the_configuration_does_not_describe_is_refused_with_the_key_to_set() {
    use ErrorKind::{InvalidOption, InvalidUrl, NotFound};
    let table = [
        (
            json!({}),
            "plugin://mine",
            InvalidOption,
            vec!["does not say what plugin `mine` is", "set `remote_storage_plugin.mine.url`", "`.module_path`"],
        ),
        (
            json!({"remote_storage_plugin.main.url": "memory://a"}),
            "plugin://mian",
            InvalidOption,
            vec!["plugin `mian`", "did you mean `main`?"],
        ),
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
            vec!["extra_config key `remote_storage_plugin.mine.module_path` is not a text"],
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

#[tokio::test]
async fn an_option_of_the_wrong_type_is_refused_with_its_place_its_type_and_its_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let fs = format!("fs://{}", folder.path().display());
    let table = [
        (
            json!({}),
            "memory://?capacity=lots".to_owned(),
            vec!["option `capacity` in the URL", "lots", "it takes an integer"],
        ),
        (json!({}), "memory://?capacity=-1".to_owned(), vec!["option `capacity` in the URL", "-1"]),
        (json!({}), "memory://?capacity=1.5".to_owned(), vec!["option `capacity` in the URL", "1.5"]),
        (json!({}), "strict://h:0?connections=256".to_owned(), vec!["option `connections` in the URL", "256"]),
        (
            json!({"memory_connector_capacity": "lots"}),
            "memory://".to_owned(),
            vec!["in extra_config key `memory_connector_capacity`", "lots", "it takes an integer: Most bytes"],
        ),
        (
            json!({"remote_storage_plugin.memory.capacity": [1]}),
            "plugin://memory".to_owned(),
            vec!["in extra_config key `remote_storage_plugin.memory.capacity`", "it takes an integer"],
        ),
        (
            json!({}),
            format!("{fs}?save_chunk_meta=perhaps"),
            vec!["`save_chunk_meta` in the URL", "it takes a boolean"],
        ),
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
async fn a_secret_option_of_the_wrong_type_is_refused_without_its_value() {
    let e = connectors::open("strict://h:0?password=hunter2").await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidOption, &["option `password` in the URL", "it takes an integer"]);
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
    // LMCache's extra_config is shared by all its parts: what another one reads is not this connector's business.
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

#[tokio::test]
async fn a_file_that_is_no_whole_chunk_is_corrupt_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (store, key) = (open_fs(folder.path()).await, any_key());
    let file = folder.path().join(connectors::fs::layout::file_name(&key).unwrap());
    store.put(&key, MemoryObj::from(vec![7; 100])).await.unwrap();
    let whole = std::fs::read(&file).unwrap();

    let with = |at: usize, word: i32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    for (bytes, why) in [
        (Vec::new(), "0 bytes are too few"),
        (whole[..27].to_vec(), "27 bytes are too few"),
        (whole[..whole.len() - 1].to_vec(), "speaks of a chunk of 100 bytes"),
        ([&whole[..], b"x"].concat(), "speaks of a chunk of 100 bytes"),
        (with(0, -1), "chunk of -1 bytes"),
        (with(4, 77), "unknown format 77"),
        (with(8, 77), "unknown dtype 77"),
        (with(12, -7), "negative dimension -7"),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        let e = store.get(&key).await.unwrap_err();
        assert_is(&e, ErrorKind::Corrupt, &["get (kvconn.fs/FSConnector)", &file.display().to_string(), why]);
        assert_eq!(e.key(), Some(key.as_str()));
        let mut dst = MemoryObjMut::zeroed(200);
        let e = store.get_into(&key, &mut dst).await.unwrap_err();
        assert_is(&e, ErrorKind::Corrupt, &["get_into", why]);
        assert!(!dst.is_taken());
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(store.get(&key).await.unwrap().as_deref(), Some(&[7; 100][..]), "the store goes on");
}

#[tokio::test]
async fn a_chunk_that_get_could_not_give_back_is_refused_by_put() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("fs://{}", folder.path().display());
    let store = open_fs(folder.path()).await;
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 1, 4, 8]).unwrap(), Dtype::Int8).unwrap();
    let int8 = MemoryObj::from_vec(vec![0; layout.len], layout).unwrap();
    let e = store.put(&any_key(), int8.clone()).await.unwrap_err();
    assert_is(&e, ErrorKind::Unsupported, &["no code for int8", "float16", "save_chunk_meta: false"]);
    assert!(!store.exists(&any_key()).await.unwrap());

    let metadata = LMCacheMetadata::from_kv_shape("m", 1, 0, [1, 2, 4, 2, 4], Dtype::Bfloat16).unwrap();
    let raw = connectors::builder(&format!("{url}?save_chunk_meta=false")).metadata(metadata).open().await.unwrap();
    let e = raw.put(&any_key(), MemoryObj::from(vec![0; 33])).await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["33 bytes", "one token has 32 bytes", "a full chunk 128"]);
    raw.put(&any_key(), int8).await.expect("a raw file of two tokens");
}

#[test]
fn opening_outside_a_runtime_is_an_error_that_says_so() {
    let e = connectors::builder("memory://a").build().unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["needs a tokio runtime", "`#[tokio::main]`", "`.handle(..)`"]);
}

fn config(extra: &serde_json::Value) -> LMCacheEngineConfig {
    let extra = extra.as_object().unwrap().clone();
    extra.into_iter().fold(LMCacheEngineConfig::default(), |config, (key, value)| config.with_extra_config(key, value))
}

fn any_key() -> CacheKey {
    key_number(0)
}

fn key_number(n: u64) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@bfloat16").parse().unwrap()
}

async fn open_fs(folder: &Path) -> Connector {
    connectors::open(&format!("fs://{}", folder.display())).await.unwrap()
}

async fn first_of_list(store: &Connector) -> Result<CacheKey> {
    let mut list = store.list("");
    let first = std::future::poll_fn(|cx| list.as_mut().poll_next(cx)).await;
    first.expect("the list has an item")
}

fn errors_of<T>(answers: Vec<Result<T>>) -> Vec<Error> {
    answers.into_iter().map(|answer| answer.err().expect("a closed connector answers nothing")).collect()
}
