//! One file for each group of commands.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod chunk;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod describe;
pub(crate) mod du;
pub(crate) mod list;
pub(crate) mod new;
pub(crate) mod ping;
#[cfg(feature = "fs")]
pub(crate) mod scrub;
