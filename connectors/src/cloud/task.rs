//! Work on the store's runtime that ends with the call that waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use connector_core::{Error, ErrorKind, Result, runtime};
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The future, until it has ended or the call is dropped.
struct Work<T>(Mutex<State<T>>);

struct State<T> {
    future: Option<BoxFuture<'static, T>>,
    is_started: bool,
}

/// A call's wait for its work. Dropping it drops the work's future before it returns, so that nothing uses the memory of a
/// dropped call. It waits for one poll of the future at most, which never blocks.
struct Call<T> {
    work: Arc<Work<T>>,
    task: JoinHandle<Option<T>>,
}

/// Runs the work on `handle`, or on kvconn's own runtime if that one has ended.
///
/// # Errors
/// `Closed` if the runtime ends meanwhile.
pub(super) async fn run<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let work = Arc::new(Work(Mutex::new(State { future: Some(Box::pin(future)), is_started: false })));
    let mut call = Call { task: start(handle, &work), work };
    loop {
        match Pin::new(&mut call.task).await {
            Ok(Some(answer)) => return Ok(answer),
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) if !call.work.lock().is_started => call.task = start(runtime::handle()?, &call.work),
            _ => return Err(Error::new(ErrorKind::Closed, "the runtime of the store's requests has ended")),
        }
    }
}

fn start<T: Send + 'static>(handle: &Handle, work: &Arc<Work<T>>) -> JoinHandle<Option<T>> {
    let work = work.clone();
    handle.spawn(std::future::poll_fn(move |cx| work.poll(cx)))
}

impl<T> Work<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        state.is_started = true;
        let Some(future) = &mut state.future else { return Poll::Ready(None) };
        let answer = ready!(future.as_mut().poll(cx));
        state.future = None;
        Poll::Ready(Some(answer))
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        let future = self.work.lock().future.take();
        drop(future);
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    struct Ended(Arc<AtomicBool>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_call_has_dropped_its_work_when_the_drop_returns() {
        for _ in 0..200 {
            let ended = Arc::new(AtomicBool::new(false));
            let held = Ended(ended.clone());
            let work = async move {
                loop {
                    tokio::task::yield_now().await;
                    let _ = &held;
                }
            };
            let handle = Handle::current();
            let mut call = Box::pin(run::<()>(&handle, work));
            assert!(tokio::time::timeout(Duration::from_micros(300), &mut call).await.is_err());
            assert!(!ended.load(SeqCst));
            drop(call);
            assert!(ended.load(SeqCst));
        }
    }

    #[test]
    fn work_for_a_runtime_that_has_ended_runs_elsewhere() {
        let new = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ended = new().handle().clone();
        assert_eq!(new().block_on(run(&ended, async { 7 })).unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_of_the_work_is_a_panic_of_the_call() {
        let handle = Handle::current();
        let call = tokio::spawn(async move { run::<()>(&handle, async { panic!("the test wants a panic") }).await });
        assert!(call.await.unwrap_err().is_panic());
    }
}
