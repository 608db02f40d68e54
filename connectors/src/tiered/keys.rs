//! What is going on with which key. A key that nothing is going on with takes no memory.
//!
//! Each key has a lock, which puts, removes and the filling of the front hold: whoever changes the front holds it. And it
//! has a version, which a put or remove changes when it begins and when it ends: a read that began at another version knows
//! that what it read may be old, gives it to those who asked before, and keeps it out of the front.
//!
//! And there are keys in doubt: what the front failed to remove is *distrusted*, and is not asked of it; what the back did
//! not answer is *unsettled*, because that change may still come, and is not filled into the front.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use lru::LruCache;
use tokio::sync::watch;

/// What a read found, for all that wait for it.
pub(super) type Answer = Option<Result<Option<MemoryObj>, Arc<Error>>>;

/// Keys that the front may have wrong, at most; then it is passed by until it was emptied.
const MOST_DISTRUSTED: usize = 100_000;

/// Keys whose change the back did not answer, at most; then the oldest is settled: nothing comes that late.
const MOST_UNSETTLED: usize = 100_000;

/// Keys that are healed between two looks at what is in doubt.
const HEALED_AT_ONCE: usize = 64;

#[derive(Default)]
pub(super) struct Keys(Mutex<State>);

struct State {
    busy: HashMap<CacheKey, Busy>,
    /// The front may have another chunk than the back: it failed to remove what was replaced.
    distrusted: HashSet<CacheKey>,
    front_is_off: bool,
    /// Whether the front failed to remove something since the look at what is in doubt.
    failed_again: bool,
    healing: bool,
    unsettled: LruCache<CacheKey, ()>,
}

/// What the front may have wrong.
pub(super) enum Doubts {
    None,
    /// Some of these keys.
    Keys(Vec<CacheKey>),
    All,
}

/// The one task that makes the front right again, until dropped.
pub(super) struct Healing {
    keys: Arc<Keys>,
    over: bool,
}

/// What is known of a change in the back.
enum InBack {
    Unasked,
    /// It may come as long as this is not answered, or if it failed.
    Asked,
    Done,
}

#[derive(Default)]
struct Busy {
    lock: Arc<tokio::sync::Mutex<()>>,
    users: usize,
    version: u64,
    flight: Option<watch::Sender<Answer>>,
}

/// A use of a key. Keeps its lock and version until dropped.
pub(super) struct Use {
    keys: Arc<Keys>,
    key: CacheKey,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// A change of a key, from before its first step until dropped.
pub(super) struct Change {
    used: Use,
    in_back: InBack,
}

/// A read of the stores for all that ask for a key meanwhile.
pub(super) struct Flight {
    used: Use,
    version: u64,
    answer: watch::Sender<Answer>,
}

/// Waits for a read. When nobody waits any more, the read ends.
pub(super) struct Waiter(watch::Receiver<Answer>);

impl Keys {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(self: &Arc<Self>, state: &mut State, key: &CacheKey) -> Use {
        let busy = state.busy.entry(key.clone()).or_default();
        busy.users += 1;
        Use { keys: self.clone(), key: key.clone(), lock: busy.lock.clone() }
    }

    /// Whoever changes the key calls this first, then takes the lock.
    pub(super) fn change(self: &Arc<Self>, key: &CacheKey) -> Change {
        let mut state = self.lock();
        let used = self.used(&mut state, key);
        state.touch(key);
        Change { used, in_back: InBack::Unasked }
    }

    /// Joins the read that is in flight, or begins one: then the flight has to be flown.
    pub(super) fn join(self: &Arc<Self>, key: &CacheKey) -> (Waiter, Option<Flight>) {
        let mut state = self.lock();
        if let Some(answer) = state.busy.get(key).and_then(|busy| busy.flight.as_ref()) {
            return (Waiter(answer.subscribe()), None);
        }
        let used = self.used(&mut state, key);
        let (answer, waiter) = watch::channel(None);
        let mut version = 0;
        if let Some(busy) = state.busy.get_mut(key) {
            busy.flight = Some(answer.clone());
            version = busy.version;
        }
        (Waiter(waiter), Some(Flight { used, version, answer }))
    }

    /// Whether the front may be asked about this key.
    pub(super) fn trusts_front(&self, key: &CacheKey) -> bool {
        let state = self.lock();
        !state.front_is_off && !state.distrusted.contains(key)
    }

    pub(super) fn front_is_off(&self) -> bool {
        self.lock().front_is_off
    }

    /// The front is right about this key again.
    pub(super) fn trust(&self, key: &CacheKey) {
        self.lock().distrusted.remove(key);
    }

    /// The front may be wrong about this key. The first time, gives the task that sets it right. A front that can be
    /// emptied is passed by when there are too many such keys; of any other, all of them have to be remembered.
    pub(super) fn distrust(self: &Arc<Self>, key: &CacheKey, can_be_emptied: bool) -> Option<Healing> {
        let mut state = self.lock();
        state.failed_again = true;
        if can_be_emptied && state.distrusted.len() >= MOST_DISTRUSTED {
            state.front_is_off = true;
            tracing::error!(
                "the store in front failed to remove {MOST_DISTRUSTED} keys: it is passed by until emptied"
            );
            state.distrusted = HashSet::new();
        }
        if !state.front_is_off {
            state.distrusted.insert(key.clone());
        }
        (!std::mem::replace(&mut state.healing, true)).then(|| Healing { keys: self.clone(), over: false })
    }

