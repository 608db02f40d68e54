//! How a command ends: its answer or its failure, and the exit code of each.

use std::io;

use connectors::{Error, ErrorKind};

use crate::output::print_error;

pub(crate) const EXIT_INTERRUPTED: u8 = 130;
const EXIT_YES: u8 = 0;
const EXIT_NO: u8 = 1;
/// The same number as clap's.
pub(crate) const EXIT_USAGE: u8 = 2;
const EXIT_FAILED: u8 = 3;

/// The end of `kvconn --help`.
pub(crate) const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    a key is missing, a check or a ping failed, `scrub` left files, `cp` could not copy some
       chunks, or you did not confirm `rm`
  2    an argument, a name, a URL, an option, a key or a value in the configuration is wrong
  3    the store failed, a file could not be read or written, or stdout could not be written
  130  interrupted by Ctrl-C or SIGTERM

Environment:
  KVCONN_URL       the store that `@` stands for, and that `ls`, `du`, `ping` and `doctor` take without a URL
  KVCONN_CONFIG    the file of named stores [default: ~/.config/kvconn/config.toml]; `kvconn stores` lists them
  NO_COLOR, CLICOLOR_FORCE, TERM=dumb    no colours, colours, and neither colours nor progress

Start here:
  kvconn demo
  kvconn connectors";

/// The result of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The command is done. To a question, the answer is yes.
    Yes,
    /// See the exit code 1 in [`AFTER_HELP`].
    No,
    /// The user interrupted the command.
    Interrupted,
}

impl Answer {
    pub(crate) fn yes_if(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Yes => EXIT_YES,
            Self::No => EXIT_NO,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }
}

/// The reason why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument or a value of the configuration is wrong, or the store or a file failed: the error's kind says which.
    Error(Error),
    /// The same, and the error is on stderr already.
    Shown(Error),
    /// The command could not write to stdout.
    Stdout(io::Error),
    /// The user interrupted the command.
    Interrupted,
    /// The user interrupted the command, and it could not clean up in time.
    GaveUp,
}

impl Failure {
    /// Prints the error to stderr and gives the exit code.
    pub(crate) fn report(self) -> u8 {
        let (error, code) = match self {
            Self::Interrupted => return EXIT_INTERRUPTED,
            Self::GaveUp => {
                print_error(format_args!(
                    "stopped before everything was cleaned up, because the store does not answer in time"
                ));
                return EXIT_INTERRUPTED;
            }
            Self::Shown(e) => return exit_code_of(e.kind()),
            Self::Error(e) => {
                let code = exit_code_of(e.kind());
                (e, code)
            }
            Self::Stdout(e) => (Error::io(e, "write to stdout"), EXIT_FAILED),
        };
        print_error(error);
        code
    }
}

/// The user must change the command line or the configuration, or a store or a file failed.
fn exit_code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidUrl
        | ErrorKind::InvalidKey
        | ErrorKind::InvalidOption
        | ErrorKind::InvalidInput
        | ErrorKind::NotFound => EXIT_USAGE,
        _ => EXIT_FAILED,
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// Only stdout gives an `io::Error`: a file's error is made by [`Error::io`], which names the action.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Stdout(e)
    }
}
