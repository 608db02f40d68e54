//! How the kernel schedules kvconn's own threads.
#![expect(unsafe_code, reason = "sets the policy of a thread")]

/// Sets the kernel's scheduling policy of the calling thread to batch work (`SCHED_BATCH`, sched(7)).
///
/// The wake-up of such a thread does not preempt the thread that runs on its core. An engine's scheduler submits work to
/// kvconn, and the submit wakes one of kvconn's threads. With the default policy and all cores busy, the woken thread would
/// run before the scheduler continues. The share of CPU time stays the same, so transfers continue while the engine
/// computes. A lower priority (nice) preempts more often, and `SCHED_IDLE` would stop transfers on a busy machine.
#[cfg(target_os = "linux")]
pub(super) fn schedule_as_batch() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // A sandbox may refuse the call. The thread then works as before.
    // SAFETY: the kernel only reads the parameters. 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}

/// Other systems have no such policy.
#[cfg(not(target_os = "linux"))]
pub(super) fn schedule_as_batch() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_of_the_runtime_is_batch_work() {
        let runtime = crate::runtime::handle().unwrap();
        // SAFETY: the call reads the policy of the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let task = runtime.spawn(async move { policy() });
        let blocking = runtime.spawn_blocking(policy);
        let policies = runtime.block_on(async { (task.await.unwrap(), blocking.await.unwrap()) });
        assert_eq!(policies, (libc::SCHED_BATCH, libc::SCHED_BATCH));
    }
}
