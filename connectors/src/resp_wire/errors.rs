//! The meaning of a server's errors, and a hint for each.

use connector_core::{Error, ErrorKind, Result};

use super::reply::{BadReply, Reply};
use super::transport::Address;

/// The error that a server answered with: its code and text.
#[cold]
pub(crate) fn server_error(text: &[u8]) -> Error {
    let shown = shorten(text);
    let new = |kind| Error::new(kind, format!("the server answers `{shown}`"));
    let later = |hint: &'static str| new(ErrorKind::Unavailable).temporary(true).with_hint(hint);
    let denied = |hint: &'static str| new(ErrorKind::Denied).with_hint(hint);
    match code(text) {
        b"OOM" => new(ErrorKind::StoreFull)
            .temporary(true)
            .with_hint("raise the server's `maxmemory`, or set its `maxmemory-policy` to `allkeys-lru`"),
        b"LOADING" => later("the server reads its data from disk; wait until it is done"),
        b"BUSY" => later("a script keeps the server busy"),
        b"TRYAGAIN" | b"CLUSTERDOWN" => later("the server's cluster is changing"),
        b"MASTERDOWN" => later("this replica lost its master"),
        b"NOREPLICAS" => later("the server has too few replicas"),
        b"READONLY" => new(ErrorKind::ReadOnly)
            .temporary(true)
            .with_hint("this is a replica; write the master's address, or wait if a failover is under way"),
        b"MISCONF" => new(ErrorKind::ReadOnly)
            .temporary(true)
            .with_hint("the server cannot save to disk, and takes no writes until it can"),
        b"NOAUTH" => denied(
            "the server wants a password: `//:password@host` or `//user:password@host` in the URL, or the option `password_file`",
        ),
        b"WRONGPASS" => denied(CHECK_PASSWORD),
        b"NOPERM" => denied(
            "log in as a user with this right (`//user@host` in the URL; without a user it is `default`), or grant the user \
             the command and the keys by `ACL SETUSER` on the server; with the option `namespace=NAME`, the pattern `~NAME:*` \
             covers all keys",
        ),
        b"DENIED" => denied("set a password on the server, or turn off its `protected-mode`"),
        b"WRONGTYPE" => new(ErrorKind::Corrupt).with_hint("the value under this key is not a chunk"),
        b"MOVED" | b"ASK" | b"CROSSSLOT" => new(ErrorKind::Unsupported).with_hint(USE_CLUSTER),
        b"ERR" if contains(text, b"max number of clients") => {
            later("raise the server's `maxclients`, or lower `connections`")
        }
        b"ERR" if contains(text, b"without any password") || contains(text, b"no password is set") => {
            denied("the server has no password; remove the password from the URL or the options")
        }
        b"ERR" if contains(text, b"wrong number of arguments for 'auth'") => {
            denied("the server has no access list; leave out the user: `//:password@host`")
        }
        b"ERR" if is_wrong_password(text) => denied(CHECK_PASSWORD),
        b"ERR" if contains(text, b"invalid bulk length") || contains(text, b"exceeds maximum allowed size") => {
            new(ErrorKind::TooLarge).with_hint("the chunk is larger than the server's `proto-max-bulk-len`")
        }
        b"ERR" if contains(text, b"unknown command") => new(ErrorKind::Other).with_hint(
            "the server lacks a command of this store, or forbids it; a sentinel has another URL: \
             `redis-sentinel://host:26379/service`",
        ),
        _ => new(ErrorKind::Other),
    }
}

/// The code of a server's error: its first word.
pub(super) fn code(text: &[u8]) -> &[u8] {
    text.split(|b| *b == b' ').next().unwrap_or_default()
}

/// Whether the server closes the connection after this error.
pub(super) fn ends_connection(text: &[u8]) -> bool {
    text.starts_with(b"ERR Protocol error")
}

/// The hint for a node of a cluster where the options name a single server.
pub(super) const USE_CLUSTER: &str =
    "this server is a node of a cluster: add `cluster=true` to the URL, or write `redis-cluster://host:port`";

/// The hint for a wrong password.
pub(super) const CHECK_PASSWORD: &str =
    "check user and password: `//user:password@host` in the URL, or the option `password_file`";

/// Whether the server refuses the user or the password.
pub(super) fn is_wrong_password(text: &[u8]) -> bool {
    text.starts_with(b"WRONGPASS")
        || contains(text, b"invalid password")
        || contains(text, b"invalid username-password")
}

