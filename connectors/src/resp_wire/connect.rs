//! Opens a connection: connects, authenticates, and selects the database.

use std::collections::HashSet;
use std::io;

use connector_core::options::Login;
use connector_core::{Error, ErrorKind, Result, runtime};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::connection::Connection;
use super::errors::{CHECK_PASSWORD, is_wrong_password, refusal, server_error, shorten, unavailable};
use super::options::{Protocol, Role, Servers, WireOptions};
use super::reply::{Reply, ReplyReader};
use super::request::{Arg, Request};
use super::tls::WITH_TLS;
use super::transport::{Address, Timeouts, Transport};
use crate::tls;

/// The runtime that waits for the sockets of a store that is opened on `handle`.
///
/// A socket wakes its task only while its runtime runs. A runtime of a single thread does not run while a blocking
/// call on that thread waits. So the process's own runtime waits in its place. A runtime of several threads waits for
/// its own sockets, which saves a switch between threads.
pub(super) fn runtime_for_sockets(handle: &Handle) -> Result<Handle> {
    match handle.runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(handle.clone()),
        _ => runtime::handle().cloned(),
    }
}

/// A new connection. Resolves the host's name anew. `sockets` waits for the socket.
///
/// # Errors
/// `Unavailable`, `Denied`. `InvalidOption` for a database that the server does not have.
pub(super) async fn connect(
    address: &Address,
    options: &WireOptions,
    login: &Login,
    sockets: &Handle,
    buffer_len: usize,
) -> Result<Connection> {
    let timeouts = Timeouts { connect: options.connect_timeout, io: options.io_timeout };
    let real = options.address_map.real(address);
    let connected = Transport::connect(real, sockets, timeouts).await;
    let mut transport = connected.map_err(|e| not_reached(e, real))?;
    // A certificate has the name that the server announces.
    if let (Some(tls), Address::Tcp { host, .. }) = (&options.tls, address) {
        transport.start_tls(tls.session(host).await?).await.map_err(|e| tls.failed(address, &e))?;
    }
    let reader = ReplyReader::new(options.limits, buffer_len);
    let mut connection = Connection::new(transport, reader, address, options.io_timeout);
    Greeting { connection: &mut connection, address, options, login }.greet().await?;
    Ok(connection)
}

fn not_reached(e: io::Error, address: &Address) -> Error {
    let hint = match (address, e.kind()) {
        (Address::Tcp { .. }, io::ErrorKind::ConnectionRefused) => "does the server run, and is the port right?",
        // An error of the resolver has no error number.
        (Address::Tcp { .. }, _) if e.raw_os_error().is_none() => "check the name of the host",
        (Address::Tcp { .. }, _) => "check the host, the network and the firewall",
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => "this user may not write to the socket",
        (Address::Unix(_), _) => "does the server run, and does its `unixsocket` name this path?",
    };
    let e = Error::io(e, format_args!("connect to {address}"));
    if e.kind() != ErrorKind::Io {
        return e.with_hint(hint);
    }
    // The host or the socket does not exist, or this machine has a limit, whose hint `Error::io` has.
    let hint = e.hint().unwrap_or(hint).to_owned();
    unavailable(e).with_hint(hint)
}

/// The first commands on a connection.
struct Greeting<'a> {
    connection: &'a mut Connection,
    address: &'a Address,
    options: &'a WireOptions,
    login: &'a Login,
}

