//! Which runtime waits for sockets and clocks.
//!
//! Calls come from any runtime, from threads that are in none, and from one whose only thread is blocked in such a call. A
//! socket wakes nobody while the runtime that it is registered with does not run. So clocks, and the sockets of a
//! connector that was opened on a runtime of a single thread, belong to a runtime with a thread of its own, on which
//! nothing ever blocks. A runtime of several threads waits for its own sockets: what it wakes is mostly its own, too,
//! which saves a switch between threads.

use std::sync::OnceLock;

use connector_core::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// A runtime that one process made. A child of `fork` has no threads, and makes another one.
struct Own {
    process: u32,
    runtime: Result<Runtime>,
    of_child: OnceLock<Box<Own>>,
}

static OWN: OnceLock<Own> = OnceLock::new();

impl Own {
    fn new() -> Self {
        let built = Builder::new_multi_thread().worker_threads(1).thread_name("kvconn-sockets").enable_all().build();
        let runtime = built.map_err(|e| Error::io(e, "start a thread for sockets"));
        Self { process: std::process::id(), runtime, of_child: OnceLock::new() }
    }
}

/// The runtime that always runs.
pub(super) fn own() -> Result<&'static Handle> {
    let process = std::process::id();
    let mut own = OWN.get_or_init(Own::new);
    while own.process != process {
        own = own.of_child.get_or_init(|| Box::new(Own::new()));
    }
    own.runtime.as_ref().map(Runtime::handle).map_err(Error::again)
}

/// The runtime for the sockets of a connector that was opened on `handle`.
pub(super) fn for_sockets(handle: &Handle) -> Result<Handle> {
    match handle.runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(handle.clone()),
        _ => own().cloned(),
    }
}
