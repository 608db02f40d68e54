//! The options of an engine's client: its own, and the store's.

use std::time::Duration;

use connectors::layer::LayerOptions;
use connectors::options::OptionsSchema;
use connectors::registry::{SchemeOwner, did_you_mean};
use connectors::{ConnectorOptions, ContextBuilder, Error, ErrorKind, RemoteUrl, Result, connector_options, runtime};
use percent_encoding::percent_decode_str;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::memory::Rows;
use super::queue::Limits;
use crate::errors::{Arg, OrRaise, invalid};
use crate::open::{text_of, with_options};
use crate::registry::owner_of;

/// A small part of the tens of GiB that engines reserve.
const STORE_BACKLOG: u64 = 1 << 30;

/// The options that only an engine's client has.
#[connector_options(crate = connectors)]
#[derive(Debug, Clone)]
struct EngineOptions {
    /// The longest time until a lookup is answered. Keys without an answer count as not stored.
    #[option(unit = "ms")]
    lookup_timeout_ms: u64,
    /// The most bytes of stores that wait or run. Over it, kvconn drops the store that waits longest. Unset, it is 1 GiB, and at
    /// most half of the rows that vLLM gives, because the rows of these stores stay pinned.
    #[option(unit = "bytes")]
    store_backlog: Option<u64>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { lookup_timeout_ms: 200, store_backlog: None }
    }
}

impl ConnectorOptions for EngineOptions {}

impl EngineOptions {
    /// # Errors
    /// `InvalidOption` for a deadline that no lookup can keep.
    fn lookup_timeout(&self) -> Result<Duration> {
        if self.lookup_timeout_ms == 0 {
            let message = "option `lookup_timeout_ms`: 0 ms leaves no time for a lookup";
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint("remove it for 200 ms"));
        }
        Ok(Duration::from_millis(self.lookup_timeout_ms))
    }
}

/// The options that the engine's class in Python has taken from the JSON. A typo of one is still among the options.
fn taken_in_python(engine: &str) -> &'static [&'static str] {
    match engine {
        "vllm" => &["enable_kv_events", "locality", "namespace", "revision"],
        "sglang" => &["namespace", "revision"],
        "lmcache" => &["max_capacity_gb", "quota_grace_s", "usage_interval_min"],
        _ => &[],
    }
}

/// The URL and the options of an engine, read.
pub(super) struct Opening {
    /// With the store's options in its query.
    pub(super) url: String,
    pub(super) lookup_timeout: Duration,
    store_backlog: Option<u64>,
    /// The options that the store does not have, with a guess.
    pub(super) unknown: Vec<String>,
    /// Whether a secret is written in the URL or in an option.
    pub(super) has_secret: bool,
}

impl Opening {
    /// Sorts the options of the URL and of the engine's JSON.
    ///
    /// # Errors
    /// `InvalidError` for an option with a wrong value, which it names.
    pub(super) fn read(py: Python<'_>, engine: &str, url: &str, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let own = OptionsSchema::of::<EngineOptions>();
        let is_own = |name: &str| own.option(name).is_some();
        let (url, mut engines) = split_query(url, is_own);
        for (i, (name, _)) in engines.iter().enumerate() {
            if engines[..i].iter().any(|(set, _)| set == name) {
                return Err(invalid(py, format!("URL option `{name}` is set more than once; keep one of its values")));
            }
        }
        let parsed = RemoteUrl::parse(&url).or_raise(py)?;
        // The open gives the error of a URL that no connector serves.
        let store = match owner_of(&parsed) {
            Ok(Some(SchemeOwner::Connector(entry))) => entry.options(),
            _ => None,
        };
        let layers = OptionsSchema::of::<LayerOptions>();
        let of_store = PyDict::new(py);
        let mut unknown = Vec::new();
        for (name, _) in parsed.query_pairs() {
            let is_known = |schema: &OptionsSchema| schema.option(name).is_some();
            let guess = did_you_mean(name, own.options().iter().map(|option| option.name.as_str()));
            if !guess.is_empty() && !is_known(layers) && !store.is_none_or(is_known) {
                return Err(invalid(py, format!("unknown URL option `{name}`{guess}")));
            }
        }
        for (name, value) in options.into_iter().flatten() {
            let Arg(name) = name.extract::<Arg<String>>()?;
            let known = |schema: &OptionsSchema| schema.option(&name).is_some();
            if is_own(&name) {
                if engines.iter().any(|(set, _)| *set == name) {
                    let message = format!("the option `{name}` is in the URL and beside it; write it once");
                    return Err(invalid(py, message));
                }
                engines.extend(text_of(&name, &value)?.map(|text| (name, text)));
            } else if known(layers) || store.is_none_or(known) {
                of_store.set_item(name, value)?;
            } else {
                let schemas = [own, layers].into_iter().chain(store);
                let all = schemas.flat_map(OptionsSchema::options).map(|option| option.name.as_str());
                let all = all.chain(taken_in_python(engine).iter().copied());
                unknown.push(format!("`{}`{}", name.escape_debug(), did_you_mean(&name, all)));
            }
        }
        let url = with_options(&url, &of_store)?;
        let options = typed(&engines).or_raise(py)?;
        let lookup_timeout = options.lookup_timeout().or_raise(py)?;
        let has_secret = RemoteUrl::parse(&url).or_raise(py)?.has_written_secret();
        Ok(Self { url, lookup_timeout, store_backlog: options.store_backlog, unknown, has_secret })
    }

    /// The limits of a client with these rows.
    pub(super) fn limits(&self, rows: Option<&Rows>) -> Limits {
        let default = rows.map_or(STORE_BACKLOG, |rows| STORE_BACKLOG.min(rows.all_bytes() / 2));
        Limits { lookup_timeout: self.lookup_timeout, store_backlog: self.store_backlog.unwrap_or(default) }
    }

    /// A builder for the store.
    pub(super) fn builder(&self) -> Result<ContextBuilder> {
        Ok(connectors::builder(&self.url).handle(runtime::handle()?.clone()))
    }
}

/// The URL without the options that the engine's client has, and those options.
fn split_query(url: &str, is_own: impl Fn(&str) -> bool) -> (String, Vec<(String, String)>) {
    let Some((before, query)) = url.split_once('?') else { return (url.to_owned(), Vec::new()) };
    let (query, fragment) = query.split_once('#').map_or((query, None), |(query, fragment)| (query, Some(fragment)));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (mut others, mut own) = (Vec::new(), Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((name, value)) if is_own(&decoded(name)) => own.push((decoded(name), decoded(value))),
            _ => others.push(pair),
        }
    }
    let mut url = before.to_owned();
    if !others.is_empty() {
        url.push('?');
        url.push_str(&others.join("&"));
    }
    if let Some(fragment) = fragment {
        url.push('#');
        url.push_str(fragment);
    }
    (url, own)
}

/// The engine's own options, read as a store's.
fn typed(options: &[(String, String)]) -> Result<EngineOptions> {
    connectors::options::of_pairs(options.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}
