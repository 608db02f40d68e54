//! The messages of the argument parser: help, version, and errors of usage.

use std::error::Error as _;
use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue};

use crate::escape::escaped;
use crate::exit::{Answer, EXIT_USAGE, Failure};
use crate::output::{Problem, mode, print_error, users};

/// The parts of a message that may repeat text of the user.
const REPEATED: [ContextKind; 4] =
    [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand, ContextKind::TrailingArg];

/// Prints the message and gives the exit code.
pub(crate) fn report(mut message: clap::Error) -> u8 {
    if !message.use_stderr() {
        let mut stdout = anstream::stdout();
        return match write!(stdout, "{}", message.render().ansi()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Failure::Stdout(e).report(),
            _ => Answer::Yes.exit_code(),
        };
    }
    if let Some(e) = message.source().and_then(|source| source.downcast_ref::<connectors::Error>()) {
        return Failure::Error(e.clone()).report();
    }
    for kind in REPEATED {
        if let Some(ContextValue::String(text)) = message.get(kind) {
            let shown = escaped(&users(text)).into_owned();
            if shown != *text {
                message.insert(kind, ContextValue::String(shown));
                // A tip that repeats the same text.
                message.remove(ContextKind::Suggested);
            }
        }
    }
    if mode::is_json() {
        print_error(as_problem(&message.render().to_string()));
    } else {
        let _ = write!(anstream::stderr(), "{}", message.render().ansi());
    }
    EXIT_USAGE
}

/// The message's first paragraph, and its tips as the hint.
fn as_problem(text: &str) -> Problem {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(one_line);
    let first = paragraphs.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or("no command is given");
    let tips: Vec<String> = paragraphs.filter_map(|text| text.strip_prefix("tip: ").map(str::to_owned)).collect();
    let hint = if tips.is_empty() { "`kvconn --help` shows the usage".to_owned() } else { tips.join("; ") };
    Problem::new("usage", message, Some(hint))
}
