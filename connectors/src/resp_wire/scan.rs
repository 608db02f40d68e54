//! The keys in the database, by SCAN.

use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, Result};
use futures::stream::{self, Stream};

use super::connection::Connection;
use super::errors::unexpected;
use super::exchange::{Exchange, Wire};
use super::reply::Reply;
use super::request::Request;
use super::server::Server;
use crate::seen::Seen;

/// Names that the server looks at for one page: a few milliseconds of its time at most.
const LOOKED_AT: u64 = 1000;
/// The keys that a scan of one server remembers. A server gives a name again only if its table shrinks during the scan:
/// several buckets become one, and the next page starts at the beginning of that one.
const REMEMBERED: usize = 1 << 14;
/// The keys that a scan of a cluster remembers, because a second pass may give each of them again.
const REMEMBERED_IN_CLUSTER: usize = 1 << 20;

/// The keys of the wire's namespace whose text starts with `prefix`, a page at a time. `key_of` gives the key of a name
/// that ends with `suffix`, and `None` for names of other programs. The scan's memory does not grow with the store.
///
/// Each key comes once. In a cluster whose slots move meanwhile, a key may come a second time after at least
/// half of [`REMEMBERED_IN_CLUSTER`] other keys.
///
/// Every server that has names is scanned, one after another. A server that fails does not hide the keys of the others: its
/// error comes last.
pub(crate) fn keys<'a>(
    wire: &'a Wire,
    prefix: &'a str,
    suffix: &'static str,
    key_of: fn(&[u8]) -> Option<CacheKey>,
) -> impl Stream<Item = Result<Vec<CacheKey>>> + Send + 'a {
    let pattern = pattern(&[&wire.options().prefix, prefix], suffix);
    let scan = Scan {
        wire,
        prefix,
        pattern,
        key_of,
        left: Vec::new(),
        cursor: START.to_vec(),
        seen: Seen::new(if wire.is_cluster() { REMEMBERED_IN_CLUSTER } else { REMEMBERED }),
        passes: 0,
        slots: Vec::new(),
        failure: None,
    };
    stream::unfold(Some(scan), async |scan| {
        let mut scan = scan?;
        match scan.page().await {
            Ok(keys) => keys.map(|keys| (Ok(keys), Some(scan))),
            Err(e) => Some((Err(e), None)),
        }
    })
}

/// The first cursor, and the one after the last page.
const START: &[u8] = b"0";

struct Scan<'a> {
    wire: &'a Wire,
    prefix: &'a str,
    pattern: Vec<u8>,
    key_of: fn(&[u8]) -> Option<CacheKey>,
    /// The servers that this pass has not scanned to the end. The last one is next.
    left: Vec<Arc<Server>>,
    cursor: Vec<u8>,
    /// A scan may give a name more than once, while the server shrinks its table or the name moves to another server.
    seen: Seen,
    passes: u32,
    /// The slots of each server at the start of this pass.
    slots: Vec<String>,
    /// The first error of this pass.
    failure: Option<Error>,
}

impl Scan<'_> {
    /// The keys of the next page. `None` after the last one.
    async fn page(&mut self) -> Result<Option<Vec<CacheKey>>> {
        loop {
            let Some(server) = self.left.last() else {
                if self.starts_pass().await? {
                    continue;
                }
                return self.failure.take().map_or(Ok(None), Err);
            };
            let page = Page { cursor: std::mem::replace(&mut self.cursor, START.to_vec()), pattern: &self.pattern };
            match self.wire.exchange_with(server, page).await {
                Ok((next, names)) if next == START => {
                    self.left.pop();
                    return Ok(Some(self.new_keys(&names)));
                }
                Ok((next, names)) => {
                    self.cursor = next;
                    return Ok(Some(self.new_keys(&names)));
                }
                Err(e) => {
                    self.left.pop();
                    self.failure.get_or_insert(e);
                }
            }
        }
    }

    fn new_keys(&mut self, names: &[Vec<u8>]) -> Vec<CacheKey> {
        let namespace = self.wire.options().prefix.as_bytes();
        let keys = names.iter().filter_map(|name| (self.key_of)(name.strip_prefix(namespace)?));
        // The end of the prefix and the start of the suffix may be the same letters of a name.
        keys.filter(|key| key.as_str().starts_with(self.prefix) && self.seen.insert(key)).collect()
    }

    /// Starts the first pass, and a second one if slots moved during the first. A key that moved to a server after that
    /// server's scan is not in the first pass.
    async fn starts_pass(&mut self) -> Result<bool> {
        if self.passes == 2 || self.passes == 1 && !self.wire.is_cluster() {
            return Ok(false);
        }
        let servers = self.wire.servers().await?;
        if self.wire.is_cluster() {
            let slots = slots_of(self.wire, &servers).await;
            let is_stable = slots == self.slots && !slots.iter().any(|slots| slots.contains(MOVING));
            if is_stable {
                return Ok(false);
            }
            self.slots = slots;
        }
        (self.left, self.failure) = (servers, None);
        self.passes += 1;
        Ok(true)
    }
}

