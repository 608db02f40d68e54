//! Output: stdout, messages on stderr, exit codes, formats of numbers.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use connectors::{Error, ErrorKind, redact};
use serde::Serialize;

pub(crate) const EXIT_INTERRUPTED: u8 = 130;
const EXIT_YES: u8 = 0;
const EXIT_NO: u8 = 1;
/// The same number as clap's.
const EXIT_USAGE: u8 = 2;
const EXIT_FAILED: u8 = 3;

pub(crate) const BOLD: &str = "\x1b[1m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const PLAIN: &str = "\x1b[0m";
pub(crate) const RED: &str = "\x1b[31m";

/// The result of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The command is done. To a question, the answer is yes.
    Yes,
    /// A key is missing, or some keys or checks failed.
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
    /// The store, a file or the configuration failed.
    Error(Error),
    /// The command could not write to stdout.
    Stdout(io::Error),
}

impl Failure {
    /// Prints the error to stderr and gives the exit code. A closed pipe (`| head`) is not an error.
    pub(crate) fn report(self) -> u8 {
        match self {
            Self::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => return EXIT_YES,
            Self::Stdout(e) => print_error(Error::io(e, "write to stdout")),
            Self::Error(e) => {
                let usage = matches!(e.kind(), ErrorKind::InvalidUrl | ErrorKind::InvalidKey);
                print_error(e);
                if usage {
                    return EXIT_USAGE;
                }
            }
        }
        EXIT_FAILED
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

/// Stdout: buffered for a pipe, line by line for a terminal. Drops colours if the environment or the pipe wants none.
pub(crate) struct Out {
    stream: BufWriter<anstream::AutoStream<io::Stdout>>,
    is_terminal: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self { stream: BufWriter::new(anstream::stdout()), is_terminal: io::stdout().is_terminal() }
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut *self, value).map_err(io::Error::from)?;
        Ok(writeln!(self)?)
    }

    /// Writes a chunk's bytes, without the filter for colours.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.flush()?;
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Flushes the buffer. A closed pipe is not an error, because the command's answer is known already.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        match self.stream.flush() {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        if self.is_terminal && bytes[..written].contains(&b'\n') {
            self.stream.flush()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Prints an error to stderr, as one line. Ignores a closed stderr.
pub(crate) fn print_error(text: impl fmt::Display) {
    let mut text = text.to_string();
    // If the user wrote a URL in place of a file or a key, the error repeats it.
    for arg in std::env::args_os().skip(1) {
        let arg = arg.to_string_lossy();
        if arg.contains("://") {
            text = text.replace(&*arg, &redact(&arg));
        }
    }
    let _ = writeln!(anstream::stderr(), "{RED}kvconn:{PLAIN} {text}");
}

/// Prints a remark to stderr, as one line.
pub(crate) fn print_note(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "kvconn: {text}");
}

/// Prints clap's message, help or version, and gives the exit code. Redacts arguments that the message repeats.
pub(crate) fn wrong_usage(e: &clap::Error) -> u8 {
    if !e.use_stderr() {
        let _ = e.print();
        return EXIT_YES;
    }
    let mut text = e.render().ansi().to_string();
    for arg in std::env::args_os().skip(1) {
        let arg = arg.to_string_lossy();
        let value = arg.split_once('=').map_or(&*arg, |(_, value)| value);
        for secret in [&*arg, value] {
            text = text.replace(secret, &redact(secret));
        }
    }
    let _ = write!(anstream::stderr(), "{text}");
    u8::try_from(e.exit_code()).unwrap_or(EXIT_FAILED)
}

/// A time with three significant digits: `12.3 µs`.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos() as f64;
        let (value, unit) = match ns {
            ns if ns < 1e3 => return f.pad(&format!("{ns:.0} ns")),
            ns if ns < 1e6 => (ns / 1e3, "µs"),
            ns if ns < 1e9 => (ns / 1e6, "ms"),
            ns => (ns / 1e9, "s"),
        };
        f.pad(&format!("{} {unit}", three_digits(value)))
    }
}

/// GiB per second.
pub(crate) fn gib_per_s(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 30) / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A number with three significant digits: `1.52`, `15.2`, `152`.
pub(crate) fn three_digits(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A number of things: `1 chunk`, `2 chunks`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_and_a_unit() {
        for (ns, shown) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (45_600_000, "45.6 ms"),
            (789_000_000, "789 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(Time(Duration::from_nanos(ns)).to_string(), shown);
        }
    }

    #[test]
    fn rates_count_bytes_in_gib() {
        assert_eq!(three_digits(gib_per_s(3 << 29, Duration::from_secs(1))), "1.50");
        assert_eq!(gib_per_s(0, Duration::ZERO), 0.0);
    }
}
