//! Output: stdout here; messages on stderr, progress, and formats of numbers in the files of this folder.

mod messages;
pub(crate) mod mode;
pub(crate) mod progress;
mod units;

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;

use crate::escape::{escaped, is_unsafe};
use crate::exit::Failure;
use crate::interrupt::Interrupt;

pub(crate) use messages::{Errors, Problem, print_error, print_json, print_note, users};
pub(crate) use progress::Progress;
pub(crate) use units::{Age, Time, count, gib_per_s, three_digits};

/// Stdout: buffered for a pipe, line by line for a terminal.
///
/// If the reader of a pipe has left, `Out` drops the rest, so that a command still finds its exit code. A store's text
/// (a key, a path, an error) goes through [`shown`](Self::shown) or [`path`](Self::path).
pub(crate) struct Out {
    stream: BufWriter<io::Stdout>,
    is_terminal: bool,
    style: Style,
    is_closed: bool,
    interrupt: Interrupt,
}

/// The codes of a terminal's styles; empty if the environment turns them off, or for a pipe.
#[derive(Clone, Copy, Default)]
pub(crate) struct Style {
    pub(crate) bold: &'static str,
    pub(crate) green: &'static str,
    pub(crate) red: &'static str,
    pub(crate) plain: &'static str,
}

impl Style {
    fn of(choice: ColorChoice) -> Self {
        match choice {
            ColorChoice::Never => Self::default(),
            _ => Self { bold: "\x1b[1m", green: "\x1b[32m", red: "\x1b[31m", plain: "\x1b[0m" },
        }
    }
}

impl Out {
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        let stdout = io::stdout();
        let (is_terminal, style) = (stdout.is_terminal(), Style::of(AutoStream::choice(&stdout)));
        Self { stream: BufWriter::new(stdout), is_terminal, style, is_closed: false, interrupt }
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Whether the reader of the pipe has left. A command that would go on for long can end.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The text as it is for a pipe, and escaped for a terminal.
    pub(crate) fn shown<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_terminal { escaped(text) } else { text.into() }
    }

    /// Writes a path: its exact bytes into a pipe, escaped on a terminal.
    #[cfg(feature = "fs")]
    pub(crate) fn path(&mut self, path: &std::path::Path) -> Result<(), Failure> {
        #[cfg(unix)]
        if !self.is_terminal {
            return Ok(self.write_all(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?);
        }
        Ok(write!(self, "{}", escaped(&path.to_string_lossy()))?)
    }

    /// Writes one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        Ok(writeln!(self, "{}", json_escaped(&text))?)
    }

    /// Writes JSON with `\u` for control characters that JSON allows as they are.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        Ok(writeln!(self, "{}", json_escaped(&text))?)
    }

    /// Writes a chunk's bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write_all(bytes)?;
        Ok(self.flush()?)
    }

    /// Does one write or flush. Remembers that the reader has left.
    fn guarded(&mut self, work: impl FnOnce(&mut BufWriter<io::Stdout>) -> io::Result<usize>) -> io::Result<usize> {
        let Self { stream, interrupt, .. } = self;
        match interrupt.blocking(|| work(stream)) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(0)
            }
            done => done,
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        let written = self.guarded(|stream| stream.write(bytes))?;
        if self.is_closed {
            return Ok(bytes.len());
        }
        if self.is_terminal && bytes[..written].contains(&b'\n') {
            self.flush()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        self.guarded(|stream| stream.flush().map(|()| 0)).map(drop)
    }
}

/// JSON text with `\u` for control characters in strings. Between strings there is only `\n`.
pub(crate) fn json_escaped(json: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c != '\n' && is_unsafe(c);
    if !json.contains(is_unsafe) {
        return json.into();
    }
    let escape = |c: char| if is_unsafe(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
    json.chars().map(escape).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_control_characters_and_the_same_value() {
        let key = "a\u{7f}\u{9b}31m\x1b\u{202e}é";
        let json = serde_json::to_string_pretty(&[key]).expect("it is text");
        let shown = json_escaped(&json);
        assert_eq!(shown, "[\n  \"a\\u007f\\u009b31m\\u001b\\u202eé\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).expect("it is JSON"), [key]);
    }
}
