//! Polling: a call gives its thread back while it waits.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::subject::{Checked, Subject, ensure};

/// The longest time of one poll, if the call has no large chunk.
const LONGEST_POLL: Duration = Duration::from_millis(100);
/// A busy machine makes a poll long, too, but not each time.
const TRIES: usize = 5;

/// The call's answer, and the time of its longest poll.
async fn longest_poll<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let mut call = pin!(call);
    let mut longest = Duration::ZERO;
    let answer = poll_fn(|cx| {
        let start = Instant::now();
        let poll = call.as_mut().poll(cx);
        longest = longest.max(start.elapsed());
        poll
    });
    let answer = answer.await;
    (answer, longest)
}

pub(super) async fn calls_do_not_block_their_thread(s: &Subject) -> Checked {
    let key = s.key();
    let value = s.value(500)?;
    for call in ["exists", "get", "put"] {
        let mut shortest = Duration::MAX;
        for _ in 0..TRIES {
            let longest = match call {
                "exists" => longest_poll(s.store.exists(&key)).await.1,
                "get" => longest_poll(s.store.get(&key)).await.1,
                _ => longest_poll(s.store.put(&key, s.chunk(&value)?)).await.1,
            };
            shortest = shortest.min(longest);
            if shortest < LONGEST_POLL {
                break;
            }
        }
        ensure!(
            shortest < LONGEST_POLL,
            "`{call}` blocks its thread: one poll takes {shortest:?} or more, {TRIES} times"
        );
    }
    Ok(())
}
