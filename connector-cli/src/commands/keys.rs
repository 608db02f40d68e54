//! `kvconn exists`, and `rm` of the keys that the user names.

use std::io::{self, BufRead, Write};

use connectors::{CacheKey, Connector, Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::{ExistsArgs, LineArgs, RmArgs};
use crate::exit::{Answer, Failure};
use crate::output::{Errors, Out, Problem, mode};
use crate::setup::Setup;

/// Keys of one call, if they come from stdin.
const BATCH: usize = 256;

/// A question about keys, and how its answers are shown.
struct Question {
    /// For yes and no.
    words: [&'static str; 2],
    /// The field of JSON that holds the answer.
    field: &'static str,
    ask: Ask,
}

#[derive(Clone, Copy)]
enum Ask {
    Exists,
    Remove,
}

impl Ask {
    async fn of(self, store: &Connector, keys: &[CacheKey]) -> Vec<connectors::Result<bool>> {
        match self {
            Self::Exists => store.batched_exists(keys).await,
            Self::Remove => store.batched_remove(keys).await,
        }
    }
}

pub(crate) async fn exists(setup: &Setup, args: &ExistsArgs, out: &mut Out) -> Result<Answer, Failure> {
    let question = Question { words: ["yes", "no"], field: "exists", ask: Ask::Exists };
    question.about(setup, &args.url, Keys::of(setup, &args.keys, args.stdin, args.lines)?, args.lines, out).await
}

pub(crate) async fn rm(setup: &Setup, args: &RmArgs, out: &mut Out) -> Result<Answer, Failure> {
    let question = match args.dry_run {
        true => Question { words: ["would remove", "missing"], field: "would_remove", ask: Ask::Exists },
        false => Question { words: ["removed", "missing"], field: "removed", ask: Ask::Remove },
    };
    question.about(setup, &args.url, Keys::of(setup, &args.keys, args.stdin, args.lines)?, args.lines, out).await
}

impl Question {
    /// Prints one line a key, and all keys even if some fail.
    async fn about(
        &self,
        setup: &Setup,
        url: &str,
        mut keys: Keys,
        lines: LineArgs,
        out: &mut Out,
    ) -> Result<Answer, Failure> {
        setup
            .with_store(url, async |store| {
                let mut all = true;
                let mut errors = Errors::default();
                while let Some(batch) = keys.next(setup)? {
                    for (key, answer) in batch.iter().zip(self.ask.of(store, &batch).await) {
                        all &= *answer.as_ref().unwrap_or(&false);
                        self.show(key, &answer, lines, out)?;
                        if let Err(e) = answer {
                            errors.add(e);
                        }
                    }
                }
                errors.finish().map_or(Ok(Answer::yes_if(all)), Err)
            })
            .await
    }

    /// An error has a line only in JSON. Stderr has it, too.
    fn show(
        &self,
        key: &CacheKey,
        answer: &connectors::Result<bool>,
        lines: LineArgs,
        out: &mut Out,
    ) -> Result<(), Failure> {
        if mode::is_json() {
            let yes = answer.as_ref().ok();
            let mut line = json!({ "key": key.as_str(), self.field: yes });
            if let Err(e) = answer {
                line["error"] = serde_json::to_value(Problem::from(e)).unwrap_or(Value::Null);
            }
            return out.json_line(&line);
        }
        if mode::is_quiet() && !matches!(self.field, "would_remove") {
            return Ok(());
        }
        let Ok(yes) = answer else { return Ok(()) };
        let width = self.words.iter().map(|word| word.len()).max().unwrap_or(0);
        let word = self.words[usize::from(!*yes)];
        Ok(write!(out, "{word:width$}  {}{}", out.shown(key.as_str()), lines.end())?)
    }
}

/// The keys of the command line in one batch, or those of stdin in many.
enum Keys {
    Given(Vec<CacheKey>),
    Stdin { end: u8, lines: usize },
}

impl Keys {
    fn of(setup: &Setup, texts: &[String], stdin: bool, lines: LineArgs) -> Result<Self, Failure> {
        Ok(match stdin {
            // One byte: `\n` or `\0`.
            true => Self::Stdin { end: lines.end() as u8, lines: 0 },
            false => Self::Given(setup.keys(texts)?),
        })
    }

    /// The next batch. `None` at the end.
    fn next(&mut self, setup: &Setup) -> Result<Option<Vec<CacheKey>>, Failure> {
        let batch = match self {
            Self::Given(keys) => std::mem::take(keys),
            Self::Stdin { end, lines } => {
                let mut batch = Vec::new();
                while batch.len() < BATCH
                    && let Some(line) = setup.interrupt.blocking(|| read_line(*end))?
                {
                    *lines += 1;
                    if !line.is_empty() {
                        batch.push(read_key(setup, &line, *lines)?);
                    }
                }
                batch
            }
        };
        Ok((!batch.is_empty()).then_some(batch))
    }
}

/// The next line of stdin, without its end. `None` at the end of stdin.
fn read_line(end: u8) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(end, &mut line).map_err(|e| Error::io(e, "read stdin"))?;
    line.pop_if(|last| *last == end);
    Ok((read > 0).then_some(line))
}

fn read_key(setup: &Setup, line: &[u8], number: usize) -> Result<CacheKey, Failure> {
    let place = format!("line {number} of stdin");
    let text = std::str::from_utf8(line).map_err(|_| Error::new(ErrorKind::InvalidKey, "is not UTF-8").at(&place))?;
    setup.key(text).map_err(|failure| match failure {
        Failure::Error(e) => Failure::Error(e.at(&place)),
        other => other,
    })
}
