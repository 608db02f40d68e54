//! Work that borrows from its caller, on several threads.
#![expect(unsafe_code, reason = "lends the caller's work to other threads")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use super::{PerProcess, handle, threads_set};

/// The most threads of one batch, unless `KVCONN_THREADS` is set. Each moves 2 to 4 GiB/s. More threads would take CPUs from
/// other processes.
const MOST: usize = 16;

/// The most threads that move one batch, the caller's included: as many as the CPUs, but at most 16, or `KVCONN_THREADS`.
pub fn batch_threads() -> usize {
    static THREADS: PerProcess<usize> = PerProcess::new();
    *THREADS.get_or_init(|| match threads_set() {
        Ok(None) => available_parallelism().map_or(1, usize::from).min(MOST),
        Ok(Some(set)) => set,
        Err(_) => 1,
    })
}

/// The threads of this process that help, and those that have been asked and have not started.
static HELPING: PerProcess<AtomicUsize> = PerProcess::new();

/// Whether a thread helps, or was asked to help and has not started.
#[cfg(test)]
pub(super) fn is_helping() -> bool {
    HELPING.get().is_some_and(|helping| helping.load(Ordering::Relaxed) > 0)
}

/// Runs `work` on the calling thread. Meanwhile up to `helpers` of kvconn's own threads run `help`. Returns when `work` has
/// returned and no thread is inside `help`.
///
/// A thread that starts later does not call `help`, so the caller never waits for a thread that gets no CPU. All calls of the
/// process together have at most one helper less than [`batch_threads`]. After [`shut_down`](super::shut_down) only the
/// caller works.
///
/// # Panics
/// If `work` or `help` panics.
pub fn fork_join(helpers: usize, help: &(dyn Fn() + Sync), work: impl FnOnce()) {
    // SAFETY: only `Call::help` uses the reference, and only between an entry, which needs `is_open`, and its exit. `Call::end`
    // makes `is_open` false and waits until no thread is inside. This function calls it before it returns, also after a panic.
    // So the reference is used only while `help` is borrowed.
    let help = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(help) };
    let state = State { is_open: true, inside: 0, panic: None };
    let call = Arc::new(Call { help, state: Mutex::new(state), left: Condvar::new() });
    let worked = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..helpers {
            if !call.invite() {
                break;
            }
        }
        work();
    }));
    let helped = call.end();
    if let Some(panic) = worked.err().or(helped) {
        resume_unwind(panic);
    }
}

/// One [`fork_join`]. Threads that start late keep it alive after its end.
struct Call {
    help: *const (dyn Fn() + Sync),
    state: Mutex<State>,
    left: Condvar,
}

// SAFETY: several threads may call `help` at once, because it is `Sync`. `fork_join` says why it lives long enough.
unsafe impl Send for Call {}
// SAFETY: as for `Send`.
unsafe impl Sync for Call {}

struct State {
    is_open: bool,
    /// Threads that run `help`.
    inside: usize,
    panic: Option<Box<dyn Any + Send>>,
}

/// A thread that counts in [`HELPING`].
struct Place(&'static AtomicUsize);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Call {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one thread for help. False if all threads help already, or after the shut-down.
    fn invite(self: &Arc<Self>) -> bool {
        let helping = HELPING.get_or_init(AtomicUsize::default);
        let place = Place(helping);
        if helping.fetch_add(1, Ordering::Relaxed) + 1 >= batch_threads() {
            return false;
        }
        let Ok(runtime) = handle() else { return false };
        let call = self.clone();
        // A blocking thread: a task would wait behind the task that calls this.
        runtime.spawn_blocking(move || call.help(place));
        true
    }

    fn help(&self, place: Place) {
        {
            let mut state = self.lock();
            if !state.is_open {
                return;
            }
            state.inside += 1;
        }
        // SAFETY: this thread is inside, so `fork_join` has not returned.
        let helped = catch_unwind(AssertUnwindSafe(|| unsafe { (*self.help)() }));
        // The caller's next call finds the place free.
        drop(place);
        let mut state = self.lock();
        state.inside -= 1;
        if let Err(panic) = helped {
            state.panic = Some(panic);
        }
        if state.inside == 0 && !state.is_open {
            self.left.notify_one();
        }
    }

    /// Lets no other thread in, and waits for those that are inside. Returns the panic of one of them.
    fn end(&self) -> Option<Box<dyn Any + Send>> {
        let mut state = self.lock();
        state.is_open = false;
        while state.inside > 0 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.panic.take()
    }
}