impl Greeting<'_> {
    /// Authenticates, and agrees on the newest protocol that both sides know.
    async fn greet(&mut self) -> Result<()> {
        let newest = match self.options.protocol {
            Protocol::Resp2 => false,
            Protocol::Auto | Protocol::Resp3 => self.in_resp3().await?,
        };
        if !newest {
            let greeted = self.in_resp2().await;
            greeted.map_err(|e| match self.options.protocol {
                Protocol::Auto if e.hint().is_none() => e.with_hint(NO_HELLO),
                _ => e,
            })?;
        }
        self.select().await?;
        self.check_role().await?;
        if self.options.replica_reads && matches!(self.options.servers, Servers::Cluster(_)) {
            // A replica of a cluster then answers reads. A master and a server without a cluster ignore or refuse it.
            self.ask(&["READONLY".into()]).await?;
        }
        if self.options.transactions { self.try_transaction().await } else { Ok(()) }
    }

    /// `HELLO` authenticates and selects the protocol in one command. `false` if the server refuses it and RESP2 is
    /// allowed.
    async fn in_resp3(&mut self) -> Result<bool> {
        let mut args: Vec<Arg<'_>> = vec!["HELLO".into(), "3".into()];
        if let Some((username, password)) = user_and_password(self.login) {
            args.extend([Arg::from("AUTH"), username.unwrap_or("default").into(), password.into()]);
        }
        let options = self.options;
        if let Some(name) = &options.client_name {
            args.extend([Arg::from("SETNAME"), name.as_str().into()]);
        }
        let any_protocol = self.options.protocol == Protocol::Auto;
        let answer = self.ask(&args).await.map_err(|e| match (e.kind(), e.hint()) {
            // A proxy may hang up.
            (ErrorKind::Unavailable, Some(hint)) if e.is_temporary() && any_protocol => {
                let hint = format!("{hint}; {NO_HELLO}");
                e.with_hint(hint)
            }
            _ => e,
        });
        let answer = answer?;
        if self.options.role != Role::Sentinel && is_of_sentinel(&answer) {
            return Err(self.is_a_sentinel());
        }
        match answer {
            Reply::Map(pairs) if pairs.iter().any(|(name, _)| is_text(name, b"proto")) => Ok(true),
            // A proxy that stays with RESP2.
            Reply::Array(items) if any_protocol && items.iter().any(|item| is_text(item, b"proto")) => Ok(true),
            Reply::Error(text) => {
                let e = self.refused(&text);
                // RESP2 does not help against a wrong password, too many clients, or a server that asks to wait.
                if is_wrong_password(&text) || text.starts_with(b"DENIED") || e.is_temporary() {
                    return Err(e);
                }
                match self.options.protocol {
                    // An old server or a proxy does not have the command, or the user may lack the right to it.
                    Protocol::Auto => Ok(false),
                    _ if e.kind() == ErrorKind::Denied => Err(e),
                    _ => {
                        let why = format!("the server at {} does not speak RESP3", self.address);
                        Err(Error::new(ErrorKind::Unsupported, why).with_hint("leave out `protocol=3`"))
                    }
                }
            }
            other => Err(self.not_a_server(&other)),
        }
    }

    async fn in_resp2(&mut self) -> Result<()> {
        if let Some((username, password)) = user_and_password(self.login) {
            let mut args: Vec<Arg<'_>> = vec!["AUTH".into()];
            args.extend(username.map(Arg::from));
            args.push(password.into());
            let mut answer = self.ask(&args).await?;
            // Servers without an access list have only this user.
            if let Reply::Error(text) = &answer
                && username == Some("default")
                && text.starts_with(b"ERR wrong number of arguments")
            {
                args.remove(1);
                answer = self.ask(&args).await?;
            }
            match answer {
                Reply::Error(text) => return Err(self.refused(&text)),
                ok if is_text(&ok, b"OK") => {}
                other => return Err(self.not_a_server(&other)),
            }
        }
        let options = self.options;
        if let Some(name) = &options.client_name {
            // The name is optional, so a server without this command is fine.
            self.ask(&["CLIENT".into(), "SETNAME".into(), name.as_str().into()]).await?;
        }
        match self.ask(&["PING".into()]).await? {
            Reply::Error(text) => {
                let e = self.refused(&text);
                // The server answers. Later commands report such errors.
                let later = text.starts_with(b"NOPERM") || e.is_temporary() && !text.starts_with(b"ERR");
                if later { Ok(()) } else { Err(e) }
            }
            pong if is_text(&pong, b"PONG") => Ok(()),
            other => Err(self.not_a_server(&other)),
        }
    }

    async fn select(&mut self) -> Result<()> {
        let database = self.options.database;
        if database == 0 {
            return Ok(());
        }
        let Reply::Error(text) = self.ask(&["SELECT".into(), u64::from(database).into()]).await? else { return Ok(()) };
        let e = self.refused(&text);
        let e = match e.kind() {
            ErrorKind::Other => Error::new(ErrorKind::InvalidOption, e.message().to_owned())
                .with_hint("name a database that the server has: 0, or a number below its setting `databases`"),
            _ => e,
        };
        Err(e.at(format_args!("database {database} at {}", self.address)))
    }

    /// Checks the role of a server that sentinels named: they may not know of its newest role yet.
    async fn check_role(&mut self) -> Result<()> {
        let wanted = match self.options.role {
            Role::Data | Role::Sentinel => return Ok(()),
            Role::Master => "master",
            Role::Replica => "slave",
        };
        let address = self.address;
        let reply = self.ask(&["ROLE".into()]).await?;
        let Reply::Array(parts) = &reply else {
            let e = refusal(reply, "a role");
            return Err(match e.kind() {
                ErrorKind::Denied => e.with_hint("grant the command `role`: kvconn asks each server for its role"),
                _ => e,
            });
        };
        let is = |at: usize, text: &str| parts.get(at).is_some_and(|part| is_text(part, text.as_bytes()));
        let why = if is(0, "sentinel") {
            return Err(self.is_a_sentinel());
        } else if !is(0, wanted) {
            let role = if wanted == "master" { "master" } else { "replica" };
            format!("the server at {address} is not a {role} now, as the sentinels say")
        } else if wanted == "slave" && !is(3, "connected") {
            format!("the replica at {address} has no link to its master")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unavailable, why).temporary(true).with_hint("a failover may be under way"))
    }

    fn is_a_sentinel(&self) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{} is a sentinel, which stores no chunks", self.address))
            .with_hint(format!("write `redis-sentinel://{}/service`, or name the data server", self.address))
    }

    /// An empty transaction, to check that the user may run one. A server that refuses `MULTI` runs the commands behind
    /// it one by one.
    async fn try_transaction(&mut self) -> Result<()> {
        for command in ["MULTI", "EXEC"] {
            if let Reply::Error(text) = self.ask(&[command.into()]).await? {
                return Err(self.refused(&text).at("option `ttl_sec` needs transactions"));
            }
        }
        Ok(())
    }

    /// The answer of a server that may speak another protocol.
    async fn ask(&mut self, args: &[Arg<'_>]) -> Result<Reply> {
        let mut request = Request::new();
        request.command(args);
        self.connection.send(&request).await?;
        match self.connection.reply().await {
            // `e` is not the source: it quotes the answer, which may quote the password.
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let answer = self.connection.unread();
                let e = not_a_server(answer, self.address, self.login);
                Err(if answer.starts_with(TLS_ALERT) { e.with_hint(WITH_TLS) } else { e })
            }
            Err(e) if e.kind() == ErrorKind::Unavailable => Err(match (&self.options.tls, tls::cause(&e)) {
                (Some(tls), Some(refused)) => tls.refused(self.address, refused),
                (Some(_), None) => e.with_hint("is it a redis or valkey server, and below its limit of clients?"),
                (None, _) => {
                    e.with_hint(format!("is it a redis or valkey server, and below its limit of clients? {WITH_TLS}"))
                }
            }),
            other => other,
        }
    }

    fn refused(&self, text: &[u8]) -> Error {
        refused(text, self.login)
    }

    fn not_a_server(&self, answer: &Reply) -> Error {
        let shown = match answer {
            Reply::Simple(text) | Reply::Bulk(text) | Reply::Error(text) => text,
            Reply::Array(_) => &b"an array"[..],
            Reply::Map(_) => b"a map",
            Reply::Null | Reply::Int(_) | Reply::Bool(_) | Reply::Double(_) => b"a value that is not text",
        };
        not_a_server(shown, self.address, self.login)
    }
}

