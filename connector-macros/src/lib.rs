//! The attributes of `connector-core`, which re-exports and documents them. This file only dispatches. `args` parses
//! the arguments, `check` checks the item, and `expand` writes the registry's entry.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod args;
mod check;
mod expand;
mod once;
mod options;

use proc_macro::TokenStream;

/// Registers a connector, so that every binary that links this crate can open it by URL.
///
/// ```text
/// #[external_connector(module = "acme.kv", name = "AcmeConnector", scheme = "acme", options = AcmeOptions)]
/// ```
///
/// | argument | meaning |
/// |---|---|
/// | `module = ".."` | required; the dotted path in `external://host:port/acme.kv/?connector_name=..` |
/// | `name = ".."` | the connector's name in that URL; default: the struct's |
/// | `scheme = ".."` | a short URL, `acme://..`; may be given several times |
/// | `url = ".."` | an example of that short URL with every part that the connector reads, `acme://user:password@host:7000/path`. kvconn refuses the other parts; may be given several times |
/// | `options = Type` | the type of its options, a `ConnectorOptions`: shown by `describe`, and checked when a URL is opened |
/// | `crate = path` | where `connector-core` is, if it was renamed or is re-exported by another crate |
///
/// The struct must implement `RemoteConnector` and `FromContext`, and have no generic parameters. It stays as it is; its
/// doc comment becomes the connector's description. Two connectors of one module and name in one crate do not compile.
///
/// A crate is linked only if the program names it: `use acme_kv as _;` is enough.
#[proc_macro_attribute]
pub fn external_connector(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::external_connector(args.into(), item.into()).into()
}

/// Makes a struct the type of a connector's options: derives `Deserialize` and `JsonSchema`, without a dependency on serde or
/// schemars.
///
/// ```text
/// /// Options of `acme://`.
/// #[connector_options]
/// struct AcmeOptions {
///     /// Longest time until a new connection is ready.
///     #[option(unit = "ms")]
///     connect_timeout_ms: u64,
///     /// Password of the server.
///     #[option(secret)]
///     password: Option<String>,
///     #[option(flatten)]
///     wire: WireOptions,
/// }
///
/// impl Default for AcmeOptions { .. }
/// impl ConnectorOptions for AcmeOptions {}
/// ```
///
/// An option that holds the URL of another store has the type `Option<RemoteUrl>`.
///
/// The struct must implement `Default`, which gives the value of an option that is not set. Doc comments are the
/// options' descriptions. Keys of `#[option(..)]`:
///
/// | key | meaning |
/// |---|---|
/// | `secret` | kvconn never shows the value, also not in a URL. It adds an option with the suffix `_file`, for a file that holds the value |
/// | `unit = ".."` | the unit of the value: `bytes`, `ms`, `seconds` |
/// | `flatten` | the field is a struct with `#[connector_options]`, whose options are options of this one, too |
///
/// Attributes of serde and schemars work as after their own derives. On an enum, the attribute makes its variants the values
/// of an option; add `#[serde(rename_all = "snake_case")]` and `derive(Default)`. `crate = path` as in
/// `#[external_connector]`.
#[proc_macro_attribute]
pub fn connector_options(args: TokenStream, item: TokenStream) -> TokenStream {
    options::connector_options(args.into(), item.into()).into()
}

/// Registers an adapter for a scheme, so that every binary that links this crate serves the scheme.
///
/// ```text
/// #[connector_adapter(scheme = "acme-cluster")]
/// ```
///
/// The struct must implement `ConnectorAdapter` and `Default`. `crate = path` as in `#[external_connector]`.
#[proc_macro_attribute]
pub fn connector_adapter(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::connector_adapter(args.into(), item.into()).into()
}
