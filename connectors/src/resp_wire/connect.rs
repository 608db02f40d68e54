//! Opens a connection: connects, authenticates, and selects the database.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use connector_core::{Error, ErrorKind, Result, runtime};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::Connection;
use super::errors::{CHECK_PASSWORD, server_error, shorten, unavailable};
use super::options::{Protocol, WireOptions};
use super::reply::{Reply, ReplyReader};
use super::request::{Arg, Request};
use super::transport::Transport;

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

/// A new connection. The process's own runtime opens it, because the caller's runtime may have no timer. From then on
/// `sockets` waits for its socket. Waits until `not_before` before it connects.
pub(super) async fn connect(
    options: &Arc<WireOptions>,
    sockets: &Handle,
    buffer_len: usize,
    progress: &Arc<AtomicUsize>,
    not_before: Option<Instant>,
) -> Result<Connection> {
    let (options, sockets, progress) = (options.clone(), sockets.clone(), progress.clone());
    let opening = runtime::handle()?.spawn(async move {
        if let Some(at) = not_before {
            tokio::time::sleep_until(at).await;
        }
        let open = async {
            let address = &options.address;
            let transport = Transport::connect(address, &sockets, options.io_timeout).await.map_err(|e| {
                let e = Error::io(e, format_args!("connect to {address}"));
                // The host or the socket does not exist.
                if e.kind() == ErrorKind::Io { unavailable(e) } else { e }
            })?;
            let reader = ReplyReader::new(options.limits, buffer_len);
            let mut connection = Connection::new(transport, reader, address, options.io_timeout, &progress);
            greet(&mut connection, &options).await?;
            Ok(connection)
        };
        tokio::time::timeout(options.connect_timeout, open).await.unwrap_or_else(|_| {
            let ms = options.connect_timeout.as_millis();
            Err(Error::new(ErrorKind::Timeout, format!("{} did not answer a greeting within {ms} ms", options.address))
                .temporary(true)
                .with_hint("is it a redis or valkey server? `connect_timeout_ms` says how long to wait"))
        })
    });
    let _abort = AbortOnDrop(opening.abort_handle());
    opening.await.map_err(|_| Error::new(ErrorKind::Other, "the task that connects to the server panicked"))?
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Authenticates, and agrees on the newest protocol that both sides know.
async fn greet(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if options.protocol == Protocol::Resp2 || !greet_in_resp3(connection, options).await? {
        greet_in_resp2(connection, options).await?;
    }
    select(connection, options).await
}

/// `HELLO` authenticates and selects the protocol in one command. `false` if the server refuses it and RESP2 is
/// allowed.
async fn greet_in_resp3(connection: &mut Connection, options: &WireOptions) -> Result<bool> {
    let mut args: Vec<Arg<'_>> = vec!["HELLO".into(), "3".into()];
    if let Some(password) = &options.password {
        args.extend([Arg::from("AUTH"), options.username.as_deref().unwrap_or("default").into()]);
        args.push(password.as_str().into());
    }
    if let Some(name) = &options.client_name {
        args.extend([Arg::from("SETNAME"), name.as_str().into()]);
    }
    match first_answer(connection, options, &args).await? {
        Reply::Map(pairs) if pairs.iter().any(|(name, _)| is_text(name, b"proto")) => Ok(true),
        Reply::Error(text) => {
            let unknown = text.starts_with(b"NOPROTO") || text.starts_with(b"ERR unknown command");
            // An old server does not have the command, or the user may lack the right to it.
            let may_fall_back = unknown || text.starts_with(b"NOPERM");
            match options.protocol {
                Protocol::Auto if may_fall_back => Ok(false),
                _ if unknown => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the server at {} does not speak RESP3", options.address),
                )
                .with_hint("leave out `protocol=3`")),
                _ => Err(refused(&text, options)),
            }
        }
        other => Err(not_a_server(options, format!("{other:?}").as_bytes())),
    }
}

fn is_text(reply: &Reply, text: &[u8]) -> bool {
    matches!(reply, Reply::Bulk(bytes) | Reply::Simple(bytes) if bytes == text)
}

