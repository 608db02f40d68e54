//! The slots of a cluster: the slot of a name, and the nodes that `CLUSTER SLOTS` gives.

use std::ops::RangeInclusive;

use connector_core::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::exchange::Exchange;
use super::reply::Reply;
use super::request::Request;
use super::transport::Address;

/// The number of slots.
pub(super) const SLOTS: u16 = 16_384;

/// CRC16 of each byte: polynomial 0x1021, as the specification of redis cluster says
/// (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of a name. Only the part between the first `{` and the next `}` counts, unless it is empty.
pub(super) fn slot_of(name: [&str; 3]) -> u16 {
    let bytes = || name.into_iter().flat_map(str::bytes);
    let tag = bytes().position(|b| b == b'{').and_then(|open| {
        let len = bytes().skip(open + 1).position(|b| b == b'}')?;
        (len > 0).then_some((open + 1, len))
    });
    let (from, len) = tag.unwrap_or((0, usize::MAX));
    let crc = |crc: u16, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)];
    bytes().skip(from).take(len).fold(0, crc) % SLOTS
}

/// A range of slots.
#[derive(Debug, PartialEq)]
pub(super) struct Range {
    pub(super) slots: RangeInclusive<u16>,
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
}

/// `CLUSTER SLOTS`, which all versions have. The answer names the nodes as the server announces them.
pub(super) struct ClusterSlots<'a> {
    /// The server's own host, for nodes that are announced without one.
    pub(super) host: &'a str,
}

impl Exchange for ClusterSlots<'_> {
    type Answer = Vec<Range>;
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["CLUSTER".into(), "SLOTS".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Vec<Range>>> {
        Ok(connection.answer().await?.map_err(refused).and_then(|reply| {
            let odd = || Error::new(ErrorKind::Corrupt, "the server's answer to CLUSTER SLOTS is not a list of slots");
            ranges(reply, self.host).ok_or_else(odd)
        }))
    }
}

/// The error of a server that is not a node of a cluster: `ERR This instance has cluster support disabled`.
fn refused(e: Error) -> Error {
    match e.kind() {
        ErrorKind::Other => {
            Error::new(ErrorKind::Unsupported, format!("it is not a node of a cluster: {}", e.message())).with_hint(
                "for a single server, write `redis://` or leave out `cluster=true`; for sentinels, `redis-sentinel://`",
            )
        }
        ErrorKind::Denied if e.hint().is_some_and(|hint| hint.contains("ACL SETUSER")) => {
            e.with_hint("grant `+cluster|slots` to the URL's user by `ACL SETUSER` on each node")
        }
        _ => e,
    }
}

fn ranges(reply: Reply, asked: &str) -> Option<Vec<Range>> {
    let Reply::Array(listed) = reply else { return None };
    if listed.len() > usize::from(SLOTS) {
        return None;
    }
    let mut ranges = Vec::new();
    for range in listed {
        let Reply::Array(parts) = range else { return None };
        let mut parts = parts.into_iter();
        let (first, last) = (slot(parts.next()?)?, slot(parts.next()?)?);
        if first > last {
            return None;
        }
        let mut nodes = parts.map(|node| address(node, asked)).collect::<Option<Vec<_>>>()?.into_iter();
        // Slots whose master has no address have no node.
        if let Some(master) = nodes.next()? {
            ranges.push(Range { slots: first..=last, master, replicas: nodes.flatten().collect() });
        }
    }
    Some(ranges)
}

fn slot(reply: Reply) -> Option<u16> {
    match reply {
        Reply::Int(n) => u16::try_from(n).ok().filter(|n| *n < SLOTS),
        _ => None,
    }
}

/// Where a node listens. The inner `None` is a node whose address its cluster does not know.
fn address(node: Reply, asked: &str) -> Option<Option<Address>> {
    let Reply::Array(parts) = node else { return None };
    let mut parts = parts.into_iter();
    let (endpoint, port) = (parts.next()?, parts.next()?);
    let Reply::Int(port) = port else { return None };
    let host = match endpoint {
        Reply::Null => Some(asked.to_owned()),
        Reply::Bulk(host) if host.is_empty() => Some(asked.to_owned()),
        // The server prefers host names, and this node has none.
        Reply::Bulk(host) if host == b"?" => parts.nth(1).and_then(other_host),
        Reply::Bulk(host) => Some(String::from_utf8(host).ok()?),
        _ => return None,
    };
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    Some(host.zip(port).map(|(host, port)| Address::Tcp { host, port }))
}