/// The user, if there is one, and the password. A user of the server's access list may have none.
fn user_and_password(login: &Login) -> Option<(Option<&str>, &str)> {
    match (login.username(), login.password()) {
        (None, None) => None,
        (username, password) => Some((username, password.unwrap_or_default())),
    }
}

/// The start of a TLS record that ends a connection.
const TLS_ALERT: &[u8] = b"\x15\x03";

/// The hint for a server that may not know `HELLO`.
const NO_HELLO: &str = "if the server does not know the command `HELLO`, write `protocol=2`";

fn is_text(reply: &Reply, text: &[u8]) -> bool {
    matches!(reply, Reply::Bulk(bytes) | Reply::Simple(bytes) if bytes == text)
}

/// Whether the answer to `HELLO` says that the server is a sentinel.
fn is_of_sentinel(hello: &Reply) -> bool {
    let is_mode = |name: &Reply, value: &Reply| is_text(name, b"mode") && is_text(value, b"sentinel");
    match hello {
        Reply::Map(pairs) => pairs.iter().any(|(name, value)| is_mode(name, value)),
        Reply::Array(items) => items.windows(2).any(|pair| is_mode(&pair[0], &pair[1])),
        _ => false,
    }
}

fn not_a_server(answer: &[u8], address: &Address, login: &Login) -> Error {
    let shown = match quotes_password(answer, login) {
        true => "text that holds the password".to_owned(),
        false => shorten(&answer[..answer.len().min(64)]),
    };
    Error::new(ErrorKind::Unavailable, format!("{address} is not a RESP server: it answers `{shown}`"))
        .with_hint("name host and port of a redis or valkey server")
}

