//! The tests in `tests` compile the files in `ui`.
#![forbid(unsafe_code)]
