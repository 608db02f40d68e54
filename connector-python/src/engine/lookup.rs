//! Lookups: answered within a deadline, also if the store hangs.
//!
//! A lookup that the store does not answer in time gets misses, and the late answer is dropped. Until its call has come back,
//! further lookups get misses at once. The call ends by the store's own timeout. Then the next lookup asks the store again.

use std::sync::Arc;
use std::time::Instant;

use connectors::{CacheKey, Error, ErrorKind, Result, runtime};
use tokio::time::timeout;

use super::job::{AnswerTo, Completion, Kind, cut_off};
use super::keys::Keys;
use super::queue::Queue;

/// A lookup without an answer. Its drop answers it, at the latest.
struct Question<H: Send + 'static> {
    queue: Arc<Queue<H>>,
    tag: i64,
    keys: usize,
    submitted: Instant,
    answer_to: Option<AnswerTo<H>>,
    /// Whether the answer was given without the store, and the call has not come back.
    overdue: bool,
}

impl<H: Send + 'static> Queue<H> {
    /// Asks which keys are stored. With `run`, only the leading keys that are all stored count.
    pub(crate) fn lookup(self: &Arc<Self>, tag: i64, keys: Keys, run: bool, answer_to: AnswerTo<H>) {
        let mut question = Question {
            queue: self.clone(),
            tag,
            keys: keys.len(),
            submitted: Instant::now(),
            answer_to: Some(answer_to),
            overdue: false,
        };
        let refused = {
            let mut state = self.state();
            state.lookups += 1;
            state.counters.submitted(Kind::Lookup, keys.len());
            let refused = state.overdue_lookups > 0;
            state.counters.lookups_refused += u64::from(refused);
            match () {
                () if state.closed => Some(Err(Error::new(ErrorKind::Closed, "the client is closed"))),
                () if keys.len() == 0 => Some(Ok(Vec::new())),
                () if refused => Some(Err(Error::new(ErrorKind::Timeout, "an earlier lookup has no answer yet"))),
                () => None,
            }
        };
        if let Some(answer) = refused {
            question.answer(answer);
            return;
        }
        let runtime = match runtime::handle() {
            Ok(runtime) => runtime,
            Err(exits) => return question.answer(Err(exits)),
        };
        let queue = self.clone();
        runtime.spawn(async move {
            let mut cuts = queue.cuts();
            let asking = async {
                let mut call = std::pin::pin!(ask(&queue, &keys, run));
                match timeout(queue.limits.lookup_timeout, call.as_mut()).await {
                    Ok(answer) => question.answer(answer),
                    Err(_) => {
                        question.give_up();
                        call.await.ok();
                    }
                }
            };
            tokio::select! {
                () = asking => {}
                _ = cuts.wait_for(|cut| *cut) => {}
            }
        });
    }
}

/// One byte for each key.
async fn ask<H: Send + 'static>(queue: &Queue<H>, keys: &Keys, run: bool) -> Result<Vec<u8>> {
    let mut yes = vec![0; keys.len()];
    let (mut places, mut readable) = (Vec::with_capacity(keys.len()), Vec::<CacheKey>::with_capacity(keys.len()));
    let mut wrong = None;
    for (place, key) in keys.parse(0..keys.len()) {
        match key {
            Ok(key) => {
                places.push(place);
                readable.push(key);
            }
            Err(e) => {
                wrong.get_or_insert(e);
                if run {
                    break;
                }
            }
        }
    }
    if let Some(e) = wrong
        && readable.is_empty()
    {
        return Err(e);
    }
    if run {
        let found = queue.connector.batched_contains(&readable).await;
        let found = [found];
        queue.note(&found);
        let [found] = found;
        yes[..found?].fill(1);
        return Ok(yes);
    }
    let answers = queue.connector.batched_exists(&readable).await;
    queue.note(&answers);
    let (mut answered, mut first_error) = (false, None);
    for (place, answer) in places.into_iter().zip(answers) {
        match answer {
            Ok(found) => {
                answered = true;
                yes[place] = u8::from(found);
            }
            Err(e) => {
                first_error.get_or_insert(e);
            }
        }
    }
    // One key's error does not hide the others.
    match first_error {
        Some(e) if !answered => Err(e),
        _ => Ok(yes),
    }
}

impl<H: Send + 'static> Question<H> {
    /// Answers with misses, and counts the lookup as overdue until this is dropped.
    fn give_up(&mut self) {
        let mut state = self.queue.state();
        state.overdue_lookups += 1;
        state.counters.lookup_timeouts += 1;
        drop(state);
        self.overdue = true;
        let message = format!("no answer within {:?}", self.queue.limits.lookup_timeout);
        self.answer(Err(Error::new(ErrorKind::Timeout, message)));
    }

    fn answer(&mut self, answer: Result<Vec<u8>>) {
        let Some(answer_to) = self.answer_to.take() else { return };
        let (yes, error) = match answer {
            Ok(yes) => (yes, None),
            Err(e) => (vec![0; self.keys], Some(e.to_string())),
        };
        let seconds = self.submitted.elapsed().as_secs_f64();
        let completion = Completion { tag: self.tag, yes, error, seconds, bytes: 0, memory: 0, held: None };
        let mut state = self.queue.state();
        state.lookups -= 1;
        state.counters.ended(Kind::Lookup, &completion, 0);
        self.queue.deliver(state, Kind::Lookup, completion, answer_to);
    }
}

impl<H: Send + 'static> Drop for Question<H> {
    fn drop(&mut self) {
        if self.overdue {
            self.queue.state().overdue_lookups -= 1;
        }
        self.answer(Err(cut_off()));
    }
}
