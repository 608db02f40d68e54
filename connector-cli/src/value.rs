//! Parsers of argument values. An error says what to write. It does not repeat the value: the argument parser shows it,
//! and hides its secrets.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use connectors::{Dtype, Error, MemoryFormat, Shape};

pub(crate) fn dtypes() -> String {
    Dtype::ALL.map(Dtype::torch_name).join(" ")
}

pub(crate) fn formats() -> String {
    MemoryFormat::ALL.map(MemoryFormat::name).join(" ")
}

pub(crate) fn dtype(text: &str) -> Result<Dtype, String> {
    text.parse().map_err(hint)
}

pub(crate) fn format(text: &str) -> Result<MemoryFormat, String> {
    text.parse().map_err(hint)
}

pub(crate) fn shape(text: &str) -> Result<Shape, String> {
    text.parse().map_err(hint)
}

pub(crate) fn positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(write("a whole number of at least 1"))
}

/// The beginning of keys, for a command that must not mean every key by mistake.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("write the beginning of the keys, or `--all` for all chunks".into())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(feature = "fs")]
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    text.parse().map_err(write("a whole number of seconds, such as 60"))
}

pub(crate) fn positive_seconds(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(write("a whole number of seconds of at least 1, such as 60"))
}

pub(crate) fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(write("a whole number"))
}

/// Seconds, also with a fraction.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or("a number of seconds").map_err(write("a number of seconds, such as 0.5"))
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    let seconds = duration(text).ok().filter(|time| !time.is_zero());
    seconds.ok_or("a time").map_err(write("a number of seconds above 0, such as 2.5"))
}

/// A port alone is one of the loopback address.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse())
        .map_err(write("a port, such as 9400, or an IP address and a port, such as 0.0.0.0:9400"))
}

fn hint(e: Error) -> String {
    e.hint().unwrap_or(e.message()).to_owned()
}

fn write<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |_| format!("write {what}")
}
