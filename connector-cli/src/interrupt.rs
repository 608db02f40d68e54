//! Ctrl-C and SIGTERM, as a flag that a command can read and wait for.

use tokio::sync::watch;

use crate::output;

/// The first signal sets it. The second signal ends the process at once.
#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Starts to listen. From now on, the first signal does not end the process.
    pub(crate) fn listen() -> Self {
        let (set, is_set) = watch::channel(false);
        tokio::spawn(async move {
            signal().await;
            set.send_replace(true);
            output::print_note("stopping; interrupt again to stop at once");
            signal().await;
            std::process::exit(output::EXIT_INTERRUPTED.into());
        });
        Self(is_set)
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the flag is set.
    pub(crate) async fn wait(mut self) {
        if self.0.wait_for(|set| *set).await.is_err() {
            // The listener has ended, so no signal will come.
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