/// The address in a node's further properties, a list or a map: `ip`, or `hostname`.
fn other_host(properties: Reply) -> Option<String> {
    let pairs = match properties {
        Reply::Map(pairs) => pairs,
        Reply::Array(items) => items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
        _ => return None,
    };
    let text = |reply| match reply {
        Reply::Bulk(text) => String::from_utf8(text).ok().filter(|text| !text.is_empty()),
        _ => None,
    };
    let mut pairs = pairs.into_iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    pairs.find_map(|(name, value)| matches!(&*name, "ip" | "hostname").then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> u16 {
        slot_of([name, "", ""])
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of the CRC.
        assert_eq!(slot("123456789"), 0x31C3);
        for (name, tag) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("}foo{bar}", "bar"),
            ("", ""),
        ] {
            let expected =
                tag.bytes().fold(0_u16, |crc, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]);
            assert_eq!(slot(name), expected % SLOTS, "{name}");
        }
    }

    #[test]
    fn the_parts_of_a_name_count_as_one_text() {
        for name in ["n:model@1@0@ff@half", "a{b}c", "{ab}c", "ab{c}", "{}{x}", "ab{cd}ef{gh}"] {
            for (i, j) in (0..=name.len()).flat_map(|j| (0..=j).map(move |i| (i, j))) {
                assert_eq!(slot_of([&name[..i], &name[i..j], &name[j..]]), slot(name), "{name} {i} {j}");
            }
        }
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    fn node(endpoint: Reply, further: Vec<Reply>) -> Reply {
        Reply::Array([vec![endpoint, Reply::Int(7000)], further].concat())
    }

    fn tcp(host: &str) -> Address {
        Address::Tcp { host: host.to_owned(), port: 7000 }
    }

    #[test]
    fn nodes_are_read_as_each_version_announces_them() {
        let id = || bulk("07c37df");
        let properties = |name: &str, value: &str| vec![id(), Reply::Array(vec![bulk(name), bulk(value)])];
        let map = |name: &str, value: &str| vec![id(), Reply::Map(vec![(bulk(name), bulk(value))])];
        for (announced, expected) in [
            (node(bulk("10.0.0.1"), vec![]), Some(tcp("10.0.0.1"))),
            (node(bulk("10.0.0.1"), vec![id()]), Some(tcp("10.0.0.1"))),
            (node(bulk("::1"), vec![id()]), Some(tcp("::1"))),
            (node(bulk(""), vec![id()]), Some(tcp("asked"))),
            (node(Reply::Null, vec![id(), Reply::Array(vec![])]), Some(tcp("asked"))),
            (node(bulk("a.b"), properties("ip", "10.0.0.1")), Some(tcp("a.b"))),
            (node(bulk("?"), properties("ip", "10.0.0.1")), Some(tcp("10.0.0.1"))),
            (node(bulk("?"), map("ip", "10.0.0.1")), Some(tcp("10.0.0.1"))),
            (node(bulk("?"), vec![id(), Reply::Array(vec![])]), None),
            (Reply::Array(vec![bulk("a"), Reply::Int(0)]), None),
        ] {
            assert_eq!(address(announced.clone(), "asked"), Some(expected.clone()), "{announced:?}");
            let range = vec![Reply::Int(5), Reply::Int(9), announced.clone(), announced];
            let read = ranges(Reply::Array(vec![Reply::Array(range)]), "asked").unwrap();
            let range = |master: Address| Range { slots: 5..=9, replicas: vec![master.clone()], master };
            assert_eq!(read, expected.map(range).into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_odd_answer_is_not_a_list_of_slots() {
        let range = |parts| Reply::Array(vec![Reply::Array(parts)]);
        let well = || node(bulk("h"), vec![]);
        for odd in [
            Reply::Null,
            Reply::Array(vec![Reply::Int(1)]),
            range(vec![]),
            range(vec![Reply::Int(0), Reply::Int(5)]),
            range(vec![Reply::Int(0), Reply::Int(16_384), well()]),
            range(vec![Reply::Int(-1), Reply::Int(5), well()]),
            range(vec![Reply::Int(5), Reply::Int(3), well()]),
            Reply::Array(vec![Reply::Array(vec![Reply::Int(0), Reply::Int(5), well()]); usize::from(SLOTS) + 1]),
            range(vec![Reply::Int(0), Reply::Int(5), Reply::Int(1)]),
            range(vec![Reply::Int(0), Reply::Int(5), Reply::Array(vec![bulk("h")])]),
            range(vec![Reply::Int(0), Reply::Int(5), Reply::Array(vec![Reply::Bulk(vec![0xff]), Reply::Int(1)])]),
        ] {
            assert_eq!(ranges(odd.clone(), "asked"), None, "{odd:?}");
        }
        assert_eq!(ranges(Reply::Array(vec![]), "asked"), Some(vec![]));
    }
}
