//! The first words on a connection: who is there, may we, which database.

use connector_core::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::errors::{server_error, shorten};
use super::options::{Protocol, WireOptions};
use super::reply::Reply;
use super::request::{Arg, Request};

/// Greets the server and takes the protocol that both know.
pub(super) async fn handshake(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if options.protocol != Protocol::Resp2 && greet_by_hello(connection, options).await? {
        return select(connection, options).await;
    }
    greet_as_of_old(connection, options).await?;
    select(connection, options).await
}

/// RESP3, and everything in one command. `false` if the server does not know it, and another way may be tried.
async fn greet_by_hello(connection: &mut Connection, options: &WireOptions) -> Result<bool> {
    let mut args: Vec<Arg<'_>> = vec!["HELLO".into(), "3".into()];
    if let Some(password) = &options.password {
        args.extend([Arg::from("AUTH"), options.username.as_deref().unwrap_or("default").into()]);
        args.push(password.as_str().into());
    }
    if let Some(name) = &options.client_name {
        args.extend([Arg::from("SETNAME"), name.as_str().into()]);
    }
    match first_answer(connection, options, &Request::of(&args)).await? {
        Reply::Map(_) | Reply::Array(_) => Ok(true),
        Reply::Error(said) => {
            let unknown = said.starts_with(b"NOPROTO") || said.starts_with(b"ERR unknown command");
            // Old servers do not have the command; a user may not have the right to it.
            let may_fall_back = unknown || said.starts_with(b"NOPERM");
            match options.protocol {
                Protocol::Auto if may_fall_back => Ok(false),
                _ if unknown => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the server at {} does not speak RESP3", options.address),
                )
                .with_hint("leave out `protocol=3`")),
                _ => Err(refused(&said, options)),
            }
        }
        other => Err(no_server(options, format!("{other:?}").as_bytes())),
    }
}

/// RESP2.
async fn greet_as_of_old(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if let Some(password) = &options.password {
        let mut args: Vec<Arg<'_>> = vec!["AUTH".into()];
        args.extend(options.username.as_deref().map(Arg::from));
        args.push(password.as_str().into());
        if let Reply::Error(said) = first_answer(connection, options, &Request::of(&args)).await? {
            return Err(refused(&said, options));
        }
    }
    if let Some(name) = &options.client_name {
        // Only a name: a server that does not know the command serves as well.
        first_answer(connection, options, &Request::of(&["CLIENT".into(), "SETNAME".into(), name.as_str().into()]))
            .await?;
    }
    match first_answer(connection, options, &Request::of(&["PING".into()])).await? {
        // It is there. What it says to later commands, those report.
        Reply::Error(said) if said.starts_with(b"LOADING") || said.starts_with(b"NOPERM") => Ok(()),
        Reply::Error(said) => Err(refused(&said, options)),
        _ => Ok(()),
    }
}

async fn select(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if options.database == 0 {
        return Ok(());
    }
    let request = Request::of(&["SELECT".into(), u64::from(options.database).into()]);
    match first_answer(connection, options, &request).await? {
        Reply::Error(said) => {
            Err(refused(&said, options).at(format_args!("database {} at {}", options.database, options.address)))
        }
        _ => Ok(()),
    }
}

/// Asks something that may be no server of this kind at all.
async fn first_answer(connection: &mut Connection, options: &WireOptions, request: &Request<'_>) -> Result<Reply> {
    connection.send(request).await?;
    match connection.reply().await {
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(no_server(options, connection.unread()).with_source(e)),
        Err(e) if e.kind() == ErrorKind::Unavailable => {
            Err(e.with_hint("is it a redis or valkey server without TLS, and below its limit of clients?"))
        }
        other => other,
    }
}

fn no_server(options: &WireOptions, said: &[u8]) -> Error {
    let said = shorten(&said[..said.len().min(64)]);
    Error::new(ErrorKind::Unavailable, format!("{} is no RESP server: it answers `{said}`", options.address))
        .with_hint("name host and port of a redis or valkey server")
}

/// Old servers quote the command that they refuse, password and all.
fn refused(said: &[u8], options: &WireOptions) -> Error {
    let said = String::from_utf8_lossy(said);
    let said = match options.password.as_deref() {
        Some(password) if !password.is_empty() => said.replace(password, "***"),
        _ => said.into_owned(),
    };
    server_error(said.as_bytes())
}
