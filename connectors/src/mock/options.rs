use std::time::Duration;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result, connector_options};

/// Options of `mock://`. A GB is 2^30 bytes.
#[connector_options]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MockOptions {
    /// The largest size of all chunks. Required. In a `mock://` URL the host is the capacity.
    #[option(unit = "GB")]
    pub capacity: Option<f64>,
    /// The latency of calls that move no chunk.
    #[option(unit = "ms")]
    pub peeking_latency: f64,
    /// The throughput of all reads together.
    #[option(unit = "GB/s")]
    pub read_throughput: f64,
    /// The throughput of all writes together.
    #[option(unit = "GB/s")]
    pub write_throughput: f64,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self { capacity: None, peeking_latency: 1.0, read_throughput: 2.0, write_throughput: 2.0 }
    }
}

impl ConnectorOptions for MockOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "mock_connector_";
}

const GB: f64 = (1_u64 << 30) as f64;

impl MockOptions {
    /// The capacity in bytes, from the host of a `mock://` URL or from the option.
    pub(super) fn capacity_bytes(&self, ctx: &ConnectorContext) -> Result<u64> {
        let location = ctx.location();
        let host = location.host().filter(|_| location.scheme().is_some());
        let hint = "write `mock://100/` for 100 GB";
        let capacity = match (host, self.capacity) {
            (Some(host), _) => host.parse().map_err(|_| {
                Error::new(
                    ErrorKind::InvalidUrl,
                    format!("the host of `{location}` must be its capacity, but `{host}` is not a number"),
                )
                .with_hint(hint)
            })?,
            (None, Some(capacity)) => capacity,
            (None, None) => {
                let missing = format!("`{location}` does not give the store's capacity");
                return Err(Error::new(ErrorKind::InvalidUrl, missing).with_hint(hint));
            }
        };
        let bytes = positive("capacity", capacity)? * GB;
        Ok(bytes as u64)
    }

    pub(super) fn latency(&self) -> Result<Duration> {
        if self.peeking_latency == 0.0 {
            return Ok(Duration::ZERO);
        }
        Duration::try_from_secs_f64(positive("peeking_latency", self.peeking_latency)? / 1000.0)
            .map_err(|e| Error::new(ErrorKind::InvalidOption, format!("option `peeking_latency`: {e}")))
    }

    /// The time that one byte takes, in seconds.
    pub(super) fn seconds_per_byte(name: &str, throughput: f64) -> Result<f64> {
        Ok(1.0 / (positive(name, throughput)? * GB))
    }
}

fn positive(name: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::new(ErrorKind::InvalidOption, format!("option `{name}`: `{value}` is not a number over 0")))
}
