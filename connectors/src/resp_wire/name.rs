//! The names of a chunk's values on a server, and whether one command may contain several of them.

use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::CacheKey;

use super::errors::code;
use super::reply::Reply;
use super::request::Arg;

/// A chunk's name: the store's prefix, which is empty without a namespace, and the key's text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    /// `namespace:`
    pub(crate) prefix: &'a str,
    /// The key.
    pub(crate) key: &'a CacheKey,
}

impl<'a> Name<'a> {
    /// The name of the chunk's value with this suffix.
    pub(crate) fn with(self, suffix: &'a str) -> Arg<'a> {
        Arg::Name(self.parts(suffix))
    }

    /// The parts of that name.
    pub(crate) fn parts(self, suffix: &'a str) -> [&'a str; 3] {
        [self.prefix, self.key.as_str(), suffix]
    }
}

/// Whether one command may contain the names of both values of a chunk. A server of a cluster refuses it with
/// `CROSSSLOT`, because the names belong to different slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots<'a> {
    /// Each command contains one name.
    pub(crate) apart: bool,
    learned: &'a AtomicBool,
}

impl<'a> Slots<'a> {
    /// The knowledge of earlier calls.
    pub(crate) fn new(learned: &'a AtomicBool) -> Self {
        Self { apart: learned.load(Ordering::Relaxed), learned }
    }

    /// Learns from the server's reply.
    pub(crate) fn learn(self, reply: Reply) -> Reply {
        if let Reply::Error(text) = &reply
            && code(text) == b"CROSSSLOT"
        {
            self.learned.store(true, Ordering::Relaxed);
        }
        reply
    }

    /// Whether a call with both names in one command must run again, with one name in each.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only `redis` has two names"))]
    pub(crate) fn is_outdated(self) -> bool {
        !self.apart && self.learned.load(Ordering::Relaxed)
    }
}
