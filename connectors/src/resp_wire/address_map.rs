//! The addresses at which kvconn reaches nodes that announce others, as behind a NAT or in a container.

use connector_core::{Error, ErrorKind, Result};

use super::transport::Address;

/// Pairs of announced and real addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AddressMap(Vec<(Address, Address)>);

impl AddressMap {
    /// `announced:port=real:port`, separated by commas.
    ///
    /// # Errors
    /// `InvalidOption`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let pair = |pair: &str| {
            let (announced, real) = pair.split_once('=')?;
            Some((address(announced)?, address(real)?))
        };
        // Without the pair's text: it may be a URL with a password.
        let wrong = |n: usize| {
            Error::new(ErrorKind::InvalidOption, format!("option `address_map`: pair {n} is not a pair of addresses"))
                .with_hint("write `announced:port=real:port`, and commas between pairs")
        };
        let pairs = (1..).zip(text.split(',').map(str::trim)).filter(|(_, part)| !part.is_empty());
        pairs.map(|(n, part)| pair(part).ok_or_else(|| wrong(n))).collect::<Result<_>>().map(Self)
    }

    /// Where the server with this announced address listens.
    pub(super) fn real<'a>(&'a self, announced: &'a Address) -> &'a Address {
        self.0.iter().find(|(from, _)| from == announced).map_or(announced, |(_, to)| to)
    }
}

fn address(text: &str) -> Option<Address> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/@?#=[]".contains(c));
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_host.then(|| Address::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_address_has_a_real_one_or_is_it() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        let map = AddressMap::parse("10.0.0.1:6379=localhost:7000, [fd00::1]:6379=[::1]:7001,").unwrap();
        for (announced, real) in [
            (tcp("10.0.0.1", 6379), tcp("localhost", 7000)),
            (tcp("fd00::1", 6379), tcp("::1", 7001)),
            (tcp("10.0.0.1", 6380), tcp("10.0.0.1", 6380)),
        ] {
            assert_eq!(map.real(&announced), &real);
        }
        assert_eq!(AddressMap::parse("").unwrap(), AddressMap::default());
    }

    #[test]
    fn another_text_is_refused_and_says_what_to_write() {
        for text in [
            "a:1",
            "a=b:1",
            "a:1=b",
            "a:1=b:0",
            "a:1=:1",
            "a:x=b:1",
            "::1:1=b:1",
            "[::1=b:1",
            "u@a:1=b:1",
            "a:1=b:70000",
        ] {
            let e = AddressMap::parse(text).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidOption, "{text}");
            assert!(e.to_string().contains("announced:port=real:port"), "{e}");
        }
        let e = AddressMap::parse("a:1=b:1,redis://u:hunter2@h:1=h:2").unwrap_err().to_string();
        assert!(e.contains("pair 2") && !e.contains("hunter2"), "{e}");
    }
}
