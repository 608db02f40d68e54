//! Checks every row of the golden vectors, which the real LMCache wrote.
//!
//! No test reads `lm_messages.json` until kvconn has an `lm` store.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use connector_core::chunk::Groups;
use connector_core::key::ChunkHash;
use connector_core::{
    CacheEngineKey, CacheKey, ChunkHeader, ChunkLayout, Dtype, ErrorKind, Group, KeyKind, LayerCacheEngineKey,
    MemoryFormat, MemoryObj, ObjectKey, RemoteUrl, Shape,
};
use connectors::fs::layout::{file_name, key_of_file, object_key_of_file};
use connectors::redis::layout::{key_of_kv_bytes, kv_bytes_name, metadata_name};
use kvconn_redis_server::RedisServer;
use kvconn_tests::{assert_says, hex, number, rows, text, vectors};
use serde_json::{Value, json};

#[test]
fn keys_made_from_parts_have_lmcaches_text() {
    for row in rows(&vectors("cache_keys"), "format") {
        let hash: ChunkHash = text(&row, "chunk_hash_hex").parse().unwrap();
        let dtype = Dtype::from_key_name(text(&row, "dtype")).unwrap();
        let (world_size, worker_id) = (number(&row, "world_size"), number(&row, "worker_id"));
        let mut key = CacheEngineKey::new(text(&row, "model_name"), world_size, worker_id, hash, dtype).unwrap();
        for (name, value) in tags(&row) {
            key = key.with_tag(name, value).unwrap();
        }
        let key = match text(&row, "kind") {
            "layer" => CacheKey::from(LayerCacheEngineKey { key, layer_id: number(&row, "layer_id") }),
            _ => CacheKey::from(key),
        };
        assert_eq!((key.as_str(), key.kind()), (text(&row, "text"), KeyKind::Engine));
    }
}

#[test]
fn keys_read_from_text_have_lmcaches_parts() {
    for row in rows(&vectors("cache_keys"), "parse") {
        let key: CacheKey = text(&row, "text").parse().unwrap();
        let (parts, layer_id) = parts(&key);
        assert_eq!(key.as_str(), text(&row, "text"), "the text is the key's identity");
        assert_eq!(key.kind(), KeyKind::Engine, "{key}");
        assert_eq!(key.layer_id(), layer_id);
        assert_eq!(parts.model_name(), text(&row, "model_name"), "{key}");
        assert_eq!((parts.world_size(), parts.worker_id()), (number(&row, "world_size"), number(&row, "worker_id")));
        assert_eq!(parts.dtype().key_name(), text(&row, "dtype"), "{key}");
        let read = parts.tags().unwrap().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read.collect::<Vec<_>>(), tags(&row), "{key}");
        assert_eq!(layer_id, row.get("layer_id").map(|_| number(&row, "layer_id")), "{key}");
        // LMCache's parser turns the hash into a number and loses the leading zeros of a bytes hash. kvconn keeps them.
        assert_eq!(without_zeros(parts.chunk_hash().as_str()), text(&row, "chunk_hash_hex"), "{key}");
    }
}

