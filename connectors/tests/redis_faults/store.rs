//! A store under test.

use std::future::Future;

use connectors::CacheKey;
use kvconn_redis_server::RedisServer;

pub(crate) use crate::checked::{chunk, is_lost, key, until, within};
pub(crate) use crate::pooled::Store;

/// The facts about a store that a fault needs.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The scheme of its URL.
    pub(crate) scheme: &'static str,
    /// The name of a chunk's bytes on the server.
    pub(crate) value_key: fn(&CacheKey) -> String,
}

impl Store {
    /// Once the server is back, every operation succeeds, several times, so that each connection takes part.
    #[track_caller]
    pub(crate) fn is_right(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            self.is_back().await;
            let right = async {
                for n in 9_000..9_012 {
                    self.put(n, 1, 100_000).await?;
                    assert_eq!(self.get(n).await?, Some(1), "{caller}");
                    assert!(self.connector.exists(&key(n)).await?, "{caller}");
                    assert_eq!(self.get(n + 100).await?, None, "{caller}");
                    assert!(self.connector.remove(&key(n)).await?, "{caller}");
                }
                Ok::<_, connectors::Error>(())
            };
            right.await.unwrap_or_else(|e| panic!("{caller}: {e:?}"));
        }
    }

    /// The server answers again. kvconn tries to connect a few times a second.
    pub(crate) async fn is_back(&self) {
        until("the store is back", async || self.connector.ping().await.is_ok()).await;
    }
}

/// The server has no more connections than the URL allows: `connections` for chunks, four for the rest, and the test's
/// own.
pub(crate) async fn connections_are_at_most(server: &RedisServer, connections: usize) {
    until("the server sees that connections were closed", async || {
        let list = server.cli(&["CLIENT", "LIST"]);
        list.bytes().expect("a text").split(|&b| b == b'\n').filter(|line| !line.is_empty()).count() <= connections + 5
    })
    .await;
}
