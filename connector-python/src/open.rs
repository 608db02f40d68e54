//! From a URL and Python's options to an open store.

use std::sync::Once;
use std::time::Duration;

use connectors::layer::LayerOptions;
use connectors::{Connect, Connector, ContextBuilder, ErrorKind, LocalCpuBackend, RemoteUrl, redact, runtime};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use tokio::task::JoinSet;

use crate::blocking::block_on;
use crate::engine::cut_off;
use crate::errors::{Arg, OrRaise, invalid, refused};
use crate::logging;
use crate::process::{ProcessLocal, Unclosed};

/// The characters that a name or a value in a query escapes: all but RFC 3986's unreserved ones.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An open store.
pub(crate) struct OpenStore {
    connector: ProcessLocal<Connector>,
    unclosed: ProcessLocal<Unclosed>,
}

impl OpenStore {
    pub(crate) fn new(py: Python<'_>, connector: Connector) -> PyResult<Self> {
        let unclosed = Unclosed::new(py, connector.name())?;
        Ok(Self { connector: ProcessLocal::new(connector), unclosed: ProcessLocal::new(unclosed) })
    }

    /// The store, which the caller is about to close.
    ///
    /// # Errors
    /// As [`connector`](Self::connector).
    pub(crate) fn to_close(&self) -> connectors::Result<&Connector> {
        self.unclosed.get()?.close();
        self.connector()
    }

    /// Closes the store of an engine, within `longest`.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn close(&self, py: Python<'_>, longest: Duration) -> PyResult<()> {
        let connector = self.to_close().or_raise(py)?.clone();
        if runtime::handle().is_err() {
            // The runtime was shut down, and its connections with it.
            return Ok(());
        }
        let closing = async move {
            let closed = tokio::time::timeout(longest, connector.close()).await;
            closed.unwrap_or_else(|_| {
                tracing::warn!(connector = connector.name(), "the store did not close within {longest:?}");
                Ok(())
            })
        };
        block_on(py, closing)?.or_raise(py)
    }

    /// The store.
    ///
    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn connector(&self) -> connectors::Result<&Connector> {
        self.connector.get()
    }

    /// `module/Name`.
    pub(crate) fn name(&self) -> &str {
        self.connector.peek().name()
    }

    /// Whether calls raise `ClosedError`.
    pub(crate) fn is_closed(&self) -> bool {
        self.connector().map_or(true, Connector::is_closed)
    }

    /// The place in the program that opened the store, for the warning of a store that is not closed.
    pub(crate) fn set_place(&self, place: &str) {
        if let Ok(unclosed) = self.unclosed.get() {
            unclosed.set_place(place);
        }
    }
}

/// The time for which LMCache waits for a store.
pub(crate) const ENGINE_TIMEOUT: Duration = Duration::from_secs(10);
/// A batch may have many large chunks, and a slow network.
pub(crate) const ENGINE_BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// An engine waits for a lookup before it computes a prompt, which takes about as long without the store.
const ENGINE_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// The first call that finds the store lost opens the breaker. Then kvconn pings the store, and no call waits for it.
const ENGINE_FAILURES: u32 = 1;
const ENGINE_RECONNECT_S: f64 = 1.0;

/// Opens the store of a Python program, once the future is polled.
pub(crate) fn open(
    py: Python<'_>,
    url: &str,
    options: Option<&Bound<'_, PyDict>>,
    pool_bytes: Option<usize>,
) -> PyResult<impl Future<Output = connectors::Result<Connector>> + Send + 'static> {
    let mut builder = builder(py, url, options)?;
    if let Some(bytes) = pool_bytes {
        builder = builder.local_cpu_backend(LocalCpuBackend::with_capacity(bytes));
    }
    Ok(opened(builder))
}

/// Opens the store of LMCache's `native_plugin`, once the future is polled. See [`for_engine`].
pub(crate) fn open_for_engine(
    py: Python<'_>,
    url: &str,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<impl Future<Output = connectors::Result<Connector>> + Send + 'static> {
    let builder = builder(py, url, options)?;
    let url = options.map_or(Ok(url.to_owned()), |options| with_options(url, options))?;
    if RemoteUrl::parse(&url).is_ok_and(|url| url.has_written_secret()) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                "the URL or an option has a secret, and LMCache logs the `adapter_params` of `native_plugin`: use the \
                 option's twin for a file (`password_file`, `secret_access_key_file`), or write `${{NAME}}` for the \
                 environment variable NAME"
            );
        });
    }
    Ok(opened(for_engine(builder, ENGINE_TIMEOUT, ENGINE_BATCH_TIMEOUT, Duration::ZERO)))
}

