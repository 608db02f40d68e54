//! What a server's errors mean, and what to do about them.

use connector_core::{Error, ErrorKind};

use super::reply::{BadReply, Reply};
use super::transport::Address;

/// The error that a server answered with: its code and text.
#[cold]
pub(crate) fn server_error(said: &[u8]) -> Error {
    let shown = shorten(said);
    let code = said.split(|b| *b == b' ').next().unwrap_or_default();
    let new = |kind| Error::new(kind, format!("the server answers `{shown}`"));
    let later = |hint: &'static str| new(ErrorKind::Unavailable).temporary(true).with_hint(hint);
    match code {
        b"OOM" => new(ErrorKind::StoreFull)
            .temporary(true)
            .with_hint("raise the server's `maxmemory`, or set its `maxmemory-policy` to `allkeys-lru`"),
        b"LOADING" => later("it reads its data from disk: wait until it has"),
        b"BUSY" => later("a script keeps it busy"),
        b"TRYAGAIN" | b"CLUSTERDOWN" => later("its cluster is being changed"),
        b"MASTERDOWN" => later("it is a replica that lost its master"),
        b"READONLY" => new(ErrorKind::ReadOnly).with_hint("this is a replica: name the master in the URL"),
        b"MISCONF" => {
            new(ErrorKind::ReadOnly).with_hint("it cannot save its data to disk, and takes no writes until it can")
        }
        b"NOREPLICAS" => later("too few of its replicas are there"),
        b"NOAUTH" => new(ErrorKind::Denied).with_hint("put the password into the URL: `//user:password@host`"),
        b"WRONGPASS" => new(ErrorKind::Denied).with_hint("check user and password in the URL: `//user:password@host`"),
        b"NOPERM" => new(ErrorKind::Denied).with_hint("grant it to the URL's user by `ACL SETUSER` on the server"),
        b"DENIED" => new(ErrorKind::Denied).with_hint("set a password on the server, or turn off its `protected-mode`"),
        b"WRONGTYPE" => new(ErrorKind::Corrupt).with_hint("something else than a chunk is stored under this key"),
        b"MOVED" | b"ASK" => {
            new(ErrorKind::Unsupported).with_hint("this server is part of a cluster, which this URL does not serve")
        }
        b"ERR" if contains(said, b"max number of clients") => {
            later("raise the server's `maxclients`, or lower `connections`")
        }
        b"ERR" if contains(said, b"invalid password") || contains(said, b"without any password") => {
            new(ErrorKind::Denied).with_hint("check user and password in the URL: `//user:password@host`")
        }
        b"ERR" if contains(said, b"invalid bulk length") || contains(said, b"exceeds maximum allowed size") => {
            new(ErrorKind::TooLarge).with_hint("the chunk is larger than the server's `proto-max-bulk-len`")
        }
        _ => new(ErrorKind::Other),
    }
}

/// The error of a reply that does not belong there.
#[cold]
pub(crate) fn unexpected(reply: &Reply, wanted: &str) -> Error {
    let shown = shorten(format!("{reply:?}").as_bytes());
    Error::new(ErrorKind::Corrupt, format!("the server answers {shown} where {wanted} belongs"))
}

/// The error of bytes that are no reply.
#[cold]
pub(super) fn bad_reply(address: &Address, why: &BadReply) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server at {address} sent {why}"))
}

/// The error of a server that hung up.
#[cold]
pub(super) fn hung_up(address: &Address) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the server at {address} closed the connection")).temporary(true)
}

/// What somebody else said, fit to be shown in one line.
pub(super) fn shorten(said: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&said[..said.len().min(SHOWN)]);
    let mut shown: String =
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if said.len() > SHOWN {
        shown.push_str("..");
    }
    shown
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_a_server_have_the_kind_that_fits() {
        for (said, kind, temporary) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::StoreFull, true),
            ("READONLY You can't write against a read only replica.", ErrorKind::ReadOnly, false),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::ReadOnly, false),
            ("ERR Protocol error: invalid bulk length", ErrorKind::TooLarge, false),
            ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", ErrorKind::TooLarge, false),
            ("NOPERM this user has no permissions", ErrorKind::Denied, false),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, true),
            ("ERR unknown command", ErrorKind::Other, false),
        ] {
            let e = server_error(said.as_bytes());
            assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{said}");
        }
    }
}
