//! What the handle puts around every connector: layers, spans and metrics, the blocking API.

mod batches;
mod blocking;
mod layered;
mod layers;
mod observe;
mod scripted;
