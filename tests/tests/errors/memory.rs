//! Memory that is full, too small or taken.

use super::*;

#[tokio::test]
async fn a_full_pool_is_an_error_with_the_sizes_until_memory_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (key_number(1), key_number(2));
    let writer = open_fs(folder.path()).await;
    writer.put(&small, MemoryObj::from(vec![1; 8192])).await.unwrap();
    writer.put(&large, MemoryObj::from(vec![2; 20_000])).await.unwrap();

    let url = format!("fs://{}", folder.path().display());
    let pool = LocalCpuBackend::with_capacity(12_288);
    let store = connectors::builder(&url).local_cpu_backend(pool).open().await.unwrap();

    let e = store.get(&large).await.unwrap_err();
    assert_is(&e, ErrorKind::TooLarge, &["get", "larger than the whole pool of 12288 bytes", "max_local_cpu_size"]);
    assert_eq!(e.key(), Some(large.as_str()));
    assert!(!e.is_temporary(), "waiting does not help");

    let held = store.get(&small).await.unwrap().unwrap();
    let e = store.get(&small).await.unwrap_err();
    assert_is(&e, ErrorKind::PoolFull, &["8192 bytes", "4096 of the pool's 12288 bytes are free"]);
    assert!(e.is_temporary(), "a caller may drop a chunk");

    drop(held);
    assert_eq!(store.get(&small).await.unwrap().as_deref(), Some(&[1; 8192][..]));
}

#[tokio::test]
async fn a_chunk_larger_than_the_whole_store_is_refused_with_both_sizes() {
    let store = connectors::open("memory://?capacity=10").await.unwrap();
    let e = store.put(&any_key(), MemoryObj::from(vec![0; 11])).await.unwrap_err();
    assert_is(&e, ErrorKind::TooLarge, &["put (kvconn.memory/MemoryConnector)", "11 bytes", "10 bytes", "`capacity`"]);

    let back = "tiered://?mode=write_back&front=memory://&back=memory://x?capacity%3D10";
    let store = connectors::open(back).await.unwrap();
    let chunk = MemoryObj::from(vec![1; 4096]);
    let e = store.put(&any_key(), chunk).await.unwrap_err();
    assert_is(&e, ErrorKind::TooLarge, &["4096 bytes", "the `capacity` of `back`", "capacity=10"]);
    assert!(!store.exists(&any_key()).await.unwrap());
}

#[tokio::test]
async fn memory_that_is_too_small_is_an_error_with_both_sizes_and_the_caller_keeps_it() {
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
async fn memory_that_was_taken_is_refused() {
    let store = connectors::open("memory://taken").await.unwrap();
    let mut dst = MemoryObjMut::zeroed(8);
    let _taken = dst.take();
    let e = store.get_into(&any_key(), &mut dst).await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["get_into"]);
}
