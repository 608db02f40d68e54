//! Output: stdout, messages on stderr, formats of numbers.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use connectors::{CacheKey, redact};
use serde::Serialize;

use crate::escape::{escaped, is_unsafe};
use crate::exit::Failure;
use crate::interrupt::Interrupt;

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
    pub(crate) fn path(&mut self, path: &Path) -> Result<(), Failure> {
        #[cfg(unix)]
        if !self.is_terminal {
            return Ok(self.write_all(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?);
        }
        Ok(write!(self, "{}", escaped(&path.to_string_lossy()))?)
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

/// A text of the user's, as messages show it: without the secrets of a URL, even of a broken or misplaced one. A key or
/// a path is shown as it is.
pub(crate) fn users(text: &str) -> Cow<'_, str> {
    let is_piece =
        text.contains([':', '?', '#']) && text.contains(['@', '=']) || text.contains('=') && !text.contains('/');
    let is_path = || Path::new(text).exists() || text.parse::<CacheKey>().is_ok();
    let may_be_url = text.contains("://") || is_piece && !is_path();
    if may_be_url { redact(text).into() } else { text.into() }
}

/// Prints an error to stderr, as one line. Ignores a closed stderr.
pub(crate) fn print_error(text: impl fmt::Display) {
    let mut text = text.to_string();
    // If the user wrote a URL in place of a file, the error of another crate may repeat it.
    let variables = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LMCACHE_"));
    for given in std::env::args_os().skip(1).chain(variables.map(|(_, value)| value)) {
        let given = given.to_string_lossy();
        let value = given.split_once('=').filter(|(name, _)| name.starts_with('-')).map_or(&*given, |(_, value)| value);
        text = text.replace(value, &users(value));
    }
    let Style { red, plain, .. } = Style::of(AutoStream::choice(&io::stderr()));
    let _ = writeln!(io::stderr(), "{red}kvconn:{plain} {}", escaped(&text));
}

/// Prints a remark to stderr, as one line.
pub(crate) fn print_note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "kvconn: {}", escaped(&text.to_string()));
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

/// A time in its largest whole unit: `59s`, `12m`, `5h`, `30d`.
pub(crate) struct Age(pub(crate) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            s @ 0..60 => write!(f, "{s}s"),
            s @ 60..3600 => write!(f, "{}m", s / 60),
            s @ 3600..86_400 => write!(f, "{}h", s / 3600),
            s => write!(f, "{}d", s / 86_400),
        }
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
    fn an_age_has_one_unit() {
        for (secs, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (86_399, "23h"), (200_000, "2d")] {
            assert_eq!(Age(Duration::from_secs(secs)).to_string(), shown);
        }
    }

    #[test]
    fn keys_and_paths_of_the_user_are_shown_and_urls_are_not() {
        for text in
            ["opt@1@0@1f2e@half", "llama3:8b@1@0@1f2e@half", "/data/day=1/opt@1.bin", "many", "4 parsecs", "a b"]
        {
            assert_eq!(users(text), text);
        }
        for text in [
            "redis://u:hunter2@h:1",
            "redis:u:hunter2@h:1",
            "u:hunter2@h",
            "redis//u:hunter2@h:1",
            "/tmp/u:hunter2@h",
            "redis://u:hunter2@1@0@ff@half",
        ] {
            assert!(!users(text).contains("hunter2"), "{}", users(text));
        }
    }

    #[test]
    fn json_has_no_control_characters_and_the_same_value() {
        let key = "a\u{7f}\u{9b}31m\x1b\u{202e}é";
        let json = serde_json::to_string_pretty(&[key]).expect("it is text");
        let shown = json_escaped(&json);
        assert_eq!(shown, "[\n  \"a\\u007f\\u009b31m\\u001b\\u202eé\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).expect("it is JSON"), [key]);
    }

    #[test]
    fn rates_count_bytes_in_gib() {
        assert_eq!(three_digits(gib_per_s(3 << 29, Duration::from_secs(1))), "1.50");
        assert_eq!(gib_per_s(0, Duration::ZERO), 0.0);
    }
}
