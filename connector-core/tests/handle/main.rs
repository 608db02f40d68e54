//! The handle of every connector: layers, batches, spans and metrics, the blocking API.

/// `LayerOptions` with these fields set.
macro_rules! options {
    ($($name:ident: $value:expr),*) => {{
        let mut options = connector_core::layer::LayerOptions::default();
        $(options.$name = Some($value);)*
        options
    }};
}

mod batches;
mod blocking;
mod layered;
mod layers;
mod observe;
mod opening;
mod pages;
mod recorded;
mod scripted;
