//! Progress on stderr: only on a terminal that can draw it, and not with `--quiet` or `--json`.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};

use super::mode;

/// The progress that stderr shows now. A message goes above it.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

const BAR: &str = "[{bar:32}] {percent}%  {msg}  {elapsed}, {eta} left";

/// The progress of a command. Dropping it removes it from the terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// The progress of work whose end is not known: a text and the time.
    pub(crate) fn counter() -> Self {
        Self::new(ProgressBar::no_length(), "{spinner} {msg}  {elapsed}")
    }

    /// The progress of `all` steps: a bar, a text, the time, and the time that is left.
    pub(crate) fn of(all: u64) -> Self {
        Self::new(ProgressBar::new(all), BAR)
    }

    fn new(bar: ProgressBar, template: &str) -> Self {
        if !is_drawn() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            return Self(bar);
        }
        set_template(&bar, template);
        bar.enable_steady_tick(Duration::from_millis(100));
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
        Self(bar)
    }

    /// Shows this text.
    pub(crate) fn say(&self, text: impl Into<String>) {
        say(&self.0, text);
    }

    /// Counts `steps` more steps as done.
    pub(crate) fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    /// Counts from 0 again.
    pub(crate) fn restart(&self) {
        self.0.reset();
    }

    /// Removes the progress from the terminal.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }

    /// The same steps, for another task or thread.
    pub(crate) fn steps(&self) -> Steps {
        Steps(self.0.clone())
    }
}

/// The steps of a [`Progress`], for another task or thread.
#[derive(Clone)]
pub(crate) struct Steps(ProgressBar);

impl Steps {
    /// Shows this text.
    #[cfg(feature = "fs")]
    pub(crate) fn say(&self, text: impl Into<String>) {
        say(&self.0, text);
    }

    /// The work has `all` steps: a counter becomes a bar.
    pub(crate) fn end_at(&self, all: u64) {
        self.0.set_length(all);
        if !self.0.is_hidden() {
            set_template(&self.0, BAR);
        }
    }

    /// Counts `steps` more steps as done.
    pub(crate) fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}

fn say(bar: &ProgressBar, text: impl Into<String>) {
    if !bar.is_hidden() {
        bar.set_message(text.into());
    }
}

fn set_template(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether stderr can draw progress, and the user wants it.
pub(crate) fn is_drawn() -> bool {
    // As `console` and `anstream` do: a dumb terminal cannot move its cursor.
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stderr().is_terminal() && !is_dumb && !mode::is_quiet() && !mode::is_json()
}

/// Prints above the progress, if there is one.
pub(super) fn above(print: impl FnOnce()) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade);
    match shown {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}