/// LMCache writes these texts and does not split them on the way to a store, so each is a key. kvconn gives a field
/// only where no other reading is possible.
#[test]
fn keys_with_an_at_sign_are_accepted_and_never_misread() {
    let (mut unique, mut several) = (0, 0);
    for row in rows(&vectors("keys_with_at"), "keys") {
        let written = text(&row, "text");
        let key = CacheKey::parse(written, KeyKind::Engine).unwrap();
        assert_eq!((key.as_str(), key.kind()), (written, KeyKind::Engine));
        // The first field of digits after the dtype is a layer id, also if LMCache wrote a tag whose name starts so.
        let layer_id = row["layer_id"].as_u64().or(written.contains("@half@7@").then_some(7));
        match key.model_name() {
            Some(model) => {
                assert_eq!(
                    (model, key.chunk_hash_hex()),
                    (text(&row, "model_name"), Some(text(&row, "chunk_hash_hex")))
                );
                assert_eq!(key.layer_id().map(u64::from), layer_id, "{key}");
                unique += 1;
            }
            None => {
                assert_eq!((key.chunk_hash_hex(), key.layer_id()), (None, None), "{key}");
                several += 1;
            }
        }
        if !row["parsed"].is_null() {
            let (read, layer_id) = parts(&key);
            let tags: Vec<_> = read.tags().unwrap().into_iter().map(|(name, value)| json!([name, value])).collect();
            assert_eq!(json!(read.model_name()), row["parsed"]["model_name"], "{key}");
            assert_eq!(
                (json!(layer_id), json!(tags)),
                (row["parsed"]["layer_id"].clone(), row["parsed"]["tags"].clone())
            );
        }
        // A model whose name contains the fields of a key is the one that may get another base path.
        if !text(&row, "model_name").contains("@1@0@ff@half") {
            assert_eq!(key.hash_modulo(1000), number::<usize>(&row, "path_index"), "{key}");
        }
        if let Ok(file) = file_name(&key) {
            assert_eq!(key_of_file(&file).unwrap().kind(), KeyKind::Engine);
            assert_eq!(key_of_file(&file), Some(key));
        }
    }
    assert!(unique > 250 && several > 50, "{unique} and {several}");
}

#[test]
fn texts_that_lmcache_cannot_read_are_refused_by_name() {
    for row in rows(&vectors("cache_keys"), "parse_odd") {
        assert_eq!(row["ok"], json!(false), "a new kind of row: {row}");
        let e = text(&row, "text").parse::<CacheKey>().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidKey);
        assert_says(&e.to_string(), &[&format!("`{}` is not a key: ", text(&row, "text"))]);
    }
}

#[test]
fn object_keys_and_their_files_have_lmcaches_names() {
    for row in rows(&vectors("object_keys"), "keys") {
        let key = object_key(&row);
        assert_eq!(key.to_string(), text(&row, "text"));
        let any = CacheKey::from(key.clone());
        assert_eq!(any.as_str(), text(&row, "text"));
        assert_eq!(CacheKey::parse(text(&row, "text"), KeyKind::Object).unwrap(), any);
        assert_eq!(any.as_str().parse().ok(), Some(key.clone()));
        assert_eq!(file_name(&any).unwrap(), text(&row, "l2_file_name"));
        assert_eq!(key_of_file(text(&row, "l2_file_name")), Some(any));
        assert_eq!(object_key_of_file(text(&row, "l2_file_name")), Some(key));
    }
}

#[test]
fn names_of_multiprocess_files_are_read_as_lmcache_reads_them() {
    for row in rows(&vectors("object_keys"), "from_file_name") {
        let expected = (!row["key"].is_null()).then(|| object_key(&row["key"]));
        assert_eq!(object_key_of_file(text(&row, "l2_file_name")), expected, "{row}");
    }
}

#[test]
fn files_of_keys_have_lmcaches_names() {
    for row in rows(&vectors("storage_names"), "names") {
        let key: CacheKey = text(&row, "key").parse().unwrap();
        assert_eq!(file_name(&key).unwrap(), text(&row, "fs_file_name"));
        assert_eq!(key_of_file(text(&row, "fs_file_name")), Some(key));
    }
}

#[test]
fn values_of_keys_on_redis_have_lmcaches_names() {
    for row in rows(&vectors("storage_names"), "names") {
        let key: CacheKey = text(&row, "key").parse().unwrap();
        assert_eq!(kv_bytes_name(&key), text(&row, "redis_kv"));
        assert_eq!(metadata_name(&key), text(&row, "redis_metadata"));
        assert_eq!(key_of_kv_bytes(text(&row, "redis_kv").as_bytes()), Some(key));
    }
}

