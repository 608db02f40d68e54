//! The options that all object stores share.

use std::time::Duration;

use connector_core::{Error, ErrorKind, Result, connector_options};

/// The options of the requests, which are options of each object store.
#[connector_options]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CloudSettings {
    /// Requests for chunks at once, each on a connection of its own. As many more
    /// serve everything else, so that a lookup never waits behind chunks.
    pub connections: usize,
    /// Longest time until a new connection is ready, with its TLS handshake.
    #[option(unit = "ms")]
    pub connect_timeout_ms: u64,
    /// Longest time in which a request moves no byte.
    #[option(unit = "ms")]
    pub io_timeout_ms: u64,
    /// PEM file with certificates of authorities that kvconn trusts, beside those of the system.
    pub tls_ca: Option<String>,
    /// Largest chunk that the store reads or writes.
    #[option(unit = "bytes")]
    pub max_value_bytes: u64,
    /// Longest name of an object, with its prefix. Set it for a server with a lower limit, such as one whose objects are
    /// files.
    #[option(unit = "bytes")]
    pub max_name_bytes: usize,
    /// Chunks of this length and longer are read by ranges and written as multipart uploads.
    #[option(unit = "bytes")]
    pub parallel_from_bytes: u64,
    /// Length of such a range or part, 5 MiB or more.
    #[option(unit = "bytes")]
    pub part_bytes: u64,
    /// Whether a put also stores the chunk's shape, dtype and format, as metadata of the object. The object's bytes stay
    /// the chunk's. LMCache's `use_layerwise` turns it on.
    pub save_chunk_meta: bool,
    /// Whether a put also stores the CRC32C of the chunk's bytes, as metadata of the object. A get checks it where it is
    /// stored. It takes 0.1 s of CPU a GiB, each way.
    pub checksum: bool,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            connections: 64,
            connect_timeout_ms: 5_000,
            io_timeout_ms: 30_000,
            tls_ca: None,
            max_value_bytes: LARGEST_OBJECT,
            max_name_bytes: LONGEST_NAME,
            parallel_from_bytes: 64 << 20,
            part_bytes: 16 << 20,
            save_chunk_meta: false,
            checksum: false,
        }
    }
}

/// The largest object that one PUT of S3 takes.
const LARGEST_OBJECT: u64 = 5 << 30;
/// The longest name of an object on S3, GCS and Azure.
const LONGEST_NAME: usize = 1024;
/// The smallest part that S3 takes, except for the last one.
const SMALLEST_PART: u64 = 5 << 20;
const HOUR_MS: u64 = 3_600_000;

impl CloudSettings {
    /// Refuses a value out of its range.
    ///
    /// # Errors
    /// `InvalidOption` with the range.
    pub(crate) fn check(&self) -> Result<()> {
        let ranges = [
            ("connections", self.connections as u64, 1, 4096),
            ("connect_timeout_ms", self.connect_timeout_ms, 1, HOUR_MS),
            ("io_timeout_ms", self.io_timeout_ms, 1, HOUR_MS),
            ("max_value_bytes", self.max_value_bytes, 1, LARGEST_OBJECT),
            ("max_name_bytes", self.max_name_bytes as u64, 64, LONGEST_NAME as u64),
            ("part_bytes", self.part_bytes, SMALLEST_PART, LARGEST_OBJECT),
            ("parallel_from_bytes", self.parallel_from_bytes, self.part_bytes + 1, u64::MAX),
        ];
        for (option, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                let range = match most {
                    u64::MAX => format!("not more than `part_bytes`, {}", self.part_bytes),
                    most => format!("not between {least} and {most}"),
                };
                return Err(Error::new(ErrorKind::InvalidOption, format!("option `{option}`: {value} is {range}")));
            }
        }
        Ok(())
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn io_timeout(&self) -> Duration {
        Duration::from_millis(self.io_timeout_ms)
    }
}
