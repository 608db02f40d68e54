//! Faults of an S3 server and of the network before it: they refuse, stall, cut, lose, delay and restart. Each fault ends in
//! an error or the right answer, never in a wrong chunk, a hang or a leak. The next call succeeds.
#![forbid(unsafe_code)]

mod call;
#[path = "../checked/mod.rs"]
mod checked;
mod dropped;
mod listing;
mod network;
mod parts;
mod random;
mod recovery;
mod refusals;
mod store;
mod tls;
