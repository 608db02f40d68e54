//! The stores' log lines in Python's `logging`.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{LazyLock, Once};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::process::in_python;
use crate::python_thread;

/// The lowest level of the logger `kvconn` and those below it when it was last read.
static LEVEL: AtomicU8 = AtomicU8::new(WARNING);

/// When the level was last read, in milliseconds since [`STARTED`].
static READ_AT: AtomicU64 = AtomicU64::new(0);
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long a level counts. The first line after that goes to Python whatever its level, and the level is read again.
const READ_EVERY: Duration = Duration::from_millis(100);

const TRACE: u8 = 5;
const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;

/// Sends log lines to the logger `kvconn` and those below it from now on. Called when a store is opened and not at import,
/// because the `kvconn` command has a log of its own.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    static SUBSCRIBED: Once = Once::new();
    in_python(py, || read_level(py))?;
    SUBSCRIBED.call_once(|| {
        // A subscriber that another part of the library has set stays.
        let _ = tracing::subscriber::set_global_default(PythonLogging);
    });
    Ok(())
}

/// Reads the lowest level of the logger `kvconn` and those below it. Each logger then drops lines below its own level.
fn read_level(py: Python<'_>) -> PyResult<()> {
    let logging = py.import("logging")?;
    let level_of = |name: &str| -> PyResult<u32> {
        logging.call_method1("getLogger", (name,))?.call_method0("getEffectiveLevel")?.extract()
    };
    let mut lowest = level_of("kvconn")?;
    // A copy, because another thread may add a logger meanwhile.
    let all = logging.getattr("root")?.getattr("manager")?.getattr("loggerDict")?.call_method0("copy")?;
    for name in all.cast::<PyDict>()?.keys() {
        let name = name.str()?;
        let name = name.to_str()?;
        if name.starts_with("kvconn.") {
            lowest = lowest.min(level_of(name)?);
        }
    }
    LEVEL.store(u8::try_from(lowest).unwrap_or(u8::MAX), Ordering::Relaxed);
    READ_AT.store(now(), Ordering::Relaxed);
    Ok(())
}

fn now() -> u64 {
    u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Whether it is time to read the level again; true for one caller.
fn is_old() -> bool {
    let (read_at, now) = (READ_AT.load(Ordering::Relaxed), now());
    u128::from(now.saturating_sub(read_at)) >= READ_EVERY.as_millis()
        && READ_AT.compare_exchange(read_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

struct PythonLogging;

impl Subscriber for PythonLogging {
    // Tracing would otherwise keep the answer of `enabled` for ever.
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
        python_thread::run(move |py| {
            // Python's `logging` reports a handler that raises.
            let _ = read_level(py).and_then(|()| log(py, &logger, level, &text.0));
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
    // As an argument, so that a `%` in the text has no meaning.
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
