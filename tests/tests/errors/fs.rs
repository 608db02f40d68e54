//! Unusable directories, damaged files, and chunks that the format cannot hold.

use super::*;

#[tokio::test]
async fn a_base_path_that_cannot_be_created_is_refused_with_the_path_and_the_reason() {
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
async fn a_damaged_file_is_corrupt_and_the_error_names_it() {
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
        (whole[..whole.len() - 1].to_vec(), "its header describes a chunk of 100 bytes"),
        ([&whole[..], b"x"].concat(), "its header describes a chunk of 100 bytes"),
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
    assert_eq!(store.get(&key).await.unwrap().as_deref(), Some(&[7; 100][..]), "the store still works");
}

#[tokio::test]
async fn put_refuses_a_chunk_that_get_could_not_return() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("fs://{}", folder.path().display());
    let store = open_fs(folder.path()).await;
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 1, 4, 8]).unwrap(), Dtype::Int8).unwrap();
    let int8 = MemoryObj::from_vec(vec![0; layout.len], layout).unwrap();
    let e = store.put(&any_key(), int8.clone()).await.unwrap_err();
    assert_is(&e, ErrorKind::Unsupported, &["no code for int8", "float16", "save_chunk_meta: false"]);
    assert!(!store.exists(&any_key()).await.unwrap());

    let group = LayerGroup { kv_size: 2, num_layers: 1, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = LMCacheMetadata::new("m", 1, 0, 4, &[group]).unwrap();
    let raw = connectors::builder(&format!("{url}?save_chunk_meta=false")).metadata(metadata).open().await.unwrap();
    let e = raw.put(&any_key(), MemoryObj::from(vec![0; 33])).await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["33 bytes", "one token has 32 bytes", "a full chunk 128"]);
    raw.put(&any_key(), int8).await.expect("a raw file of two tokens");
}
