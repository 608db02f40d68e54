//! The progress of a copy: the total and the time that is left, once the total is known.

use std::time::Duration;

use connectors::Connector;
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::totals::Totals;
use crate::output::progress::{Progress, Steps, is_drawn};
use crate::setup::Setup;

pub(super) struct CopyProgress {
    progress: Progress,
    steps: Steps,
    /// The keys that are done, or `None` if the steps are the bytes of an archive.
    keys: Option<usize>,
    counting: Option<JoinHandle<()>>,
}

impl CopyProgress {
    /// Counts the source's chunks in the background. The copy begins at once.
    pub(super) fn of_chunks(setup: &Setup, source: &Connector, prefix: &str) -> Self {
        let progress = Progress::counter();
        let steps = progress.steps();
        let count = {
            let (steps, source, prefix, wants) = (steps.clone(), source.clone(), prefix.to_owned(), setup.wants());
            async move {
                let mut keys = source.list(&prefix);
                let mut chunks = 0;
                while let Some(key) = keys.next().await {
                    // The copy finds the same error.
                    let Ok(key) = key else { return };
                    chunks += u64::from(wants(&key));
                }
                steps.end_at(chunks);
            }
        };
        let counting = is_drawn().then(|| tokio::spawn(count));
        Self { progress, steps, keys: Some(0), counting }
    }

    /// Counts the bytes that were read from an archive. `None` for the length of a pipe.
    pub(super) fn of_bytes(len: Option<u64>) -> Self {
        let progress = len.map_or_else(Progress::counter, Progress::of);
        Self { steps: progress.steps(), progress, keys: None, counting: None }
    }

    pub(super) fn steps(&self) -> Steps {
        self.steps.clone()
    }

    pub(super) fn show(&mut self, totals: &Totals, time: Duration) {
        if let Some(keys) = &mut self.keys {
            self.steps.advance((totals.keys() - *keys) as u64);
            *keys = totals.keys();
        }
        self.progress.say(totals.progress(time));
    }

    /// Ends the count, so that it does not hold back the close of the store.
    pub(super) async fn end(self) {
        if let Some(counting) = self.counting {
            counting.abort();
            let _ = counting.await;
        }
    }
}
