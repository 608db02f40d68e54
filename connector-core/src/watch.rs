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
//! Even that may take longer than a server on the same machine takes to answer: who polls with [`poll_for`] does not sleep, and
//! has whoever waits for a socket try again.
//!
//! To watch is for Linux only; elsewhere nobody does, and who waits for a socket only tries again in [`poll_for`].

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(target_os = "linux")]
mod linux;
mod moments;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
pub use linux::{Watcher, block_on, try_block_on};
pub use moments::{Moments, poll_for};

thread_local! {
    static WATCHING: RefCell<Watching> = const { RefCell::new(Watching::Nobody) };
}

/// Who watches for what this thread polls.
enum Watching {
    Nobody,
    /// Whoever polls looks again soon: the sockets that were asked for since they were last said to be ready.
    WhoPolls(Vec<RawFd>),
    #[cfg(target_os = "linux")]
    By(Arc<linux::Inner>),
}

#[cfg(target_os = "linux")]
impl Watching {
    fn by(&self) -> Option<Arc<linux::Inner>> {
        match self {
            Self::By(watcher) => Some(watcher.clone()),
            _ => None,
        }
    }
}

/// Puts back who watched before.
struct Before(Watching);

impl Before {
    /// From here on it is `watching`.
    fn set(watching: Watching) -> Self {
        Self(WATCHING.replace(watching))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        WATCHING.set(std::mem::replace(&mut self.0, Watching::Nobody));
    }
}

/// Whether sockets are watched, or tried again, by the thread that polls. Then their runtime may not have heard yet what has
/// arrived, and only a system call can tell.
pub fn is_on() -> bool {
    WATCHING.with_borrow(|watching| !matches!(watching, Watching::Nobody))
}

/// Ready once something can be read from `socket`, which must not block; `None` if nobody watches here.
///
/// Wakes the task that asked last. It may be ready by mistake, once: for a socket whose number was another's, or that was read
/// from elsewhere since; in [`poll_for`], where only a try can tell, every second time. Who then reads in vain asks again, and
/// does not take it for progress.
///
/// # Errors
/// What the system says when it refuses to watch the descriptor. A runtime may still be able to.
pub fn poll_read_ready(socket: BorrowedFd<'_>, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
    #[cfg(target_os = "linux")]
    if let Some(watcher) = WATCHING.with_borrow(Watching::by) {
        return Some(watcher.poll_read_ready(socket, cx));
    }
    let again = WATCHING.with_borrow_mut(|watching| match watching {
        Watching::WhoPolls(asked) => Some(asks_again(asked, socket.as_raw_fd())),
        _ => None,
    })?;
    if again {
        // To try costs as little as to ask the system.
        return Some(Poll::Ready(Ok(())));
    }
    cx.waker().wake_by_ref();
    Some(Poll::Pending)
}

fn asks_again(asked: &mut Vec<RawFd>, socket: RawFd) -> bool {
    let at = asked.iter().position(|fd| *fd == socket);
    match at {
        Some(at) => _ = asked.swap_remove(at),
        None => asked.push(socket),
    }
    at.is_some()
}
