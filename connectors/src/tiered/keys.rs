//! The state of keys in use, and of keys whose chunks are uncertain.
//!
//! Each key in use has a lock. Puts, removes and fills of the front hold it, so that only its holder changes the front.
//! Each key in use also has a version. A put or remove changes it at its start and at its end. So a read knows whether
//! its answer may be old: then it answers its callers, but does not fill the front.
//!
//! A key is *stale* if the front failed to remove its old chunk. Reads do not ask the front for it. A key is
//! *unconfirmed* if the back did not confirm its last change. The change may still happen, so reads do not fill the
//! front with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use lru::LruCache;
use tokio::sync::watch;

/// The answer of a shared read.
pub(super) type Answer = Option<Result<Option<MemoryObj>>>;

/// The largest number of stale keys. With more, reads do not use the front until it is empty.
const MAX_STALE: usize = 100_000;

/// The largest number of unconfirmed keys. With more, the oldest counts as confirmed: its change no longer happens.
const MAX_UNCONFIRMED: usize = 100_000;

/// The number of stale keys that the repair task takes at once.
const REPAIR_BATCH: usize = 64;

#[derive(Default)]
pub(super) struct Keys(Mutex<State>);

struct State {
    in_use: HashMap<CacheKey, KeyState>,
    stale: HashSet<CacheKey>,
    /// Whether reads do not use the front, because there were too many stale keys.
    front_disabled: bool,
    /// Whether the front failed to remove a key since the repair task last looked for stale keys.
    failed_again: bool,
    repairing: bool,
    unconfirmed: LruCache<CacheKey, ()>,
}

/// The keys whose old chunks the front may still have.
pub(super) enum Stale {
    None,
    Keys(Vec<CacheKey>),
    All,
}

/// The only task that removes stale chunks from the front, until dropped.
pub(super) struct Repair {
    keys: Arc<Keys>,
    over: bool,
}

/// The state of a change in the back.
enum BackState {
    Unasked,
    /// The back has not answered, or has failed: the change may still happen.
    Asked,
    Done,
}

#[derive(Default)]
struct KeyState {
    lock: Arc<tokio::sync::Mutex<()>>,
    users: usize,
    version: u64,
    read: Option<watch::Sender<Answer>>,
}

/// Keeps a key's lock and version until dropped.
pub(super) struct KeyGuard {
    keys: Arc<Keys>,
    pub(super) key: CacheKey,
    pub(super) lock: Arc<tokio::sync::Mutex<()>>,
}

/// A change of a key, from before its first step until dropped.
pub(super) struct Change {
    pub(super) guard: KeyGuard,
    in_back: BackState,
}

/// A read of a key. All callers that ask for the key in the meantime share it.
pub(super) struct SharedRead {
    pub(super) guard: KeyGuard,
    version: u64,
    answer: watch::Sender<Answer>,
}

/// Waits for a shared read. The read ends when its last waiter is dropped.
pub(super) struct Waiter(watch::Receiver<Answer>);

impl Keys {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard_in(self: &Arc<Self>, state: &mut State, key: &CacheKey) -> KeyGuard {
        let key_state = state.in_use.entry(key.clone()).or_default();
        key_state.users += 1;
        KeyGuard { keys: self.clone(), key: key.clone(), lock: key_state.lock.clone() }
    }

    pub(super) fn guard(self: &Arc<Self>, key: &CacheKey) -> KeyGuard {
        self.guard_in(&mut self.lock(), key)
    }

    /// Starts a change. The caller then takes the key's lock.
    pub(super) fn change(self: &Arc<Self>, key: &CacheKey) -> Change {
        let mut state = self.lock();
        let guard = self.guard_in(&mut state, key);
        state.bump_version(key);
        Change { guard, in_back: BackState::Unasked }
    }

    /// Joins the key's shared read, or starts one, which the caller must run.
    pub(super) fn join(self: &Arc<Self>, key: &CacheKey) -> (Waiter, Option<SharedRead>) {
        let mut state = self.lock();
        if let Some(answer) = state.in_use.get(key).and_then(|key_state| key_state.read.as_ref()) {
            return (Waiter(answer.subscribe()), None);
        }
        let guard = self.guard_in(&mut state, key);
        let (answer, waiter) = watch::channel(None);
        let mut version = 0;
        if let Some(key_state) = state.in_use.get_mut(key) {
            key_state.read = Some(answer.clone());
            version = key_state.version;
        }
        (Waiter(waiter), Some(SharedRead { guard, version, answer }))
    }

    /// Whether reads may ask the front for this key.
    pub(super) fn may_ask_front(&self, key: &CacheKey) -> bool {
        let state = self.lock();
        !state.front_disabled && !state.stale.contains(key)
    }

    pub(super) fn front_disabled(&self) -> bool {
        self.lock().front_disabled
    }

    /// Records that the front no longer has an old chunk of this key.
    pub(super) fn clear_stale(&self, key: &CacheKey) {
        self.lock().stale.remove(key);
    }

