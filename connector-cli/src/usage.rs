//! The messages of the argument parser: help, version, and errors of usage.

use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue};

use crate::escape::escaped;
use crate::exit::{Answer, EXIT_USAGE, Failure};
use crate::output::users;

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
    let _ = write!(anstream::stderr(), "{}", message.render().ansi());
    EXIT_USAGE
}
