//! The handle of every connector: layers, batches, spans and metrics, the blocking API.

mod batches;
mod blocking;
mod layered;
mod layers;
mod observe;
mod scripted;
