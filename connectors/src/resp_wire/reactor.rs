//! Which runtime waits for sockets and timers.
//!
//! A call may come from any runtime, from a thread without one, and from a runtime whose only thread is blocked in that
//! call. A socket wakes its task only while the runtime that it is registered with runs. So timers, and the sockets of
//! a connector that was opened on a runtime of a single thread, belong to the process's own runtime. A runtime of
//! several threads waits for its own sockets, which saves a switch between threads.

use connector_core::Result;
use tokio::runtime::{Handle, RuntimeFlavor};

/// The runtime that always runs.
pub(super) use connector_core::runtime::handle as own;

/// The runtime for the sockets of a connector that was opened on `handle`.
pub(super) fn for_sockets(handle: &Handle) -> Result<Handle> {
    match handle.runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(handle.clone()),
        _ => own().cloned(),
    }
}