async fn greet_in_resp2(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if let Some(password) = &options.password {
        let mut args: Vec<Arg<'_>> = vec!["AUTH".into()];
        args.extend(options.username.as_deref().map(Arg::from));
        args.push(password.as_str().into());
        match first_answer(connection, options, &args).await? {
            Reply::Error(text) => return Err(refused(&text, options)),
            ok if is_text(&ok, b"OK") => {}
            other => return Err(not_a_server(options, format!("{other:?}").as_bytes())),
        }
    }
    if let Some(name) = &options.client_name {
        // The name is optional, so an old server without this command is fine.
        first_answer(connection, options, &["CLIENT".into(), "SETNAME".into(), name.as_str().into()]).await?;
    }
    match first_answer(connection, options, &["PING".into()]).await? {
        // The server answers. Later commands report such errors.
        Reply::Error(text) if text.starts_with(b"LOADING") || text.starts_with(b"NOPERM") => Ok(()),
        Reply::Error(text) => Err(refused(&text, options)),
        pong if is_text(&pong, b"PONG") => Ok(()),
        other => Err(not_a_server(options, format!("{other:?}").as_bytes())),
    }
}

async fn select(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if options.database == 0 {
        return Ok(());
    }
    match first_answer(connection, options, &["SELECT".into(), u64::from(options.database).into()]).await? {
        Reply::Error(text) => {
            Err(refused(&text, options).at(format_args!("database {} at {}", options.database, options.address)))
        }
        _ => Ok(()),
    }
}

/// The answer of a server that may speak another protocol.
async fn first_answer(connection: &mut Connection, options: &WireOptions, args: &[Arg<'_>]) -> Result<Reply> {
    let mut request = Request::new();
    request.command(args);
    connection.send(&request).await?;
    match connection.reply().await {
        // `e` is not the source: it quotes the answer, which may quote the password.
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(not_a_server(options, connection.unread())),
        Err(e) if e.kind() == ErrorKind::Unavailable => {
            Err(e.with_hint("is it a redis or valkey server without TLS, and below its limit of clients?"))
        }
        other => other,
    }
}

fn not_a_server(options: &WireOptions, answer: &[u8]) -> Error {
    let shown = match quotes_password(answer, options) {
        true => "text that holds the password".to_owned(),
        false => shorten(&answer[..answer.len().min(64)]),
    };
    Error::new(ErrorKind::Unavailable, format!("{} is not a RESP server: it answers `{shown}`", options.address))
        .with_hint("name host and port of a redis or valkey server")
}

/// Old servers quote the command that they refuse, with the password or a part of it.
fn refused(text: &[u8], options: &WireOptions) -> Error {
    // The whole text decides the kind.
    let e = server_error(text);
    if !quotes_password(text, options) {
        return e;
    }
    let code = text.split(|b| *b == b' ').next().unwrap_or_default();
    Error::new(e.kind(), format!("the server answers `{} ..`, and quotes the password", shorten(code)))
        .with_status(e.status())
        .with_hint(CHECK_PASSWORD)
}

/// Whether the text holds the password, or a part of it that helps to guess it.
fn quotes_password(text: &[u8], options: &WireOptions) -> bool {
    const SHORTEST_PART: usize = 4;
    let Some(password) = options.password.as_deref().map(str::as_bytes).filter(|password| !password.is_empty()) else {
        return false;
    };
    let part = password.len().min(SHORTEST_PART);
    let parts: HashSet<&[u8]> = password.windows(part).collect();
    text.windows(part).any(|part| parts.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp_wire::{Address, WireSettings};

    fn with_password(password: &str) -> WireOptions {
        let settings = WireSettings { password: Some(password.into()), ..WireSettings::default() };
        let url = connector_core::RemoteUrl::parse("resp://h:1").unwrap();
        settings.wire(&url, Address::Tcp { host: "h".into(), port: 1 }, 0).unwrap()
    }

    #[test]
    fn no_error_quotes_a_part_of_the_password() {
        let long = (0..200).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect::<String>();
        for (password, text) in [
            ("hunter2", "ERR invalid password hunter2".to_owned()),
            ("hunt", "ERR unknown command `AUTH`, with args beginning with: `hunt`".into()),
            ("x", "ERR x".into()),
            (&long, format!("ERR unknown command `AUTH`, with args beginning with: `{}`", &long[..128])),
            ("line\r\nbreaks", "ERR args: `line  breaks`".into()),
        ] {
            let options = with_password(password);
            for e in [refused(text.as_bytes(), &options), not_a_server(&options, text.as_bytes())] {
                let shown = format!("{e} {e:?}");
                let part = &password[..password.len().min(4)];
                assert!(password == "x" || !shown.contains(part), "{password}: {shown}");
                assert!(shown.contains("password"), "{shown}");
            }
        }
        let kept = refused(b"ERR AUTH <password> called without any password configured", &with_password("hunter2"));
        assert!(kept.to_string().contains("called without any"), "{kept}");
    }
}
