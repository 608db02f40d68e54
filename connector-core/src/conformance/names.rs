//! The keys of a check.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::subject::{Checked, ensure};
use crate::{CacheKey, KeyKind};

/// The keys of one check. No other program, run or check has the same, so that the kit is safe against a store in use.
pub(super) struct Names {
    model: String,
    next: AtomicU64,
    made: Mutex<Vec<CacheKey>>,
}

impl Names {
    pub(super) fn new() -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        let model = format!("kvconn-conformance-{random:016x}");
        Self { model, next: AtomicU64::new(1), made: Mutex::default() }
    }

    /// The model's name, with which every key of the check starts.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A key that no earlier check used. Every second engine key is a layer key.
    pub(super) fn key(&self, kind: KeyKind) -> CacheKey {
        let (model, n) = (&self.model, self.number());
        let text = match kind {
            KeyKind::Engine if n.is_multiple_of(2) => format!("{model}@1@0@{n:x}@half@3"),
            KeyKind::Engine => format!("{model}@1@0@{n:x}@half"),
            KeyKind::Object => format!("{model}@00000000@0@{n:016x}"),
        };
        self.named(&text, kind).unwrap_or_else(|e| unreachable!("the kit makes only valid keys: {e:?}"))
    }

    /// A key with this text, which must start with the model's name.
    pub(super) fn named(&self, text: &str, kind: KeyKind) -> Checked<CacheKey> {
        ensure!(text.starts_with(&self.model), "the kit must not use the key `{text}`, which another program may have");
        let key = CacheKey::parse(text, kind)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
        Ok(key)
    }

    /// All keys so far.
    pub(super) fn made(&self) -> Vec<CacheKey> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