#[tokio::test]
async fn chunks_that_lmcache_wrote_to_redis_are_read_and_written_back_unchanged() {
    const MOST: usize = 1 << 20;
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("redis")).await.unwrap();
    let names = rows(&vectors("storage_names"), "names");
    let mut written_back = 0;
    for (row, name) in rows(&vectors("remote_metadata"), "records").iter().zip(names.iter().cycle()) {
        let key: CacheKey = text(name, "key").parse().unwrap();
        let (kv, metadata) = (text(name, "redis_kv"), text(name, "redis_metadata"));
        // The lengths in the vectors are not those of real chunks, so each chunk gets a small one.
        let mut header = hex(row, "hex");
        let layout = ChunkHeader::read(&header).unwrap();
        let by_groups = ChunkLayout::from_groups(layout.format, &layout.groups).ok().map(|layout| layout.len);
        let len = by_groups.filter(|len| *len <= MOST).unwrap_or(100 + header[0] as usize);
        header[..4].copy_from_slice(&i32::try_from(len).unwrap().to_le_bytes());
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 253) as u8).collect();
        server.cli(&[b"SET", kv.as_bytes(), &bytes]);
        server.cli(&[b"SET", metadata.as_bytes(), &header]);
        let chunk = store.get(&key).await.unwrap().expect("it is there");
        assert_eq!((chunk.layout(), &*chunk), (&ChunkLayout { len, ..layout }, &*bytes), "{row}");

        // A record whose length fits its shapes can also be written.
        if store.put(&key, chunk).await.is_ok() {
            assert_eq!(server.cli(&["GET", metadata]).bytes(), Some(&header[..]), "{row}");
            assert_eq!(server.cli(&["GET", kv]).bytes(), Some(&bytes[..]));
            written_back += 1;
        }
    }
    assert!(written_back > 0, "no record could be written back");
}

#[tokio::test]
async fn of_several_base_paths_a_chunk_goes_into_the_one_lmcache_picks() {
    for row in rows(&vectors("storage_names"), "names") {
        let key: CacheKey = text(&row, "key").parse().unwrap();
        for paths in [2, 3, 5] {
            // LMCache fails on a bytes hash, so the index in the vectors is null. kvconn may use any fixed index.
            let index = row["path_index"]
                .get(paths.to_string())
                .map_or(key.hash_modulo(paths), |i| usize::try_from(i.as_u64().unwrap()).unwrap());
            assert_eq!(key.hash_modulo(paths), index, "{key} of {paths} paths");

            let root = tempfile::tempdir().unwrap();
            let folders: Vec<_> = (0..paths).map(|n| root.path().join(n.to_string())).collect();
            let urls: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
            let store = connectors::open(&format!("fs://{}", urls.join(","))).await.unwrap();
            store.put(&key, MemoryObj::from(b"chunk".to_vec())).await.unwrap();
            let file = folders[index].join(text(&row, "fs_file_name"));
            assert!(file.is_file(), "{key} of {paths} paths is not {}", file.display());
        }
    }
}

#[test]
fn headers_number_dtypes_and_formats_as_lmcache_does() {
    let vectors = vectors("remote_metadata");
    let dtypes: BTreeMap<String, i32> = serde_json::from_value(vectors["dtype_codes"].clone()).unwrap();
    let ours = Dtype::ALL.into_iter().filter_map(|d| Some((d.torch_name().to_owned(), d.code()?)));
    assert_eq!(dtypes, ours.chain([("None".to_owned(), 0)]).collect());
    for (name, code) in dtypes {
        assert_eq!(Dtype::from_code(code).map_or("None", Dtype::torch_name), name);
    }
    assert_eq!(Dtype::from_code(1), Some(Dtype::Float16), "1 is LMCache's old number for half");

    let formats: BTreeMap<String, i32> = serde_json::from_value(vectors["format_codes"].clone()).unwrap();
    assert_eq!(formats, MemoryFormat::ALL.map(|f| (f.name().to_owned(), f.code())).into());
    for (name, code) in formats {
        assert_eq!(MemoryFormat::from_code(code).unwrap().name(), name);
    }
}

#[test]
fn headers_have_lmcaches_bytes_and_are_read_as_lmcache_reads_them() {
    for row in rows(&vectors("remote_metadata"), "records") {
        let format = MemoryFormat::from_code(number(&row, "fmt_code")).unwrap();
        assert_eq!(format.name(), text(&row, "fmt"));
        let len = number(&row, "length");
        let layout = layout_of(format, len, &row);
        assert_eq!(layout.groups.len(), number::<usize>(&row, "groups"));
        assert_eq!(ChunkHeader::new(&layout).unwrap().as_bytes(), hex(&row, "hex"), "{layout}");

        let back = ChunkHeader::read(&hex(&row, "hex")).unwrap();
        assert_eq!(back, layout_of(format, len, &row["back"]));
    }
}

