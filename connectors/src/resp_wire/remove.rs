//! Removes chunks: by `UNLINK`, or by `DEL` on a server that refuses `UNLINK`.

use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::{Error, Result};

use super::connection::Connection;
use super::errors::{code, expect_int, server_error};
use super::exchange::{Exchange, Wire};
use super::name::{Name, Slots};
use super::reply::Reply;
use super::request::{Arg, Request};

/// Removes chunks, and remembers whether the server refuses `UNLINK`.
#[derive(Debug, Default)]
pub(crate) struct Remover {
    lacks_unlink: AtomicBool,
}

impl Remover {
    /// The command that works on this server, as far as it is known.
    pub(crate) fn command(&self) -> &'static str {
        if self.lacks_unlink.load(Ordering::Relaxed) { "DEL" } else { "UNLINK" }
    }

    /// Removes the values with these suffixes. True for a chunk that had all of them.
    pub(crate) async fn remove(
        &self,
        wire: &Wire,
        names: &[Name<'_>],
        suffixes: &'static [&'static str],
        slots: Slots<'_>,
    ) -> Vec<Result<bool>> {
        let with = |command| move |&name| Remove { name, suffixes, slots, command };
        let mut answers = wire.exchange_all(names.iter().map(with(self.command())).collect()).await;
        let is_refused =
            |(at, answer): (usize, &Result<Removed>)| matches!(answer, Ok(Removed::Refused(_))).then_some(at);
        let refused: Vec<usize> = answers.iter().enumerate().filter_map(is_refused).collect();
        if !refused.is_empty() {
            let again = refused.iter().map(|&at| &names[at]).map(with("DEL")).collect();
            for (at, answer) in refused.into_iter().zip(wire.exchange_all(again).await) {
                if answer.is_ok() {
                    self.lacks_unlink.store(true, Ordering::Relaxed);
                }
                answers[at] = answer;
            }
        }
        let removed = |answer| match answer {
            Removed::Values(n) => Ok(n == suffixes.len() as i64),
            Removed::Refused(e) => Err(e),
        };
        answers.into_iter().map(|answer| answer.and_then(removed)).collect()
    }
}

/// One chunk's removal.
struct Remove<'a> {
    name: Name<'a>,
    suffixes: &'static [&'static str],
    slots: Slots<'a>,
    command: &'static str,
}

enum Removed {
    /// The number of values that were there.
    Values(i64),
    /// The server does not know `UNLINK`, or the user may not run it.
    Refused(Error),
}

impl Exchange for Remove<'_> {
    type Answer = Removed;
    const SMALL: bool = true;
    const REPEATABLE: bool = false;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(self.suffixes[0]))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let each = if self.slots.apart { 1 } else { self.suffixes.len() };
        for suffixes in self.suffixes.chunks(each) {
            let names = suffixes.iter().map(|suffix| self.name.with(suffix));
            request.command(&[Arg::from(self.command)].into_iter().chain(names).collect::<Vec<_>>());
        }
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Removed>> {
        let commands = if self.slots.apart { self.suffixes.len() } else { 1 };
        let mut removed = Ok(Removed::Values(0));
        for _ in 0..commands {
            let answer = match self.slots.learn(connection.reply().await?) {
                Reply::Error(text) if self.command == "UNLINK" && matches!(code(&text), b"ERR" | b"NOPERM") => {
                    Ok(Removed::Refused(server_error(&text)))
                }
                Reply::Error(text) => Err(server_error(&text)),
                reply => expect_int(reply).map(Removed::Values),
            };
            removed = match (removed, answer) {
                (Ok(Removed::Values(a)), Ok(Removed::Values(b))) => Ok(Removed::Values(a + b)),
                (Ok(Removed::Values(_)), other) | (other, _) => other,
            };
        }
        Ok(removed)
    }
}