/// An engine never opens a store again. So it must be able to start before its store, and a store that hangs must not
/// block it. The options of the URL and the configuration win. An engine that waits up to `lookup` for a lookup gets this time,
/// also if it is longer than the default.
pub(crate) fn for_engine(
    builder: ContextBuilder,
    timeout: Duration,
    batch_timeout: Duration,
    lookup: Duration,
) -> ContextBuilder {
    let mut layers = LayerOptions::default();
    let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    layers.timeout_ms = Some(in_ms(timeout)).filter(|ms| *ms > 0);
    layers.batch_timeout_ms = Some(in_ms(timeout.max(batch_timeout)));
    let lookup_ms = in_ms(ENGINE_LOOKUP_TIMEOUT).min(layers.timeout_ms.unwrap_or(u64::MAX));
    layers.lookup_timeout_ms = Some(lookup_ms.max(in_ms(lookup)));
    layers.breaker_failures = Some(ENGINE_FAILURES);
    layers.min_reconnect_interval = Some(ENGINE_RECONNECT_S);
    builder.connect(Connect::Lazy).layers(layers)
}

/// Opens a store on a thread of kvconn's runtime. So Ctrl-C ends the wait also if the store blocks that thread.
pub(crate) async fn opened(builder: ContextBuilder) -> connectors::Result<Connector> {
    // Ends the task when this future is dropped.
    let mut task = JoinSet::new();
    task.spawn_on(builder.open(), runtime::handle()?);
    // The core makes an error of a panic, so only the end of the runtime gives nothing.
    task.join_next().await.and_then(|opened| opened.ok()).unwrap_or_else(|| Err(cut_off()))
}

fn builder(py: Python<'_>, url: &str, options: Option<&Bound<'_, PyDict>>) -> PyResult<ContextBuilder> {
    logging::start(py)?;
    let url = match options {
        Some(options) => with_options(url, options)?,
        None => url.to_owned(),
    };
    Ok(connectors::builder(&url).handle(runtime::handle().or_raise(py)?.clone()))
}

/// The URL with the options in its query, where every connector reads them.
pub(crate) fn with_options(url: &str, options: &Bound<'_, PyDict>) -> PyResult<String> {
    let parsed = RemoteUrl::parse(url).or_raise(options.py())?;
    let (before, fragment) = url.split_once('#').map_or((url, None), |(before, fragment)| (before, Some(fragment)));
    let mut all = before.to_owned();
    for (name, value) in options {
        let Arg(name) = name.extract::<Arg<String>>()?;
        let Some(value) = text_of(&name, &value)? else { continue };
        if parsed.query(&name).is_some() {
            let message = format!("the option `{name}` is in the URL and beside it; write it once");
            return Err(invalid(options.py(), message));
        }
        all.push(if all.contains('?') { '&' } else { '?' });
        all.extend(utf8_percent_encode(&name, ESCAPED));
        all.push('=');
        all.extend(utf8_percent_encode(&value, ESCAPED));
    }
    if let Some(fragment) = fragment {
        all.push('#');
        all.push_str(fragment);
    }
    Ok(all)
}

/// The URL with its options, without secrets.
pub(crate) fn shown_url(url: &str, options: Option<&Bound<'_, PyDict>>) -> PyResult<String> {
    Ok(redact(&options.map_or(Ok(url.to_owned()), |options| with_options(url, options))?))
}

/// The value as text for a URL. None leaves the option out. Numbers and paths may be of any class.
pub(crate) fn text_of(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if value.is_none() {
        return Ok(None);
    }
    if value.is_instance_of::<PyBool>() {
        return Ok(Some(value.extract::<bool>()?.to_string()));
    }
    // Not `str(value)`, which is the name of an enum's member.
    if value.is_instance_of::<PyString>() {
        return Ok(Some(value.extract::<Arg<String>>()?.0));
    }
    let py = value.py();
    let plain = |text: Bound<'_, PyAny>| Ok(Some(text.str()?.extract::<Arg<String>>()?.0));
    let refuse = |e: PyErr| refused(py, ErrorKind::InvalidOption, e);
    if value.hasattr("__fspath__")? {
        return plain(py.import("os")?.call_method1("fsdecode", (value,)).map_err(refuse)?);
    }
    if value.hasattr("item")? {
        // A number of numpy's or torch's as one of Python's. An array of several numbers raises an error.
        let item = value.call_method0("item").map_err(refuse)?;
        if !item.hasattr("item")? {
            return text_of(name, &item);
        }
    }
    if value.hasattr("__index__")? {
        return plain(value.call_method0("__index__").map_err(refuse)?);
    }
    if value.hasattr("__float__")? {
        return plain(value.call_method0("__float__").map_err(refuse)?);
    }
    let class = value.get_type().name()?;
    let message = format!("the option `{name}` is a {class}; an option is a str, int, float, bool or path");
    Err(refuse(PyTypeError::new_err(message)))
}
