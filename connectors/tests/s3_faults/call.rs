//! The calls that a fault meets.

use connectors::{CacheKey, ChunkLayout, ErrorKind, MemoryObjMut, Result};
use futures::TryStreamExt;
use kvconn_cloud_servers::Fault;

use crate::checked::{key, version};
use crate::store::{LEN, Store};

/// A call of a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    GetInto,
    BatchedGet,
    Put,
    BatchedPut,
    Exists,
    BatchedExists,
    Remove,
    BatchedRemove,
    List,
    Ping,
}

/// How a call may end under a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// With the right answer.
    Right,
    /// With one of these errors.
    Fails(&'static [ErrorKind]),
    /// With the right answer or one of these errors.
    May(&'static [ErrorKind]),
}

impl Call {
    pub(crate) const ALL: [Self; 11] = [
        Self::Get,
        Self::GetInto,
        Self::BatchedGet,
        Self::Put,
        Self::BatchedPut,
        Self::Exists,
        Self::BatchedExists,
        Self::Remove,
        Self::BatchedRemove,
        Self::List,
        Self::Ping,
    ];

    /// The answer of the server has bytes of a chunk.
    pub(crate) fn reads_chunks(self) -> bool {
        matches!(self, Self::Get | Self::GetInto | Self::BatchedGet)
    }

    /// The request has bytes of a chunk.
    pub(crate) fn writes_chunks(self) -> bool {
        matches!(self, Self::Put | Self::BatchedPut)
    }

    /// The first answer of the server has no body (`HEAD`), so it has no code of an error.
    pub(crate) fn asks_by_head(self) -> bool {
        matches!(self, Self::Exists | Self::BatchedExists | Self::Remove | Self::BatchedRemove)
    }

    /// Makes the call for stored chunks of version 1 or later, beginning with `n`. A batch fails with its first error.
    ///
    /// # Panics
    /// If the answer is wrong.
    pub(crate) async fn make(self, store: &Store, n: u64) -> Result<()> {
        let numbers = [n, n + 1, n + 2];
        let keys: Vec<CacheKey> = numbers.iter().map(|&n| key(n)).collect();
        match self {
            Self::Get => assert!(store.get(n).await?.is_some(), "the chunk is there"),
            Self::GetInto => {
                let mut dst = memory(store);
                let len = store.connector.get_into(&keys[0], &mut dst).await?;
                assert_eq!(len, Some(LEN));
                version(n, &dst);
            }
            Self::BatchedGet => {
                let mut failed = Ok(());
                for (n, answer) in numbers.into_iter().zip(store.connector.batched_get(&keys).await) {
                    match answer {
                        Ok(chunk) => drop(version(n, &chunk.expect("the chunk is there"))),
                        Err(e) => failed = failed.and(Err(e)),
                    }
                }
                return failed;
            }
            Self::Put => return store.put(n, 2).await,
            Self::BatchedPut => {
                let chunks = numbers.map(|n| (key(n), store.chunk(n, 2, LEN)));
                return store.connector.batched_put(&chunks).await.into_iter().collect();
            }
            Self::Exists => assert!(store.connector.exists(&keys[0]).await?, "the chunk is there"),
            Self::BatchedExists => {
                let answers: Result<Vec<bool>> = store.connector.batched_exists(&keys).await.into_iter().collect();
                assert_eq!(answers?, [true; 3]);
            }
            // A fault may hide the answer of a removal that the server made, so `false` may be right.
            Self::Remove => drop(store.connector.remove(&keys[0]).await?),
            Self::BatchedRemove => {
                let answers: Result<Vec<bool>> = store.connector.batched_remove(&keys).await.into_iter().collect();
                answers?;
            }
            Self::List => {
                let listed: Vec<CacheKey> = store.connector.list("").try_collect().await?;
                assert!(keys.iter().all(|key| listed.contains(key)), "{listed:?}");
            }
            Self::Ping => return store.connector.ping().await,
        }
        Ok(())
    }
}

fn memory(store: &Store) -> MemoryObjMut {
    store.pool.allocate_now(&ChunkLayout::binary(LEN)).expect("the pool has room")
}

/// Makes each call while every request has the fault. Each ends as `end` says; then the store is right.
pub(crate) async fn each_call_under(store: &Store, fault: &Fault, end: impl Fn(Call) -> End) {
    let mut wrong = Vec::new();
    for (i, call) in Call::ALL.into_iter().enumerate() {
        let n = 100 * (i as u64 + 1);
        for n in n..n + 3 {
            store.put(n, 1).await.expect("a put without a fault");
        }
        store.fake.always(fault.clone());
        let answer = call.make(store, n).await;
        store.fake.clear_faults();
        let is_as_expected = match (end(call), &answer) {
            (End::Right | End::May(_), Ok(())) => true,
            (End::Right, Err(_)) | (End::Fails(_), Ok(())) => false,
            (End::Fails(kinds) | End::May(kinds), Err(e)) => kinds.contains(&e.kind()),
        };
        if !is_as_expected {
            wrong.push(format!("{call:?}: {answer:?}, expected {:?}", end(call)));
        }
        store.is_right().await;
        for n in n..n + 3 {
            // Old or new or, after a removal, nothing; and whole.
            store.get(n).await.expect("a get without a fault");
        }
    }
    assert!(wrong.is_empty(), "{fault:?}:\n{}", wrong.join("\n"));
}
