//! The results of a copy.

use std::time::Duration;

use connectors::{CacheKey, Error};
use serde_json::{Value, json};

use crate::args::CpArgs;
use crate::output::{Errors, Time, count, gib_per_s, three_digits};
use crate::size::ByteSize;

/// The result for one key.
pub(super) enum Copied {
    /// The chunk of this many bytes was written, and read back with `--verify`.
    Written(usize),
    /// The destination lacks the chunk, and `--dry-run` does not write it.
    Planned,
    /// The destination already has the chunk.
    Present,
    /// The source listed the key, but no longer has the chunk.
    Gone,
    Failed(CacheKey, Error),
    /// The archive could not be written. Its writer has the error.
    TargetLost,
}

#[derive(Default)]
pub(super) struct Totals {
    copied: usize,
    bytes: usize,
    planned: usize,
    present: usize,
    gone: usize,
    errors: Errors,
}

impl Totals {
    pub(super) fn failed(&self) -> usize {
        self.errors.len()
    }

    /// The keys with a result.
    pub(super) fn keys(&self) -> usize {
        self.copied + self.planned + self.present + self.gone + self.failed()
    }

    pub(super) fn add(&mut self, copied: Copied) {
        match copied {
            Copied::Written(bytes) => {
                self.copied += 1;
                self.bytes += bytes;
            }
            Copied::Planned => self.planned += 1,
            Copied::Present => self.present += 1,
            Copied::Gone => self.gone += 1,
            Copied::Failed(key, e) => self.errors.add(e.with_key(key)),
            Copied::TargetLost => {}
        }
    }

    /// Counts an error that is not about one key.
    pub(super) fn fail(&mut self, e: Error) {
        self.errors.add(e);
    }

    /// Prints the number of errors that are not shown.
    pub(super) fn end_errors(self) {
        self.errors.finish();
    }

    pub(super) fn progress(&self, time: Duration) -> String {
        let rate = three_digits(gib_per_s(self.bytes, time));
        let (bytes, skipped) = (ByteSize(self.bytes), self.present + self.gone);
        format!("{} copied, {bytes}, {rate} GiB/s; {skipped} skipped, {} failed", self.copied, self.failed())
    }

    pub(super) fn summary(&self, time: Duration, args: &CpArgs) -> String {
        let mut text = match args.dry_run {
            true => format!("would copy {}", count(self.planned, "chunk")),
            false => format!("copied {}", count(self.copied, "chunk")),
        };
        if self.copied > 0 {
            let rate = three_digits(gib_per_s(self.bytes, time));
            text.push_str(&format!(" ({} in {}, {rate} GiB/s)", ByteSize(self.bytes), Time(time)));
            if args.verify {
                text.push_str(", all verified");
            }
        }
        text.push_str(&format!("; skipped {} {}; failed {}", self.present, present(args), self.failed()));
        if self.gone > 0 {
            text.push_str(&format!("; {} removed from the source during the copy", self.gone));
        }
        text
    }

    pub(super) fn as_json(&self, time: Duration, dry_run: bool) -> Value {
        json!({
            "dry_run": dry_run, "copied": self.copied, "bytes": self.bytes, "would_copy": self.planned,
            "skipped": self.present, "gone": self.gone, "failed": self.failed(), "seconds": time.as_secs_f64(),
        })
    }
}

/// The word for chunks that the destination has.
pub(super) fn present(args: &CpArgs) -> &'static str {
    if args.skip_existing || args.dry_run { "present" } else { "equal" }
}
