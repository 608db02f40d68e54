//! Forks of this process. A child of `fork` has copies of its parent's values, but none of its threads. A lock that one
//! of these threads held stays locked for ever, and sockets and timers belong to the parent.
#![expect(unsafe_code, reason = "registers a handler of forks, and leaks values of the parent")]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A number that differs between this process and every process that forked it, also if C code forked. A process id is
/// not enough: in another PID namespace the child can have its parent's id.
pub fn forks() -> u64 {
    static COUNTED: AtomicBool = AtomicBool::new(false);
    if !COUNTED.load(Ordering::Acquire) {
        // Not in a `Once`: a fork in the middle of it would lock it for ever. Two handlers count a fork twice, which
        // does no harm. If the system has no memory for the handler, forks are not counted.
        // SAFETY: the handler only adds to an atomic, which is allowed between `fork` and `exec`.
        unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        COUNTED.store(true, Ordering::Release);
    }
    FORKS.load(Ordering::Relaxed)
}

/// A value that each process makes once. A child of `fork` makes another value, and never waits for a thread of its
/// parent. Values are never dropped.
pub struct PerProcess<T> {
    newest: AtomicPtr<Made<T>>,
    /// `forks() + 1` of the process in which a thread makes a value now, or another number.
    making: AtomicU64,
    of: PhantomData<T>,
}

struct Made<T> {
    forks: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// No value yet.
    #[expect(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self { newest: AtomicPtr::new(std::ptr::null_mut()), making: AtomicU64::new(0), of: PhantomData }
    }

    /// This process's value, if it was made.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the pointer is null, or comes from `Box::leak` below and is never freed.
        let made = unsafe { self.newest.load(Ordering::Acquire).as_ref() }?;
        (made.forks == forks()).then_some(&made.value)
    }

    /// This process's value. `make` runs in one thread; other threads wait for it.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        struct Making<'a>(&'a AtomicU64);
        impl Drop for Making<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Release);
            }
        }
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            let here = forks() + 1;
            let other = self.making.load(Ordering::Acquire);
            if other == here || self.making.compare_exchange(other, here, Ordering::AcqRel, Ordering::Acquire).is_err()
            {
                std::thread::yield_now();
                continue;
            }
            let making = Making(&self.making);
            // Another thread may have ended in between.
            if self.get().is_none() {
                let made = Box::leak(Box::new(Made { forks: forks(), value: make() }));
                self.newest.store(made, Ordering::Release);
                return &made.value;
            }
            drop(making);
        }
    }
}

/// A value of the process that made it. A child of `fork` never drops its copy: that could take a lock that no thread
/// releases, or take a socket away from the parent.
pub(crate) struct OfProcess<T> {
    forks: u64,
    value: ManuallyDrop<T>,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { forks: forks(), value: ManuallyDrop::new(value) }
    }
}

impl<T> Deref for OfProcess<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.forks == forks() {
            // SAFETY: nothing uses the value after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_value_is_made_once() {
        static NUMBER: PerProcess<Mutex<u32>> = PerProcess::new();
        assert!(NUMBER.get().is_none());
        let all: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| *NUMBER.get_or_init(|| Mutex::new(0)).lock().unwrap() += 1)).collect();
        all.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*NUMBER.get().unwrap().lock().unwrap(), 8);
    }

    #[test]
    fn a_value_that_could_not_be_made_is_made_later() {
        static NUMBER: PerProcess<u32> = PerProcess::new();
        assert!(std::panic::catch_unwind(|| NUMBER.get_or_init(|| panic!("the test wants a panic"))).is_err());
        assert_eq!(*NUMBER.get_or_init(|| 2), 2);
    }

    /// Runs `check` in a child of `fork`, as C code forks, and says whether it gave true within a minute.
    pub(crate) fn in_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child only runs the check and exits.
        match unsafe { libc::fork() } {
            0 => {
                let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_or(false);
                // SAFETY: ends the child without the test harness's handlers.
                unsafe { libc::_exit(i32::from(!ok)) }
            }
            child => {
                for _ in 0..6000 {
                    let mut status = 0;
                    // SAFETY: `status` is valid for the call.
                    if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
                        return status == 0;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                // SAFETY: the child is this test's own, and was not waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
                false
            }
        }
    }

    #[test]
    fn a_child_has_a_value_of_its_own_and_waits_for_no_thread_of_its_parent() {
        static VALUE: PerProcess<u32> = PerProcess::new();
        static HELD: PerProcess<u32> = PerProcess::new();
        assert_eq!(*VALUE.get_or_init(|| 1), 1);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let maker = std::thread::spawn(move || {
            *HELD.get_or_init(|| {
                begun.send(()).unwrap();
                ended.recv().unwrap();
                1
            })
        });
        has_begun.recv().unwrap();
        assert!(in_child(|| {
            VALUE.get().is_none() && *VALUE.get_or_init(|| 2) == 2 && *HELD.get_or_init(|| 3) == 3
        }));
        end.send(()).unwrap();
        assert_eq!((maker.join().unwrap(), *VALUE.get_or_init(|| 3)), (1, 1));
    }

    #[test]
    fn a_child_does_not_drop_its_parents_value() {
        let value = Arc::new(());
        let of_parent = OfProcess::new(value.clone());
        let mut of_parent = Some(of_parent);
        assert!(in_child(|| {
            of_parent = None;
            Arc::strong_count(&value) == 2
        }));
        drop(of_parent);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