    /// Keeps the key's lock.
    pub(super) fn use_of(self: &Arc<Self>, key: &CacheKey) -> Use {
        self.used(&mut self.lock(), key)
    }

    /// The back has this key's newest chunk: nothing older comes any more.
    pub(super) fn settle(&self, key: &CacheKey) {
        self.lock().unsettled.pop(key);
    }
}

impl Healing {
    /// What is to be healed next. With nothing, another task is begun when something is in doubt again.
    pub(super) fn next(&mut self) -> Doubts {
        let mut state = self.keys.lock();
        state.failed_again = false;
        if state.front_is_off {
            return Doubts::All;
        }
        let keys: Vec<CacheKey> = state.distrusted.iter().take(HEALED_AT_ONCE).cloned().collect();
        if !keys.is_empty() {
            return Doubts::Keys(keys);
        }
        // In one step with the look: what is in doubt from now on finds no task, and begins one.
        (state.healing, self.over) = (false, true);
        Doubts::None
    }

    /// All that was in the front when [`next`](Self::next) was called is out of it.
    pub(super) fn emptied(&self) {
        let mut state = self.keys.lock();
        if !state.failed_again && std::mem::take(&mut state.front_is_off) {
            tracing::info!("the store in front was emptied: it is used again");
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            busy: HashMap::new(),
            distrusted: HashSet::new(),
            front_is_off: false,
            failed_again: false,
            healing: false,
            unsettled: LruCache::unbounded(),
        }
    }
}

impl State {
    /// Another version from now on.
    fn touch(&mut self, key: &CacheKey) {
        if let Some(busy) = self.busy.get_mut(key) {
            busy.version += 1;
        }
    }
}

impl Use {
    pub(super) fn lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.lock.clone()
    }
}

impl Change {
    pub(super) fn lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.used.lock()
    }

    /// From now on the back may be changed, also later than this change ends, unless it is done before.
    pub(super) fn ask_back(&mut self) {
        self.in_back = InBack::Asked;
    }

    /// The back has answered that it is changed.
    pub(super) fn done_in_back(&mut self) {
        self.in_back = InBack::Done;
    }
}

impl Drop for Change {
    /// Who asks from now on must not be given what a read found that began before.
    fn drop(&mut self) {
        let key = &self.used.key;
        let mut state = self.used.keys.lock();
        state.touch(key);
        if let Some(busy) = state.busy.get_mut(key) {
            busy.flight = None;
        }
        match self.in_back {
            InBack::Unasked => {}
            InBack::Done => {
                state.unsettled.pop(key);
            }
            InBack::Asked => {
                state.unsettled.put(key.clone(), ());
                if state.unsettled.len() > MOST_UNSETTLED {
                    state.unsettled.pop_lru();
                }
            }
        }
    }
}

impl Drop for Healing {
    /// Also if the front panicked: the next failure begins another task.
    fn drop(&mut self) {
        if !self.over {
            self.keys.lock().healing = false;
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.keys.lock();
        let Some(busy) = state.busy.get_mut(&self.key) else { return };
        busy.users -= 1;
        if busy.users == 0 {
            state.busy.remove(&self.key);
        }
    }
}

impl Flight {
    pub(super) fn key(&self) -> &CacheKey {
        &self.used.key
    }

    pub(super) fn lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.used.lock()
    }

    /// Whether no put or remove began or ended since this read began, and none may come late.
    pub(super) fn is_current(&self) -> bool {
        let state = self.used.keys.lock();
        state.busy.get(&self.used.key).is_some_and(|busy| busy.version == self.version)
            && !state.unsettled.contains(&self.used.key)
    }

    /// Waits until nobody waits. Somebody may still join then: see [`is_abandoned`](Self::is_abandoned).
    pub(super) async fn alone(&self) {
        self.answer.closed().await;
    }

    /// Whether nobody waits. Then nobody can join any more.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut state = self.used.keys.lock();
        let abandoned = self.answer.receiver_count() == 0;
        if abandoned {
            self.detach(&mut state);
        }
        abandoned
    }

    /// Everybody gets the answer; who comes later begins a read of their own.
    pub(super) fn end(self, answer: Result<Option<MemoryObj>, Arc<Error>>) {
        self.detach(&mut self.used.keys.lock());
        self.answer.send_replace(Some(answer));
    }

    fn detach(&self, state: &mut State) {
        if let Some(busy) = state.busy.get_mut(&self.used.key)
            && busy.flight.as_ref().is_some_and(|flight| flight.same_channel(&self.answer))
        {
            busy.flight = None;
        }
    }
}

impl Drop for Flight {
    /// Also if the read panicked: whoever waits must hear of it.
    fn drop(&mut self) {
        self.detach(&mut self.used.keys.lock());
    }
}

impl Waiter {
    pub(super) async fn answer(mut self) -> Result<Option<MemoryObj>> {
        let lost = || Error::new(ErrorKind::Other, "the read panicked, or the tokio runtime is shutting down");
        let answer = self.0.wait_for(Option::is_some).await.map_err(|_| lost())?;
        match &*answer {
            Some(Ok(chunk)) => Ok(chunk.clone()),
            Some(Err(e)) => Err(Error::clone(e)),
            None => Err(lost()),
        }
    }
}
