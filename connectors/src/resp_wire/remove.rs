//! Removes values: by `UNLINK`, or by `DEL` on a server that refuses `UNLINK`.

use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::errors::{code, expect_int, server_error};
use super::exchange::{Exchange, Wire};
use super::name::Name;
use super::reply::Reply;
use super::request::{Arg, Request};

/// Removes values, and remembers whether the server refuses `UNLINK`.
#[derive(Debug, Default)]
pub(crate) struct Remover {
    lacks_unlink: AtomicBool,
}

/// The suffixes of the values to remove.
pub(crate) type Suffixes = &'static [&'static str];

impl Remover {
    /// The command that works on this server, as far as it is known.
    pub(crate) fn command(&self) -> &'static str {
        if self.lacks_unlink.load(Ordering::Relaxed) { "DEL" } else { "UNLINK" }
    }

    /// Removes the values of each chunk with these suffixes. True for a chunk that had all of them.
    ///
    /// One command removes the values of a chunk. In a cluster the values lie on several nodes, so each has its own command.
    pub(crate) async fn remove(&self, wire: &Wire, chunks: &[(Name<'_>, Suffixes)]) -> Vec<Result<bool>> {
        let together = if wire.is_cluster() { 1 } else { usize::MAX };
        let parts = |&(name, suffixes): &(_, Suffixes)| suffixes.chunks(together).map(move |part| (name, part));
        let mut removed = self.unlink(wire, &chunks.iter().flat_map(parts).collect::<Vec<_>>()).await.into_iter();
        let of_chunk = |&(_, suffixes): &(_, Suffixes)| {
            let parts: Vec<_> = removed.by_ref().take(suffixes.chunks(together).len()).collect();
            let values: Result<i64> = parts.into_iter().sum();
            values.map(|values| values == suffixes.len() as i64)
        };
        chunks.iter().map(of_chunk).collect()
    }

    /// The number of values that each command removed.
    async fn unlink(&self, wire: &Wire, parts: &[(Name<'_>, Suffixes)]) -> Vec<Result<i64>> {
        let with = |command| move |&(name, suffixes): &_| Remove { name, suffixes, command };
        let mut answers = wire.exchange_all(parts.iter().map(with(self.command())).collect()).await;
        let is_refused =
            |(at, answer): (usize, &Result<Removed>)| matches!(answer, Ok(Removed::Refused(_))).then_some(at);
        let refused: Vec<usize> = answers.iter().enumerate().filter_map(is_refused).collect();
        if !refused.is_empty() {
            let again = refused.iter().map(|&at| &parts[at]).map(with("DEL")).collect();
            for (at, answer) in refused.into_iter().zip(wire.exchange_all(again).await) {
                if answer.is_ok() {
                    self.lacks_unlink.store(true, Ordering::Relaxed);
                }
                let denied = |e: &Error| e.kind() == ErrorKind::Denied;
                match (&answers[at], &answer) {
                    // The user may have the right to `UNLINK`, but not to the keys.
                    (Ok(Removed::Refused(first)), Err(e)) if denied(first) && denied(e) => {}
                    _ => answers[at] = answer,
                }
            }
        }
        let removed = |answer| match answer {
            Removed::Values(n) => Ok(n),
            Removed::Refused(e) => Err(e),
        };
        answers.into_iter().map(|answer| answer.and_then(removed)).collect()
    }
}

/// A command that removes values of one chunk.
struct Remove<'a> {
    name: Name<'a>,
    suffixes: Suffixes,
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
        let names = self.suffixes.iter().map(|suffix| self.name.with(suffix));
        request.command(&[Arg::from(self.command)].into_iter().chain(names).collect::<Vec<_>>());
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Removed>> {
        Ok(match connection.reply().await? {
            Reply::Error(text) if self.command == "UNLINK" && matches!(code(&text), b"ERR" | b"NOPERM") => {
                Ok(Removed::Refused(server_error(&text)))
            }
            Reply::Error(text) => Err(server_error(&text)),
            reply => expect_int(reply).map(Removed::Values),
        })
    }
}
