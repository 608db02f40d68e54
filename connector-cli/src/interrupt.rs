//! Ctrl-C and SIGTERM, as something that work can look at and wait for.

use tokio::sync::watch;

use crate::output;

/// Becomes set when the user wants the command to end. The second time ends it on the spot.
#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Self {
        let (set, is_set) = watch::channel(false);
        tokio::spawn(async move {
            signal().await;
            set.send_replace(true);
            output::note("stopping; once more to stop at once");
            signal().await;
            std::process::exit(output::EXIT_INTERRUPTED.into());
        });
        Self(is_set)
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when the command should.
    pub(crate) async fn wait(mut self) {
        if self.0.wait_for(|set| *set).await.is_err() {
            // The listener is gone only if signals cannot be had: then nobody interrupts.
            std::future::pending::<()>().await;
        }
    }
}

async fn signal() {
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<Option<()>>();
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupt => {}
        _ = terminate => {}
    }
}
