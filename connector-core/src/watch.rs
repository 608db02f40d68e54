//! Waiting for sockets in the place of the runtime, by the thread that polls.
//!
//! A call that waits for a socket is woken by its runtime's thread, and then polled by the thread that wants the answer:
//! two threads, each of which has to be woken first, which for a small question takes longer than the server. So a thread
//! that has nothing else to do meanwhile ([`block_on`]), or a loop that watches descriptors anyway, brings a [`Watcher`], and
//! the sockets that are waited for by what is polled within [`enter`](Watcher::enter) are watched by it: the thread is woken
//! by the socket itself. Everything else (clocks, other tasks) wakes by wakers, as always.
//!
//! A connector that has sockets, and wants to be waited for in this way, asks [`poll_read_ready`] before its runtime; one that
//! does not only takes the longer way.
//!
//! Linux only; elsewhere nobody ever watches.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(target_os = "linux")]
mod linux;
mod moments;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
pub use linux::{Watcher, block_on};
pub use moments::Moments;

thread_local! {
    static WATCHER: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

#[cfg(target_os = "linux")]
use linux::Inner;
#[cfg(not(target_os = "linux"))]
enum Inner {}

/// Whether sockets are watched by the thread that polls. Then their runtime may not have heard yet what has arrived, and
/// only a system call can tell.
pub fn is_on() -> bool {
    WATCHER.with_borrow(Option::is_some)
}

/// Ready once something can be read from `socket`, which must not block; `None` if nobody watches here.
///
/// Wakes the task that asked last. It may be ready by mistake, once: for a socket whose number was another's, or that was read
/// from elsewhere since. Who then reads in vain asks again.
///
/// # Errors
/// What the system says when it refuses to watch the descriptor. A runtime may still be able to.
pub fn poll_read_ready(socket: BorrowedFd<'_>, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
    let watcher = WATCHER.with_borrow(Clone::clone)?;
    Some(watcher.poll_read_ready(socket, cx))
}

#[cfg(not(target_os = "linux"))]
impl Inner {
    fn poll_read_ready(&self, _socket: BorrowedFd<'_>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
