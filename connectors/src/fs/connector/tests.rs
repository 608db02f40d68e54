use connector_core::PoolAllocator;
use tokio::runtime::Handle;

use super::*;

fn files(dir: &std::path::Path) -> Files {
    let store = connector_core::builder(&format!("fs://{}", dir.display()));
    Files::of(&store.build().unwrap()).unwrap()
}

fn on(dir: &std::path::Path, cache: Cache, pool: &PoolAllocator) -> FSConnector {
    let files = Files { cache, read_ahead_size: Some(1 << 20), ..files(dir) };
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    FSConnector::new(files, backend, Threads::new(Handle::current()))
}

/// Drops the file from the page cache, so that a read has to wait.
fn forget(path: &std::path::Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn reads_are_right_with_every_kind_of_cache_warm_and_cold() {
    let pool = PoolAllocator::new(64 << 20);
    let key: CacheKey = "org/m@1@0@1@half".parse().unwrap();
    let missing: CacheKey = "org/m@1@0@2@half".parse().unwrap();
    let bytes: Vec<u8> = (0..(3 << 20) + 77_u32).map(|i| (i % 251) as u8).collect();
    for cache in [Cache::Never, Cache::NoWait, Cache::Memory] {
        let dir = tempfile::tempdir().unwrap();
        let connector = on(dir.path(), cache, &pool);
        connector.put(&key, MemoryObj::from(bytes.clone())).await.unwrap();
        for cold in [false, true] {
            if cold {
                forget(&dir.path().join(layout::file_name(&key).unwrap()));
            }
            assert!(connector.exists(&key).await.unwrap() && !connector.exists(&missing).await.unwrap());
            assert_eq!(connector.get(&key).await.unwrap().as_deref(), Some(&bytes[..]), "{cache:?}, cold: {cold}");
            assert_eq!(connector.get(&missing).await.unwrap(), None);
            if cold {
                forget(&dir.path().join(layout::file_name(&key).unwrap()));
            }
            let mut memory = MemoryObjMut::zeroed(bytes.len() + 1);
            assert_eq!(connector.get_into(&key, &mut memory).await.unwrap(), Some(bytes.len()));
            assert_eq!(&*memory, &bytes[..], "{cache:?}, cold: {cold}");
        }
    }
    assert_eq!(pool.stats().in_use, 0);
}

#[tokio::test]
async fn the_file_systems_longest_name_limits_the_keys() {
    let pool = PoolAllocator::new(1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let mut connector = on(dir.path(), Cache::Never, &pool);
    // eCryptfs.
    let files = Files { name_max: 143, ..files(dir.path()) };
    connector.files = Arc::new(files);
    assert_eq!(connector.capabilities().max_key_bytes, Some(138));
    let key = |len: usize| -> CacheKey { format!("{}@1@0@1@half", "m".repeat(len - 11)).parse().unwrap() };
    for refused in [
        connector.put(&key(139), MemoryObj::from(vec![1])).await.map(|()| false),
        connector.exists(&key(139)).await,
        connector.remove(&key(139)).await,
    ] {
        let e = refused.unwrap_err();
        assert!(e.to_string().contains("144 bytes") && e.to_string().contains("at most 143"), "{e}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    connector.put(&key(138), MemoryObj::from(vec![1])).await.unwrap();
}

#[tokio::test]
async fn batches_are_right_with_every_kind_of_cache_warm_and_cold() {
    let pool = PoolAllocator::new(64 << 20);
    let key = |n: usize| -> CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
    let keys: Vec<CacheKey> = (0..12).map(key).collect();
    // Every fourth key has no chunk. Of the others, the last one is not small.
    let len = |n: usize| if n == 11 { (1 << 20) + 7 } else { 300 + n };
    let bytes = |n: usize| vec![n as u8 + 1; len(n)];
    let stored: Vec<usize> = (0..12).filter(|n| n % 4 != 2).collect();
    for (cache, with_header) in
        [Cache::Never, Cache::NoWait, Cache::Memory].into_iter().flat_map(|cache| [(cache, true), (cache, false)])
    {
        let dir = tempfile::tempdir().unwrap();
        let mut connector = on(dir.path(), cache, &pool);
        connector.files = Arc::new(Files { cache, with_header, ..files(dir.path()) });
        let items: Vec<_> = stored.iter().map(|n| (keys[*n].clone(), MemoryObj::from(bytes(*n)))).collect();
        connector.batched_put(&items).await.into_iter().collect::<Result<()>>().unwrap();
        for cold in [None, Some(0), Some(4)] {
            let forget = || {
                cold.into_iter().for_each(|n| forget(&dir.path().join(layout::file_name(&keys[n]).unwrap())));
            };
            forget();
            let there: Vec<bool> = connector.batched_exists(&keys).await.into_iter().map(Result::unwrap).collect();
            assert!(there.iter().enumerate().all(|(n, there)| *there == stored.contains(&n)), "{there:?}");
            assert_eq!(connector.batched_contains(&keys).await.unwrap(), 2);
            forget();
            let found = connector.batched_get(&keys).await;
            for (n, found) in found.into_iter().enumerate() {
                let wanted = stored.contains(&n).then(|| bytes(n));
                assert_eq!(found.unwrap().as_deref(), wanted.as_deref(), "{n}: {cache:?}, {cold:?}");
            }
            forget();
            let memory = |n: usize| MemoryObjMut::zeroed(len(n));
            let mut requests: Vec<_> = keys.iter().enumerate().map(|(n, key)| (key.clone(), memory(n))).collect();
            // The last one is too large for the caller's thread.
            assert_eq!(connector.batched_get_into(&mut requests[..11]).await.len(), 11);
            forget();
            let read = connector.batched_get_into(&mut requests).await;
            for (n, (read, (_, memory))) in read.into_iter().zip(&requests).enumerate() {
                let wanted = stored.contains(&n).then(|| len(n));
                assert_eq!(read.unwrap(), wanted, "{n}: {cache:?}, {cold:?}");
                assert!(wanted.is_none() || **memory == bytes(n)[..]);
            }
        }
    }
    assert_eq!(pool.stats().in_use, 0);
}
