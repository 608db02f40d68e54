//! How many calls a default batch runs at once.

use std::time::Duration;

use connector_core::{CacheKey, Capabilities, Connector, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result};

use crate::scripted::{Scripted, Step};

/// A store that only says how many calls a batch may run.
struct Limited(Scripted, Capabilities);

impl RemoteConnector for Limited {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }
    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.0.remove(key).await
    }
    fn capabilities(&self) -> Capabilities {
        self.1.clone()
    }
}

#[tokio::test]
async fn a_prefix_ends_before_a_chunk_that_is_corrupt_and_the_first_keys_error_is_the_answer() {
    let (found, corrupt) = (Step::Wait(Duration::ZERO), Step::Fail(ErrorKind::Corrupt, false));
    let keys: Vec<CacheKey> = (1..=4).map(|i| format!("m@1@0@{i:x}@half").parse().unwrap()).collect();
    // Four answers of `exists`, and then those of `get`.
    for (at, expected) in [(6, Some(2)), (5, Some(1)), (4, None), (2, Some(2)), (0, None)] {
        let store = Scripted::new((0..at).map(|_| found).chain([corrupt]));
        let connector = Connector::new("test", Limited(store, Capabilities::new().with_batch_concurrency(1)));
        let answer = connector.get_prefix(&keys).await;
        assert_eq!(answer.as_ref().ok().map(Vec::len), expected, "step {at}");
        assert!(answer.err().is_none_or(|e| {
            (e.kind(), e.operation(), e.key()) == (ErrorKind::Corrupt, Some("get_prefix"), Some(keys[0].as_str()))
        }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_default_batch_runs_as_many_calls_at_once_as_the_capability_says() {
    let keys: Vec<CacheKey> = (1..=40).map(|i| format!("m@1@0@{i:x}@half").parse().unwrap()).collect();
    let limit = |calls| Capabilities::new().with_batch_concurrency(calls);
    for (capabilities, at_once) in [(Capabilities::new(), 8), (limit(3), 3), (limit(32), 32), (limit(0), 1)] {
        for operation in ["exists", "get", "get_into", "put", "remove"] {
            let store = Scripted::new([Step::Wait(Duration::from_secs(1)); 40]);
            let connector = Connector::new("test", Limited(store.clone(), capabilities.clone()));
            let answers = match operation {
                "exists" => connector.batched_exists(&keys).await.len(),
                "get" => connector.batched_get(&keys).await.len(),
                "get_into" => {
                    let mut requests: Vec<_> = keys.iter().map(|k| (k.clone(), MemoryObjMut::zeroed(8))).collect();
                    connector.batched_get_into(&mut requests).await.len()
                }
                "put" => {
                    let items: Vec<_> = keys.iter().map(|k| (k.clone(), MemoryObj::from(vec![1]))).collect();
                    connector.batched_put(&items).await.len()
                }
                _ => connector.batched_remove(&keys).await.len(),
            };
            assert_eq!((answers, store.most()), (40, at_once), "{operation}");
        }
    }
}
