//! `redis://` on real servers.
#![forbid(unsafe_code)]

mod conformance;