#[tokio::test]
async fn files_that_lmcache_wrote_are_read() {
    for row in rows(&vectors("fs_files"), "files") {
        let folder = tempfile::tempdir().unwrap();
        let (key, bytes) = (any_key(), hex(&row, "file_hex"));
        std::fs::write(folder.path().join(file_name(&key).unwrap()), &bytes).unwrap();
        let store = open_fs(folder.path()).await;
        assert!(store.exists(&key).await.unwrap());
        let chunk = store.get(&key).await.unwrap().expect("the file is there");
        assert_eq!(chunk.layout(), &layout_of_file(&row));
        assert_eq!(&chunk[..], &bytes[ChunkHeader::len_for(1)..]);
    }
}

#[tokio::test]
async fn files_are_written_as_lmcache_writes_them() {
    for row in rows(&vectors("fs_files"), "files") {
        let folder = tempfile::tempdir().unwrap();
        let (key, bytes) = (any_key(), hex(&row, "file_hex"));
        let chunk = MemoryObj::from_vec(bytes[ChunkHeader::len_for(1)..].to_vec(), layout_of_file(&row)).unwrap();
        open_fs(folder.path()).await.put(&key, chunk).await.unwrap();
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files, [folder.path().join(file_name(&key).unwrap())], "one file and nothing else");
        assert_eq!(std::fs::read(&files[0]).unwrap(), bytes);
    }
}

#[test]
fn urls_are_read_as_lmcache_reads_them() {
    for row in rows(&vectors("remote_urls"), "urls") {
        let url = text(&row, "url");
        let parsed = RemoteUrl::parse(url);
        if row["ok"] == json!(false) {
            let required = parsed.and_then(|url| url.require_host_port().map(|_| ()));
            assert_eq!(required.unwrap_err().kind(), ErrorKind::InvalidUrl, "{url}");
            continue;
        }
        let parsed = parsed.unwrap();
        assert_eq!(parsed.require_host_port().unwrap(), (text(&row, "host"), number(&row, "port")), "{url}");
        assert_eq!(parsed.path(), text(&row, "path"), "{url}");
        assert_eq!(json!(parsed.username()), row["username"], "{url}");
        assert_eq!(json!(parsed.password()), row["password"], "{url}");
        let mut query = json!({});
        for (name, value) in parsed.query_pairs() {
            match &mut query[name] {
                Value::Array(values) => values.push(json!(value)),
                none => *none = json!([value]),
            }
        }
        assert_eq!(query, row["query"], "{url}");
    }
}

/// LMCache requires a host and port that its fs connector ignores, so it refuses `fs:///tmp/lmcache`.
#[tokio::test]
async fn a_plain_fs_url_that_lmcache_refuses_opens() {
    let folder = tempfile::tempdir().unwrap();
    let row = rows(&vectors("remote_urls"), "urls").into_iter().find(|r| r["url"] == "fs:///tmp/lmcache");
    assert_eq!(row.expect("the vectors have the row")["ok"], json!(false));
    connectors::open(&format!("fs://{}", folder.path().display())).await.unwrap().ping().await.unwrap();
}

