//! `kvconn ping`: checks that a store answers, and shows its servers.

use std::io::Write;
use std::time::{Duration, Instant};

use connectors::{Error, ErrorKind, Result, ServerInfo};
use serde_json::{Map, Value, json};

use crate::args::PingArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Time};
use crate::setup::Setup;

pub(crate) async fn run(setup: &Setup, args: &PingArgs, out: &mut Out) -> Result<Answer, Failure> {
    let start = Instant::now();
    let mut is_shown = false;
    let answer = ping(setup, args, out, &mut is_shown).await;
    if let Err(Failure::Error(e)) = &answer
        && args.json
        && !is_shown
    {
        out.json(&as_json(e.connector(), Some(e), (start.elapsed(), None), &[]))?;
    }
    answer
}

async fn ping(setup: &Setup, args: &PingArgs, out: &mut Out, is_shown: &mut bool) -> Result<Answer, Failure> {
    let start = Instant::now();
    setup
        .with_store(&args.url, async |store| {
            let opened = start.elapsed();
            let start = Instant::now();
            let answer = store.ping().await;
            let trip = start.elapsed();
            let found = store.servers().await;
            // Without an answer to the ping, its error says more than the one of this call.
            let servers = found.or_else(|e| if answer.is_ok() { Err(e) } else { Ok(Vec::new()) })?;
            if args.json {
                *is_shown = true;
                out.json(&as_json(Some(store.name()), answer.as_ref().err(), (opened, Some(trip)), &servers))?;
            } else {
                if answer.is_ok() {
                    writeln!(out, "{} answered in {} (opened in {})", store.name(), Time(trip), Time(opened))?;
                }
                // The error names a single server that does not answer.
                if answer.is_ok() || servers.len() > 1 {
                    print_servers(out, &servers)?;
                }
            }
            match answer {
                Ok(()) => Ok(Answer::Yes),
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    Err(e.with_hint("kvconn opened the store, but it has no ping; try `kvconn exists`").into())
                }
                Err(e) => Err(e.into()),
            }
        })
        .await
}

/// The answer, or the error of a store that did not open.
fn as_json(
    connector: Option<&str>,
    error: Option<&Error>,
    (opened, trip): (Duration, Option<Duration>),
    servers: &[ServerInfo],
) -> Value {
    let text = |e: &Error| e.to_string();
    let servers = servers.iter().map(|server| {
        let details = server.details.iter().map(|(name, value)| (name.clone(), json!(value)));
        json!({
            "address": server.address,
            "role": server.role,
            "details": details.collect::<Map<_, _>>(),
            "error": server.error.as_ref().map(text),
        })
    });
    json!({
        "connector": connector,
        "error": error.map(text),
        "seconds": trip.map(|trip| trip.as_secs_f64()),
        "open_seconds": opened.as_secs_f64(),
        "servers": servers.collect::<Vec<_>>(),
    })
}

/// A line for each server: address and role in columns, and then the details or the error.
fn print_servers(out: &mut Out, servers: &[ServerInfo]) -> Result<(), Failure> {
    let role = |server: &ServerInfo| server.role.clone().unwrap_or_else(|| "server".to_owned());
    let widest = |text: fn(&ServerInfo) -> usize| servers.iter().map(text).max().unwrap_or(0);
    let address_width = widest(|server| server.address.chars().count());
    let role_width = widest(|server| server.role.as_ref().map_or("server".len(), |role| role.chars().count()));
    let style = out.style();
    for server in servers {
        let mut facts: Vec<String> = server.details.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let (red, plain) = if server.error.is_some() { (style.red, style.plain) } else { ("", "") };
        facts.extend(server.error.iter().map(|e| format!("away: {e}")));
        let (address, role) = (&server.address, role(server));
        let line = format!("  {address:address_width$}  {role:role_width$}  {}", facts.join(", "));
        writeln!(out, "{red}{}{plain}", out.shown(line.trim_end()))?;
    }
    Ok(())
}