/// Precedes each slot that moves, in the answer to `CLUSTER NODES`.
const MOVING: char = '[';

/// The slots of each server, with the ones that move. A server that does not answer has none.
async fn slots_of(wire: &Wire, servers: &[Arc<Server>]) -> Vec<String> {
    let mut all = Vec::new();
    for server in servers {
        let own = wire.exchange_with(server, OwnSlots).await.unwrap_or_default();
        all.push(format!("{} {own}", server.address()));
    }
    all.sort();
    all
}

/// `CLUSTER NODES`: the slots of the server that answers.
struct OwnSlots;

impl Exchange for OwnSlots {
    type Answer = String;
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["CLUSTER".into(), "NODES".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<String>> {
        Ok(connection.answer().await?.and_then(|reply| match reply {
            Reply::Bulk(nodes) => Ok(own_slots(&String::from_utf8_lossy(&nodes))),
            other => Err(unexpected(&other, "the nodes of a cluster")),
        }))
    }
}

/// `id address flags master ping pong epoch link slot slot ..`, a line for each node. The node that answers has the flag
/// `myself`.
fn own_slots(nodes: &str) -> String {
    let is_own =
        |line: &&str| line.split(' ').nth(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"));
    let own = nodes.lines().find(is_own).unwrap_or_default();
    own.splitn(9, ' ').nth(8).unwrap_or_default().to_owned()
}

struct Page<'a> {
    cursor: Vec<u8>,
    pattern: &'a [u8],
}

impl Exchange for Page<'_> {
    /// The next cursor, and names.
    type Answer = (Vec<u8>, Vec<Vec<u8>>);
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let (cursor, pattern) = (self.cursor.as_slice().into(), self.pattern.into());
        request.command(&["SCAN".into(), cursor, "MATCH".into(), pattern, "COUNT".into(), LOOKED_AT.into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        Ok(connection.answer().await?.and_then(|reply| {
            page(reply)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server's answer to SCAN is not a page of names"))
        }))
    }
}

fn page(reply: Reply) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let bulk = |reply| if let Reply::Bulk(bytes) = reply { Some(bytes) } else { None };
    let Reply::Array(parts) = reply else { return None };
    let Ok([Reply::Bulk(next), Reply::Array(names)]) = <[Reply; 2]>::try_from(parts) else { return None };
    Some((next, names.into_iter().map(bulk).collect::<Option<_>>()?))
}

fn pattern(start: &[&str], suffix: &str) -> Vec<u8> {
    let escaped = |text: &str| -> Vec<u8> {
        let special = |b| matches!(b, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-');
        text.bytes().flat_map(|b| special(b).then_some(b'\\').into_iter().chain([b])).collect()
    };
    [escaped(&start.concat()), b"*".to_vec(), escaped(suffix)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_and_a_suffix_stand_for_themselves() {
        assert_eq!(pattern(&["n.s-1:", "a*[b]?\\"], ""), b"n.s\\-1:a\\*\\[b\\]\\?\\\\*");
        assert_eq!(pattern(&["", ""], "x*"), b"*x\\*");
    }

    #[test]
    fn the_slots_of_a_node_are_those_of_its_own_line() {
        let nodes = "07c3 127.0.0.1:30004@31004,host slave e7d1 0 1426238317239 4 connected\n\
                     e7d1 127.0.0.1:30001@31001,host myself,master - 0 0 1 connected 0-5460 7000 [93-<-292f]\n\
                     292f 127.0.0.1:30003@31003,host master - 0 1426238318243 3 connected 10923-16383\n";
        assert_eq!(own_slots(nodes), "0-5460 7000 [93-<-292f]");
        assert_eq!(own_slots("e7d1 127.0.0.1:1@2 myself,master - 0 0 1 connected\n"), "");
        assert_eq!(own_slots(""), "");
    }
}
