//! `kvconn ping`: checks that a store answers, and shows its round trips and its servers.

mod trips;

use std::io::Write;
use std::time::{Duration, Instant};

use connectors::{Connector, Error, ErrorKind, Result, ServerInfo};
use serde_json::{Map, Value, json};

use crate::args::PingArgs;
use crate::exit::{Answer, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Out, Time, print_error};
use crate::setup::Setup;
use trips::Trips;

/// What became known about the store.
#[derive(Default)]
struct Known {
    connector: Option<String>,
    opened: Duration,
    servers: Vec<ServerInfo>,
    trips: Trips,
}

pub(crate) async fn run(setup: &Setup, args: &PingArgs, out: &mut Out) -> Result<Answer, Failure> {
    let mut known = Known::default();
    let answer = ping(setup, args, out, &mut known).await;
    if args.json && !matches!(&answer, Err(Failure::Stdout(_))) {
        let error = match &answer {
            Err(Failure::Error(e)) => Some(e),
            _ => known.trips.first_error(),
        };
        out.json(&as_json(&known, error))?;
    } else if args.count != 1 && known.trips.sent() > 0 {
        writeln!(out, "{}", known.trips)?;
    }
    answer
}

async fn ping(setup: &Setup, args: &PingArgs, out: &mut Out, known: &mut Known) -> Result<Answer, Failure> {
    let url = setup.store(&args.url)?;
    let start = Instant::now();
    let opening = tokio::time::timeout(args.timeout, setup.builder(&url).existing(true).open());
    let opened = setup.interrupt.stops(opening).await?;
    known.opened = start.elapsed();
    let store = opened.unwrap_or_else(|_| {
        let why = format!("the store did not open within {} s", args.timeout.as_secs_f64());
        Err(Error::new(ErrorKind::Timeout, why).with_hint("`kvconn doctor` examines the way to it"))
    })?;
    known.connector = Some(store.name().to_owned());
    setup.with(store, async |store| pings(&store.within(args.timeout), args, &setup.interrupt, out, known).await).await
}

async fn pings(
    store: &Connector,
    args: &PingArgs,
    interrupt: &Interrupt,
    out: &mut Out,
    known: &mut Known,
) -> Result<Answer, Failure> {
    let first = known.trips.add(store, interrupt).await?;
    let found = interrupt.stops(store.servers()).await?;
    // Without an answer to the ping, its error says more than the one of this call.
    known.servers = found.or_else(|e| if first.is_ok() { Err(e) } else { Ok(Vec::new()) })?;
    if !args.json {
        let opened = Time(known.opened);
        match &first {
            Ok(trip) => writeln!(out, "{} answered in {} (opened in {opened})", store.name(), Time(*trip))?,
            Err(e) if args.count != 1 => print_error(e),
            Err(_) => {}
        }
        // The error names a single server that does not answer.
        if first.is_ok() || known.servers.len() > 1 {
            print_servers(out, &known.servers)?;
        }
    }
    let more = |sent: u64| args.count == 0 || sent < args.count;
    let can_ping = !matches!(&first, Err(e) if e.kind() == ErrorKind::Unsupported);
    while can_ping && more(known.trips.sent()) && !interrupt.is_set() && !out.is_closed() {
        tokio::select! {
            () = tokio::time::sleep(args.interval) => {}
            () = interrupt.clone().wait() => break,
        }
        let Ok(answer) = known.trips.add(store, interrupt).await else { break };
        if args.json {
            continue;
        }
        match answer {
            Ok(trip) => writeln!(out, "{}: {}", known.trips.sent(), Time(trip))?,
            Err(e) => print_error(e.at(format_args!("ping {}", known.trips.sent()))),
        }
        // A reader of a pipe wants each line now.
        out.flush()?;
    }
    if interrupt.is_set() {
        return Ok(Answer::Interrupted);
    }
    match known.trips.only_errors() {
        None => Ok(Answer::yes_if(known.trips.first_error().is_none())),
        Some(e) if e.kind() == ErrorKind::Unsupported => {
            Err(e.clone().with_hint("kvconn opened the store, but it has no ping; try `kvconn exists`").into())
        }
        Some(e) => Err(e.clone().into()),
    }
}

fn as_json(known: &Known, error: Option<&Error>) -> Value {
    let text = |e: &Error| e.to_string();
    let servers = known.servers.iter().map(|server| {
        let details = server.details.iter().map(|(name, value)| (name.clone(), json!(value)));
        json!({
            "address": server.address,
            "role": server.role,
            "details": details.collect::<Map<_, _>>(),
            "error": server.error.as_ref().map(text),
        })
    });
    json!({
        "connector": known.connector.as_deref().or_else(|| error?.connector()),
        "error": error.map(text),
        "seconds": known.trips.first_seconds(),
        "open_seconds": known.opened.as_secs_f64(),
        "pings": known.trips.as_json(),
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
