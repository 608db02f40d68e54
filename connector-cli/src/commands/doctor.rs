//! `kvconn doctor`: examines a store, the way to it, and this machine.

mod client;
mod network;
mod report;
mod trial;

use std::time::{Duration, Instant};

use connectors::{Connector, Diagnosis, Error, ErrorKind, redact};

use crate::args::DoctorArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Time};
use crate::setup::Setup;
use report::Report;

pub(crate) async fn run(setup: &Setup, args: &DoctorArgs, out: &mut Out) -> Result<Answer, Failure> {
    let url = setup.store(&args.url)?;
    let mut report = Report::new(redact(&url), args.json, out);
    let examined = examine(setup, &url, args, &mut report).await;
    match examined {
        Ok(()) | Err(Failure::Interrupted) => {}
        Err(failure) => return Err(failure),
    }
    report.end(setup.interrupt.is_set())
}

async fn examine(setup: &Setup, url: &str, args: &DoctorArgs, report: &mut Report<'_>) -> Result<(), Failure> {
    let limit = args.timeout;
    let Some(store) = open(setup, url, limit, report).await? else {
        return client::examine(setup, report);
    };
    setup
        .with(store, async |store| {
            match setup.interrupt.stops(store.within(limit).diagnose()).await? {
                Ok(lines) => lines.into_iter().try_for_each(|line| report.add(line))?,
                Err(e) => report.add(of_error("state", &e))?,
            }
            trial::examine(store, args, &setup.interrupt, report).await
        })
        .await?;
    client::examine(setup, report)
}

/// Opens the store. `None` if a line says why it does not open.
async fn open(
    setup: &Setup,
    url: &str,
    limit: Duration,
    report: &mut Report<'_>,
) -> Result<Option<Connector>, Failure> {
    let context = match setup.builder(url).build() {
        Ok(context) => context,
        Err(e) => {
            report.add(of_error("url", &e))?;
            return Ok(None);
        }
    };
    report.add(Diagnosis::ok("url", context.url().to_string()))?;
    let way = setup.interrupt.stops(network::examine(&context, limit)).await?;
    let start = Instant::now();
    let opened = setup.interrupt.stops(tokio::time::timeout(limit, setup.builder(url).open())).await?;
    let opened = opened.unwrap_or_else(|_| {
        let why = format!("the store did not open within {} s", limit.as_secs_f64());
        Err(Error::new(ErrorKind::Timeout, why).with_hint("check that the server runs and answers"))
    });
    match opened {
        Ok(store) => {
            // A store may not use the URL's host itself.
            way.into_iter().filter(|line| line.advice.is_none()).try_for_each(|line| report.add(line))?;
            report.opened(&store);
            report.add(Diagnosis::ok("open", format!("{} in {}", store.name(), Time(start.elapsed()))))?;
            Ok(Some(store))
        }
        Err(e) => {
            way.into_iter().try_for_each(|line| report.add(line))?;
            let check = match e.kind() {
                ErrorKind::Denied if !context.location().hosts().is_empty() => "auth",
                ErrorKind::InvalidUrl | ErrorKind::InvalidOption => "options",
                _ => "open",
            };
            report.add(of_error(check, &e))?;
            Ok(None)
        }
    }
}

/// The line of an error: its text, and its hint as the advice.
fn of_error(check: &str, e: &Error) -> Diagnosis {
    let advice = e.hint().unwrap_or(match e.kind() {
        ErrorKind::Denied => "grant this user the right",
        ErrorKind::InvalidOption => "correct the option, or set the variable that it names",
        ErrorKind::Timeout | ErrorKind::Unavailable => "check that the server runs, and the network between",
        _ => "correct the URL, or the store that it names",
    });
    Diagnosis::fail(check, e.message(), advice)
}
