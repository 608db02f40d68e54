//! The stores' log lines, brought to Python's `logging`.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{LazyLock, Once};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::runtime::Process;

/// The lowest of Python's levels that anyone listened to when somebody looked.
static LEVEL: AtomicU8 = AtomicU8::new(WARNING);

/// When somebody looked, in milliseconds since [`STARTED`].
static LOOKED: AtomicU64 = AtomicU64::new(0);
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How old what is known of the level may be. A line that comes later is brought to Python whatever its level, and Python
/// is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const TRACE: u8 = 5;
const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;

/// Brings log lines to the logger `kvconn` and those below it from now on. Called whenever a store is opened; not at import,
/// so that the `kvconn` command logs for itself.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    static SUBSCRIBED: Once = Once::new();
    look(py)?;
    SUBSCRIBED.call_once(|| {
        // Somebody else's subscriber, in the same library, may stay.
        let _ = tracing::subscriber::set_global_default(ToPython);
    });
    Ok(())
}

/// Reads the level of the logger `kvconn`.
fn look(py: Python<'_>) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("kvconn",))?;
    let level: u32 = logger.call_method0("getEffectiveLevel")?.extract()?;
    LEVEL.store(u8::try_from(level).unwrap_or(u8::MAX), Ordering::Relaxed);
    LOOKED.store(now(), Ordering::Relaxed);
    Ok(())
}

fn now() -> u64 {
    u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Whether it is time to look again; true for one caller.
fn is_old() -> bool {
    let (looked, now) = (LOOKED.load(Ordering::Relaxed), now());
    u128::from(now.saturating_sub(looked)) >= LOOK_EVERY.as_millis()
        && LOOKED.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

struct ToPython;

impl Subscriber for ToPython {
    // What `enabled` says now would else be taken as said for ever.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && (level_of(*metadata.level()) >= LEVEL.load(Ordering::Relaxed) || is_old())
    }

    fn event(&self, event: &Event<'_>) {
        let level = level_of(*event.metadata().level());
        let logger = logger_of(event.metadata().target());
        let mut text = Text(String::new());
        event.record(&mut text);
        Process::current().tell(move |py| {
            // A handler of the user's that raises has logged so itself.
            let _ = look(py).and_then(|()| log(py, &logger, level, &text.0));
        });
    }

    // Spans are never enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn log(py: Python<'_>, logger: &str, level: u8, text: &str) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", (logger,))?;
    // As an argument: a `%` in it means nothing then.
    logger.call_method1("log", (level, "%s", text))?;
    Ok(())
}

fn level_of(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        Level::DEBUG => DEBUG,
        Level::TRACE => TRACE,
    }
}

/// `connectors::redis::connector` logs as `kvconn.connectors.redis.connector`.
fn logger_of(target: &str) -> String {
    format!("kvconn.{}", target.replace("::", "."))
}

/// The message, then the fields as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let Self(text) = self;
        // Writing to a String never fails.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(text);
                write!(text, "{value:?}{rest}")
            }
            name => write!(text, " {name}={value:?}"),
        };
    }
}
