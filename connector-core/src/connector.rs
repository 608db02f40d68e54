//! The connector: what an author implements, and what a caller holds.

mod capabilities;
mod contract;
mod erased;
mod gate;
mod handle;

pub use capabilities::Capabilities;
pub use contract::{FromContext, RemoteConnector};
pub use gate::{Gate, Pass};
pub use handle::Connector;
