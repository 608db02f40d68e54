//! Background tasks.

use std::panic::AssertUnwindSafe;

use connector_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use tokio::task::AbortHandle;

/// One step of a task that runs as long as its store. A panic is an error and a log line, so that the task continues. Calls
/// learn from such tasks that a server is back, or that the master is another server.
pub(super) async fn unless_it_panics<T>(task: &'static str, step: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(step).catch_unwind().await.unwrap_or_else(|_| {
        let e = Error::new(ErrorKind::Other, format!("{task} panicked")).temporary(true);
        tracing::error!("{e}; this is a bug in kvconn, which tries again");
        Err(e)
    })
}

/// Ends a task when it is dropped.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_panics_is_an_error_after_which_the_task_goes_on() {
        let mut answers = Vec::new();
        for step in 0..3 {
            let work = async { if step == 1 { panic!("the test wants a panic") } else { Ok(step) } };
            answers.push(unless_it_panics("the test", work).await);
        }
        let e = answers.remove(1).unwrap_err();
        assert!(e.is_temporary() && e.to_string().contains("the test panicked"), "{e}");
        assert_eq!(answers.into_iter().collect::<Result<Vec<_>>>().unwrap(), [0, 2]);
    }
}
