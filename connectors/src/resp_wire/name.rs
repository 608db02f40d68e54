//! The names of a chunk's values on a server.

use connector_core::CacheKey;

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