/// The meaning of an error for the way of the request: another server has the name, or the servers are changing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// `MOVED slot host:port`: another server has the slot. An empty host is the one that answered.
    Moved { slot: u16, to: Address },
    /// `ASK slot host:port`: another server has this name while the slot moves there.
    Ask { to: Address },
    /// The server may not be the right one any more, or not yet: a failover, a start, another login.
    Changing,
    /// The servers are changing. The same request may succeed a little later.
    Later,
    /// No connection to the server, so it did nothing.
    Lost,
}

impl Elsewhere {
    /// `asked` is the server that answered with the error.
    pub(super) fn of(text: &[u8], asked: &Address) -> Option<Self> {
        match code(text) {
            b"MOVED" | b"ASK" => redirection(text, asked),
            b"READONLY" | b"LOADING" | b"MASTERDOWN" | b"NOREPLICAS" | b"NOAUTH" => Some(Self::Changing),
            b"CLUSTERDOWN" | b"TRYAGAIN" => Some(Self::Later),
            _ => None,
        }
    }
}

fn redirection(text: &[u8], asked: &Address) -> Option<Elsewhere> {
    let mut words = str::from_utf8(text).ok()?.split(' ');
    let (code, slot, place) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let (host, port) = place.rsplit_once(':')?;
    if host == "?" {
        // The server prefers host names, and that node has none. `CLUSTER SLOTS` also gives its address.
        return Some(Elsewhere::Later);
    }
    let host = match (host.trim_start_matches('[').trim_end_matches(']'), asked) {
        ("", Address::Tcp { host, .. }) => host,
        (host, _) => host,
    };
    let to = Address::Tcp { host: host.to_owned(), port: port.parse().ok()? };
    Some(if code == "ASK" { Elsewhere::Ask { to } } else { Elsewhere::Moved { slot, to } })
}

/// Checks that the reply is this word.
///
/// # Errors
/// The server's error; `Corrupt` for any other reply.
pub(crate) fn expect_word(reply: Reply, word: &str) -> Result<()> {
    match reply {
        Reply::Simple(text) if text == word.as_bytes() => Ok(()),
        other => Err(refusal(other, &format!("`{word}`"))),
    }
}

/// The error of a reply that is not `wanted`: the server's, or `Corrupt`.
#[cold]
pub(crate) fn refusal(reply: Reply, wanted: &str) -> Error {
    match reply {
        Reply::Error(text) => server_error(&text),
        other => unexpected(&other, wanted),
    }
}

/// The number in the reply.
///
/// # Errors
/// `Corrupt` for any other reply.
pub(crate) fn expect_int(reply: Reply) -> Result<i64> {
    match reply {
        Reply::Int(n) => Ok(n),
        other => Err(unexpected(&other, "a number")),
    }
}

/// The error of a reply of the wrong kind.
#[cold]
pub(crate) fn unexpected(reply: &impl std::fmt::Debug, wanted: &str) -> Error {
    let shown = shorten(format!("{reply:?}").as_bytes());
    Error::new(ErrorKind::Corrupt, format!("the server answers {shown} where {wanted} belongs"))
}

/// The error of bytes that are not a reply.
#[cold]
pub(super) fn bad_reply(address: &Address, why: &BadReply) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server at {address} sent {why}"))
}

/// The error of a server that hung up.
#[cold]
pub(super) fn hung_up(address: &Address) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the server at {address} closed the connection")).temporary(true)
}

/// The error of a server that cannot be reached.
#[cold]
pub(super) fn unavailable(e: Error) -> Error {
    let message = e.message().to_owned();
    Error::new(ErrorKind::Unavailable, message).temporary(true).with_source(e)
}

/// Text of the server, made fit for one line.
pub(super) fn shorten(text: &[u8]) -> String {
    const SHOWN: usize = 200;
    let start = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
    let mut shown: String =
        start.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.len() > SHOWN {
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
    fn a_servers_error_has_the_kind_that_fits() {
        for (text, kind, temporary) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::StoreFull, true),
            ("READONLY You can't write against a read only replica.", ErrorKind::ReadOnly, true),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::ReadOnly, true),
            ("ERR Protocol error: invalid bulk length", ErrorKind::TooLarge, false),
            ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", ErrorKind::TooLarge, false),
            ("NOPERM this user has no permissions", ErrorKind::Denied, false),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, true),
            ("ERR unknown command", ErrorKind::Other, false),
        ] {
            let e = server_error(text.as_bytes());
            assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{text}");
        }
    }
}
