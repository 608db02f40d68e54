//! What the handle puts around every connector: layers, spans and metrics, the blocking face.

mod batches;
mod blocking;
mod layers;
mod observe;
mod scripted;
