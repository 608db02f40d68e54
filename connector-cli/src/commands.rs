//! One file for each group of commands.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod chunk;
pub(crate) mod connectors;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod keys;
pub(crate) mod ls;
pub(crate) mod new;
pub(crate) mod ping;
pub(crate) mod remove;
#[cfg(feature = "fs")]
pub(crate) mod scrub;
pub(crate) mod shell;
pub(crate) mod stat;
pub(crate) mod stores;
