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
        Reply::Map(pairs) if pairs.iter().any(|(name, _)| is_text(name, b"proto")) => Ok(true),
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

fn is_text(reply: &Reply, text: &[u8]) -> bool {
    matches!(reply, Reply::Bulk(bytes) | Reply::Simple(bytes) if bytes == text)
}

/// RESP2.
async fn greet_as_of_old(connection: &mut Connection, options: &WireOptions) -> Result<()> {
    if let Some(password) = &options.password {
        let mut args: Vec<Arg<'_>> = vec!["AUTH".into()];
        args.extend(options.username.as_deref().map(Arg::from));
        args.push(password.as_str().into());
        match first_answer(connection, options, &Request::of(&args)).await? {
            Reply::Error(said) => return Err(refused(&said, options)),
            ok if is_text(&ok, b"OK") => {}
            other => return Err(no_server(options, format!("{other:?}").as_bytes())),
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
        pong if is_text(&pong, b"PONG") => Ok(()),
        other => Err(no_server(options, format!("{other:?}").as_bytes())),
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
        // Not with `e` as the source: it quotes what was sent, which may be our own words.
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(no_server(options, connection.unread())),
        Err(e) if e.kind() == ErrorKind::Unavailable => {
            Err(e.with_hint("is it a redis or valkey server without TLS, and below its limit of clients?"))
        }
        other => other,
    }
}

fn no_server(options: &WireOptions, said: &[u8]) -> Error {
    let said = match quotes_password(said, options) {
        true => "what holds the password".to_owned(),
        false => shorten(&said[..said.len().min(64)]),
    };
    Error::new(ErrorKind::Unavailable, format!("{} is no RESP server: it answers `{said}`", options.address))
        .with_hint("name host and port of a redis or valkey server")
}

/// Old servers quote the command that they refuse, password and all, or as much of it as fits.
fn refused(said: &[u8], options: &WireOptions) -> Error {
    if !quotes_password(said, options) {
        return server_error(said);
    }
    let code = said.split(|b| *b == b' ').next().unwrap_or_default();
    // By the whole text, so that its kind is right.
    let e = server_error(said);
    Error::new(e.kind(), format!("the server answers `{} ..`, and quotes the password", shorten(code)))
        .with_status(e.status())
        .with_hint("check user and password in the URL: `//user:password@host`")
}

/// Whether what was said holds the password or a part of it that would help to guess it.
fn quotes_password(said: &[u8], options: &WireOptions) -> bool {
    const TELLING: usize = 4;
    let Some(password) = options.password.as_deref().map(str::as_bytes).filter(|password| !password.is_empty()) else {
        return false;
    };
    let part = password.len().min(TELLING);
    let parts: std::collections::HashSet<&[u8]> = password.windows(part).collect();
    said.windows(part).any(|part| parts.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp_wire::Address;

    fn with_password(password: &str) -> WireOptions {
        let mut options = WireOptions::new(Address::Tcp { host: "h".into(), port: 1 });
        options.password = Some(password.into());
        options
    }

    #[test]
    fn no_error_quotes_a_part_of_the_password() {
        let long = (0..200).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect::<String>();
        for (password, said) in [
            ("hunter2", "ERR invalid password hunter2".to_owned()),
            ("hunt", "ERR unknown command `AUTH`, with args beginning with: `hunt`".into()),
            ("x", "ERR x".into()),
            (&long, format!("ERR unknown command `AUTH`, with args beginning with: `{}`", &long[..128])),
            ("line\r\nbreaks", "ERR args: `line  breaks`".into()),
        ] {
            let options = with_password(password);
            for e in [refused(said.as_bytes(), &options), no_server(&options, said.as_bytes())] {
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