/// Old servers quote the command that they refuse, with the password or a part of it.
fn refused(text: &[u8], login: &Login) -> Error {
    // The whole text decides the kind.
    let e = server_error(text);
    let e = match login.password() {
        None if login.username().is_some() && is_wrong_password(text) => {
            e.with_hint("the login has a user and no password; add one: `//user:password@host`, or `password_file`")
        }
        _ => e,
    };
    if !quotes_password(text, login) {
        return e;
    }
    let code = text.split(|b| *b == b' ').next().filter(|code| !quotes_password(code, login)).unwrap_or_default();
    Error::new(e.kind(), format!("the server answers `{} ..`, and quotes the password", shorten(code)))
        .with_status(e.status())
        .with_hint(CHECK_PASSWORD)
}

/// Whether the text holds the password, or a part of it that helps to guess it.
fn quotes_password(text: &[u8], login: &Login) -> bool {
    const SHORTEST_PART: usize = 4;
    let Some(password) = login.password().map(str::as_bytes).filter(|password| !password.is_empty()) else {
        return false;
    };
    let part = password.len().min(SHORTEST_PART);
    let parts: HashSet<&[u8]> = password.windows(part).collect();
    text.windows(part).any(|part| parts.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp_wire::{Servers, WireSettings};

    fn address() -> Address {
        Address::Tcp { host: "h".into(), port: 1 }
    }

    fn with_password(password: &str) -> WireOptions {
        let mut settings = WireSettings::default();
        settings.login.password = Some(password.into());
        let url = connector_core::RemoteUrl::parse("resp://h:1").unwrap();
        settings.wire(&url, Servers::One(address()), 0).unwrap()
    }

    #[test]
    fn the_hint_names_the_side_that_is_to_change() {
        let refused = || io::ErrorKind::ConnectionRefused.into();
        let no_file = || io::ErrorKind::NotFound.into();
        let too_many_files = || io::Error::from_raw_os_error(24);
        let socket = || Address::Unix("/s".into());
        for (address, cause, words) in [
            (address(), refused(), "is the port right"),
            (address(), too_many_files(), "ulimit -n"),
            (socket(), no_file(), "`unixsocket`"),
            (socket(), too_many_files(), "ulimit -n"),
        ] {
            let e = not_reached(cause, &address);
            assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, true), "{e}");
            assert!(e.hint().is_some_and(|hint| hint.contains(words)), "{e}");
        }
    }

    #[test]
    fn no_error_quotes_a_part_of_the_password() {
        let long = (0..200).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect::<String>();
        for (password, text) in [
            ("hunter2", "ERR invalid password hunter2".to_owned()),
            ("hunt", "ERR unknown command `AUTH`, with args beginning with: `hunt`".into()),
            ("x", "ERR x".into()),
            (&long, format!("ERR unknown command `AUTH`, with args beginning with: `{}`", &long[..128])),
            ("HUNTER2", "HUNTER2 is not a code".into()),
            ("line\r\nbreaks", "ERR args: `line  breaks`".into()),
        ] {
            let options = with_password(password);
            let login = &options.login;
            for e in [refused(text.as_bytes(), login), not_a_server(text.as_bytes(), &address(), login)] {
                let shown = format!("{e} {e:?}");
                let part = &password[..password.len().min(4)];
                assert!(password == "x" || !shown.contains(part), "{password}: {shown}");
                assert!(shown.contains("password"), "{shown}");
            }
        }
        let kept =
            refused(b"ERR AUTH <password> called without any password configured", &with_password("hunter2").login);
        assert!(kept.to_string().contains("called without any"), "{kept}");
    }
}