    /// Records that the front may have an old chunk of this key. The first call gives the repair task. With too many
    /// stale keys, reads no longer use a front that can be emptied. For any other front, kvconn remembers all of them.
    pub(super) fn mark_stale(self: &Arc<Self>, key: &CacheKey, can_be_emptied: bool) -> Option<Repair> {
        let mut state = self.lock();
        state.failed_again = true;
        if can_be_emptied && state.stale.len() >= MAX_STALE {
            state.front_disabled = true;
            tracing::error!(
                "the front store failed to remove {MAX_STALE} keys: kvconn empties it before it uses it again"
            );
            state.stale = HashSet::new();
        }
        if !state.front_disabled {
            state.stale.insert(key.clone());
        }
        (!std::mem::replace(&mut state.repairing, true)).then(|| Repair { keys: self.clone(), over: false })
    }

    /// Records that the back has the key's newest chunk.
    pub(super) fn confirm(&self, key: &CacheKey) {
        self.lock().unconfirmed.pop(key);
    }
}

impl Repair {
    /// The next keys to remove from the front. After [`Stale::None`], the next stale key starts a new task.
    pub(super) fn next(&mut self) -> Stale {
        let mut state = self.keys.lock();
        state.failed_again = false;
        if state.front_disabled {
            return Stale::All;
        }
        let keys: Vec<CacheKey> = state.stale.iter().take(REPAIR_BATCH).cloned().collect();
        if !keys.is_empty() {
            return Stale::Keys(keys);
        }
        // Under the same lock as the check above, so that a key that becomes stale now starts a new task.
        (state.repairing, self.over) = (false, true);
        Stale::None
    }

    /// Records that the front no longer has any chunk from before the last [`next`](Self::next).
    pub(super) fn emptied(&self) {
        let mut state = self.keys.lock();
        if !state.failed_again && std::mem::take(&mut state.front_disabled) {
            tracing::info!("the front store is empty: kvconn uses it again");
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            in_use: HashMap::new(),
            stale: HashSet::new(),
            front_disabled: false,
            failed_again: false,
            repairing: false,
            unconfirmed: LruCache::unbounded(),
        }
    }
}

impl State {
    fn bump_version(&mut self, key: &CacheKey) {
        if let Some(key_state) = self.in_use.get_mut(key) {
            key_state.version += 1;
        }
    }
}

impl Change {
    /// Records that the back may change from now on, even after this change ends.
    pub(super) fn ask_back(&mut self) {
        self.in_back = BackState::Asked;
    }

    /// Records that the back has confirmed the change.
    pub(super) fn done_in_back(&mut self) {
        self.in_back = BackState::Done;
    }
}

impl Drop for Change {
    /// Later callers must not join a read that started before.
    fn drop(&mut self) {
        let key = &self.guard.key;
        let mut state = self.guard.keys.lock();
        state.bump_version(key);
        if let Some(key_state) = state.in_use.get_mut(key) {
            key_state.read = None;
        }
        match self.in_back {
            BackState::Unasked => {}
            BackState::Done => {
                state.unconfirmed.pop(key);
            }
            BackState::Asked => {
                state.unconfirmed.put(key.clone(), ());
                if state.unconfirmed.len() > MAX_UNCONFIRMED {
                    state.unconfirmed.pop_lru();
                }
            }
        }
    }
}

impl Drop for Repair {
    /// If the task panicked, the next stale key starts a new one.
    fn drop(&mut self) {
        if !self.over {
            self.keys.lock().repairing = false;
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut state = self.keys.lock();
        let Some(key_state) = state.in_use.get_mut(&self.key) else { return };
        key_state.users -= 1;
        if key_state.users == 0 {
            state.in_use.remove(&self.key);
        }
    }
}

impl SharedRead {
    /// Whether no put or remove started or ended since this read started, and none is unconfirmed.
    pub(super) fn is_current(&self) -> bool {
        let state = self.guard.keys.lock();
        state.in_use.get(&self.guard.key).is_some_and(|key_state| key_state.version == self.version)
            && !state.unconfirmed.contains(&self.guard.key)
    }

    /// Waits until all waiters are gone. A caller may still join then: see [`is_abandoned`](Self::is_abandoned).
    pub(super) async fn all_waiters_gone(&self) {
        self.answer.closed().await;
    }

    /// Whether all waiters are gone. If so, callers can no longer join.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut state = self.guard.keys.lock();
        let abandoned = self.answer.receiver_count() == 0;
        if abandoned {
            self.detach(&mut state);
        }
        abandoned
    }

    /// Answers all waiters. A later caller starts a new read.
    pub(super) fn end(self, answer: Result<Option<MemoryObj>>) {
        self.detach(&mut self.guard.keys.lock());
        self.answer.send_replace(Some(answer));
    }

    fn detach(&self, state: &mut State) {
        if let Some(key_state) = state.in_use.get_mut(&self.guard.key)
            && key_state.read.as_ref().is_some_and(|read| read.same_channel(&self.answer))
        {
            key_state.read = None;
        }
    }
}

impl Drop for SharedRead {
    /// If the read panicked, its waiters must get an error.
    fn drop(&mut self) {
        self.detach(&mut self.guard.keys.lock());
    }
}

impl Waiter {
    pub(super) async fn answer(mut self) -> Result<Option<MemoryObj>> {
        let lost = || Error::new(ErrorKind::Other, "the read panicked, or the tokio runtime is shutting down");
        let answer = self.0.wait_for(Option::is_some).await.map_err(|_| lost())?;
        answer.clone().unwrap_or_else(|| Err(lost()))
    }
}
