//! A store on an S3 server that fails on demand.

use std::future::Future;

use connectors::{ChunkLayout, Connector, LocalCpuBackend, MemoryObj, PoolAllocator, Result};
use kvconn_cloud_servers::{Credentials, FakeS3};

use crate::checked::{chunk, key, until, version};

pub(crate) const BUCKET: &str = "kvconn";
/// Several reads of a socket.
pub(crate) const LEN: usize = 300_000;
/// `io_timeout_ms` of the store.
pub(crate) const IO_TIMEOUT_MS: u64 = 1_000;

/// A server, and a connector to it with a separate pool.
pub(crate) struct Store {
    pub(crate) fake: FakeS3,
    pub(crate) connector: Connector,
    pub(crate) pool: PoolAllocator,
}

/// The store's URL on a server.
pub(crate) fn url(fake: &FakeS3, credentials: &Credentials, region: &str) -> String {
    let Credentials { access_key_id, secret_access_key, .. } = credentials;
    format!(
        "s3://{BUCKET}/chunks?endpoint={}&region={region}&access_key_id={access_key_id}&\
         secret_access_key={secret_access_key}&io_timeout_ms={IO_TIMEOUT_MS}",
        fake.endpoint()
    )
}

pub(crate) async fn connect(url: &str, pool: &PoolAllocator) -> Result<Connector> {
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    connectors::builder(url).local_cpu_backend(backend).open().await
}

impl Store {
    pub(crate) async fn open() -> Self {
        let fake = FakeS3::start();
        fake.bucket(BUCKET);
        let pool = PoolAllocator::new(256 << 20);
        let url = url(&fake, &fake.credentials(), "us-east-1");
        let connector = connect(&url, &pool).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
        Self { fake, connector, pool }
    }

    /// A chunk in memory of the store's pool, as an engine's chunks are.
    pub(crate) fn chunk(&self, n: u64, version: u64, len: usize) -> MemoryObj {
        let mut memory = self.pool.allocate_now(&ChunkLayout::binary(len)).expect("the pool has room");
        memory.copy_from_slice(&chunk(n, version, len));
        memory.freeze()
    }

    pub(crate) async fn put(&self, n: u64, version: u64) -> Result<()> {
        self.connector.put(&key(n), self.chunk(n, version, LEN)).await
    }

    /// The stored version.
    ///
    /// # Panics
    /// If the chunk is not this key's, or not whole.
    pub(crate) async fn get(&self, n: u64) -> Result<Option<u64>> {
        Ok(self.connector.get(&key(n)).await?.map(|chunk| version(n, &chunk)))
    }

    /// Without faults, every operation succeeds, and the pool has its memory.
    #[track_caller]
    pub(crate) fn is_right(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let right = async {
                for n in 9_000..9_004 {
                    self.put(n, 1).await?;
                    assert_eq!(self.get(n).await?, Some(1), "{caller}");
                    assert!(self.connector.exists(&key(n)).await?, "{caller}");
                    assert_eq!(self.get(n + 100).await?, None, "{caller}");
                    assert!(self.connector.remove(&key(n)).await?, "{caller}");
                }
                Ok::<_, connectors::Error>(())
            };
            right.await.unwrap_or_else(|e| panic!("{caller}: {e:?}"));
            until("the memory comes back", async || self.pool.stats().in_use == 0).await;
        }
    }
}
