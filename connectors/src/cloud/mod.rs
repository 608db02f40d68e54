//! The part that `s3`, `gcs` and `azure` share: one object a chunk, over an OpenDAL service.
//!
//! | file | its part |
//! |---|---|
//! | `names.rs` | the name of a key's object, and the key of a name |
//! | `store.rs` | the operations of a store |
//! | `transport.rs` | HTTP requests: connections, timeouts, refused requests |
//! | `lend.rs` | a chunk as the body of a request, without a copy |
//! | `settings.rs` | the options that all object stores share |
//! | `errors.rs` | kvconn's errors for those of OpenDAL |

mod errors;
mod lend;
mod names;
#[allow(dead_code, reason = "each store flattens it into its options")]
mod settings;
mod store;
mod transport;

pub use settings::CloudSettings;
pub(crate) use store::Store;
