//! Stores on a redis server that speaks TLS.
#![forbid(unsafe_code)]

mod conformance;
