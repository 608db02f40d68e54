//! `kvconn ping`: checks that a store answers.

use std::io::Write;
use std::time::Instant;

use connectors::ErrorKind;

use crate::args::PingArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Time};
use crate::setup::Setup;

pub(crate) async fn run(setup: &Setup, args: &PingArgs, out: &mut Out) -> Result<Answer, Failure> {
    let start = Instant::now();
    setup
        .with_store(&args.url, async |store| {
            let opened = start.elapsed();
            let start = Instant::now();
            match store.ping().await {
                Ok(()) => {
                    let (trip, opened) = (Time(start.elapsed()), Time(opened));
                    writeln!(out, "{} answered in {trip} (opened in {opened})", store.name())?;
                    Ok(Answer::Yes)
                }
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    Err(e.with_hint("kvconn opened the store, but it has no ping; try `kvconn exists`").into())
                }
                Err(e) => Err(e.into()),
            }
        })
        .await
}
