//! A store under test, and the facts that a cluster counts.

use connectors::{CacheKey, Result};
use kvconn_redis_server::{RedisCluster, RedisServer};

use crate::checked::{chunk, key};
pub(crate) use crate::pooled::Store;

/// A store on a cluster.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The scheme of its URL.
    pub(crate) scheme: &'static str,
    /// The query of its URL.
    pub(crate) options: &'static str,
    /// The scheme of a single server's URL.
    pub(crate) single: &'static str,
    /// The name of a chunk's bytes.
    pub(crate) value_key: fn(&CacheKey) -> String,
}

impl Kind {
    pub(crate) fn url(self, cluster: &RedisCluster, options: &str) -> String {
        format!("{}{}{options}", cluster.url(self.scheme), self.options)
    }

    /// The slot of the value of key `n`.
    pub(crate) fn slot(self, cluster: &RedisCluster, key: &CacheKey) -> u16 {
        let slot = cluster.node(0).cli(&["CLUSTER", "KEYSLOT", &(self.value_key)(key)]).integer();
        slot.and_then(|slot| u16::try_from(slot).ok()).expect("a slot")
    }

    /// The first numbers of keys whose values are on node `at`.
    pub(crate) fn numbers_at(self, cluster: &RedisCluster, at: usize, count: usize) -> Vec<u64> {
        let slots = cluster.slots_of(at);
        let is_there = |n: &u64| slots.iter().any(|range| range.contains(&self.slot(cluster, &key(*n))));
        (0..).filter(is_there).take(count).collect()
    }
}

impl Store {
    pub(crate) async fn batched_put(&self, numbers: &[u64], version: u64, len: usize) -> Vec<Result<()>> {
        let items: Vec<_> = numbers.iter().map(|&n| (key(n), chunk(n, version, len))).collect();
        self.connector.batched_put(&items).await
    }

    /// Every operation succeeds on every node.
    #[track_caller]
    pub(crate) fn is_right(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let right = async {
                for n in 9_000..9_012 {
                    self.put(n, 1, 100_000).await?;
                    assert_eq!(self.get(n).await?, Some(1), "{caller}");
                    assert!(self.connector.exists(&key(n)).await?, "{caller}");
                    assert_eq!(self.get(n + 100).await?, None, "{caller}");
                }
                let numbers: Vec<u64> = (9_000..9_012).collect();
                for answer in self.batched_put(&numbers, 2, 5000).await {
                    answer?;
                }
                for answer in self.batched_get(&numbers).await {
                    assert_eq!(answer?, Some(2), "{caller}");
                }
                for n in numbers {
                    assert!(self.connector.remove(&key(n)).await?, "{caller}");
                }
                self.connector.ping().await
            };
            right.await.unwrap_or_else(|e| panic!("{caller}: {e:?}"));
        }
    }
}

/// How often the server gave an error with this code.
pub(crate) fn errors(server: &RedisServer, code: &str) -> u64 {
    count(server, "errorstats", &format!("errorstat_{code}:count="))
}

/// How often the server ran a command.
pub(crate) fn calls(server: &RedisServer, command: &str) -> u64 {
    count(server, "commandstats", &format!("cmdstat_{command}:calls="))
}

fn count(server: &RedisServer, section: &str, name: &str) -> u64 {
    let info = server.cli(&["INFO", section]);
    let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
    let counted = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    counted.split(',').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("a number: {info}"))
}

/// How often all nodes that run gave an error with this code.
pub(crate) fn all_errors(cluster: &RedisCluster, code: &str) -> u64 {
    (0..cluster.len()).map(|i| errors(cluster.node(i), code)).sum()
}
