//! The connector: the trait that an author implements, and the handle that a caller holds.

mod blocking;
mod boxed;
mod call;
mod capabilities;
mod contract;
mod diagnosis;
mod erased;
mod gate;
mod handle;
mod list_entry;
mod listing;
mod operation;
mod page;
mod run;
mod server_info;

pub use blocking::BlockingConnector;
pub use capabilities::Capabilities;
pub use contract::{FromContext, RemoteConnector};
pub use diagnosis::{Diagnosis, Verdict};
pub use gate::{Gate, Pass};
pub use handle::Connector;
pub use list_entry::ListEntry;
pub use operation::Operation;
pub use page::{ListPage, Pages};
pub use run::{count_run, leading_run};
pub use server_info::ServerInfo;

pub(crate) use boxed::BoxConnector;
pub(crate) use call::panicked;
pub(crate) use erased::DynConnector;
pub(crate) use operation::{forward, list_by, listings, operations};