/// kvconn's error for each URL that LMCache's external adapter refuses.
///
/// LMCache's `JSONDecoder must be a subclass of RemoteConnector` is a compile error in kvconn: see
/// `ui/no_remote_connector.rs`. For kvconn, a Python module is an unknown module.
const EXTERNAL_ERRORS: [(&str, ErrorKind, &str); 10] = [
    (
        "external://h:0/m/?connector_name=C,external://h2:0/m/?connector_name=C",
        ErrorKind::InvalidUrl,
        "only one host is supported for external connector",
    ),
    (
        "external://h1:0,h2:0/m/?connector_name=C",
        ErrorKind::InvalidUrl,
        "only one host is supported for external connector",
    ),
    (
        "external://h:0/no.such.module/?connector_name=C",
        ErrorKind::NotFound,
        "no connector has the module `no.such.module`",
    ),
    ("external://h:0/json/?connector_name=NoSuchClass", ErrorKind::NotFound, "no connector has the module `json`"),
    ("external://h:0/json/?connector_name=JSONDecoder", ErrorKind::NotFound, "no connector has the module `json`"),
    ("external://h:0/json/", ErrorKind::InvalidUrl, "has no `connector_name` in its query"),
    ("external://h:0/json/?connector_name=", ErrorKind::InvalidUrl, "has no `connector_name` in its query"),
    ("external://h:0/?connector_name=C", ErrorKind::InvalidUrl, "names no module"),
    ("external://h/json/?connector_name=C", ErrorKind::InvalidUrl, "has no port"),
    (
        "external://h:0/m/?connector_name=A,B",
        ErrorKind::InvalidUrl,
        "only one host is supported for external connector",
    ),
];

#[tokio::test]
async fn external_urls_that_lmcache_refuses_are_refused_with_the_same_meaning() {
    let rows = rows(&vectors("external_errors"), "cases");
    let urls: Vec<_> = rows.iter().map(|row| text(row, "url")).collect();
    assert_eq!(urls, EXTERNAL_ERRORS.map(|(url, ..)| url), "the table covers every row");
    for (url, kind, phrase) in EXTERNAL_ERRORS {
        let e = connectors::open(url).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{url}: {e}");
        assert_says(&e.to_string(), &[phrase]);
    }
}

fn tags(row: &Value) -> Vec<(String, String)> {
    serde_json::from_value(row["tags"].clone()).unwrap()
}

fn parts(key: &CacheKey) -> (CacheEngineKey, Option<u32>) {
    match key.as_str().parse::<LayerCacheEngineKey>() {
        Ok(layer) => (layer.key, Some(layer.layer_id)),
        Err(_) => (key.as_str().parse().unwrap(), None),
    }
}

fn without_zeros(hash: &str) -> String {
    let (sign, digits) = hash.strip_prefix('-').map_or(("", hash), |digits| ("-", digits));
    let digits = digits.trim_start_matches('0');
    format!("{sign}{}", if digits.is_empty() { "0" } else { digits })
}

fn object_key(row: &Value) -> ObjectKey {
    let rank = number(row, "kv_rank");
    let group = number(row, "object_group_id");
    ObjectKey::new(text(row, "model_name"), rank, group, hex(row, "chunk_hash_hex"), text(row, "cache_salt")).unwrap()
}

/// The layout with the `shapes` and `dtypes` of a row. `from_groups` would refuse records whose length does not fit their
/// shapes and dtypes. LMCache accepts those, and the length counts.
fn layout_of(format: MemoryFormat, len: usize, row: &Value) -> ChunkLayout {
    let shapes: Vec<Vec<usize>> = serde_json::from_value(row["shapes"].clone()).unwrap();
    let dtypes: Vec<String> = serde_json::from_value(row["dtypes"].clone()).unwrap();
    assert_eq!(shapes.len(), dtypes.len());
    let groups = shapes
        .iter()
        .zip(&dtypes)
        .map(|(shape, dtype)| Group { shape: Shape::new(shape).unwrap(), dtype: Some(dtype.parse().unwrap()) });
    ChunkLayout { format, groups: Groups::new(&groups.collect::<Vec<_>>()).unwrap(), len }
}

fn layout_of_file(row: &Value) -> ChunkLayout {
    let shape: Vec<usize> = serde_json::from_value(row["shape"].clone()).unwrap();
    let format: MemoryFormat = text(row, "fmt").parse().unwrap();
    ChunkLayout::new(format, Shape::new(&shape).unwrap(), text(row, "dtype").parse().unwrap()).unwrap()
}

fn any_key() -> CacheKey {
    "facebook/opt-125m@1@0@1f2e3d@bfloat16".parse().unwrap()
}

async fn open_fs(folder: &Path) -> connectors::Connector {
    connectors::open(&format!("fs://{}", folder.display())).await.unwrap()
}
