//! What the attributes put into the lists.

use std::fmt;

use futures::future::BoxFuture;

use crate::Result;
use crate::adapter::{ConnectorAdapter, DynAdapter};
use crate::connector::{FromContext, RemoteConnector};
use crate::context::ConnectorContext;
use crate::layer::BoxConnector;
use crate::options::{ConnectorOptions, OptionsSchema};

type Factory = fn(ConnectorContext) -> BoxFuture<'static, Result<BoxConnector>>;

/// Where an entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The package that holds it.
    pub package: &'static str,
    /// That package's version.
    pub version: &'static str,
    /// Source file, as the compiler names it.
    pub file: &'static str,
    /// Line of the attribute.
    pub line: u32,
    /// Column of the attribute.
    pub column: u32,
}

impl fmt::Display for Origin {
    /// `src/lib.rs:12 (acme-kv 1.0.0)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({} {})", self.file, self.line, self.package, self.version)
    }
}

/// One connector that is linked into this binary.
#[derive(Clone, Copy)]
pub struct ConnectorEntry {
    module: &'static str,
    name: &'static str,
    schemes: &'static [&'static str],
    doc: &'static str,
    origin: Origin,
    options: Option<fn() -> OptionsSchema>,
    factory: Option<Factory>,
}

impl ConnectorEntry {
    /// The entry of connector `C`. `#[external_connector]` writes this; a crate without the attribute may, too.
    pub const fn new<C: RemoteConnector + FromContext>(
        module: &'static str,
        name: &'static str,
        schemes: &'static [&'static str],
        doc: &'static str,
        origin: Origin,
    ) -> Self {
        let factory: Factory = |ctx| Box::pin(async move { Ok(BoxConnector::new(C::from_context(ctx).await?)) });
        Self { module, name, schemes, doc, origin, options: None, factory: Some(factory) }
    }

    /// The same entry, with the type of the connector's options.
    #[must_use]
    pub const fn with_options<O: ConnectorOptions>(mut self) -> Self {
        self.options = Some(OptionsSchema::of::<O>);
        self
    }

    pub(crate) const fn sentinel() -> Self {
        let origin = Origin { package: "connector-core", version: "", file: file!(), line: line!(), column: column!() };
        Self { module: "", name: "", schemes: &[], doc: "", origin, options: None, factory: None }
    }

    /// The dotted path that stands in the URL: `acme.kv`.
    pub const fn module(&self) -> &'static str {
        self.module
    }

    /// The name that stands in `connector_name`: `AcmeConnector`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// `module/Name`, as errors and the index write it.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.module, self.name)
    }

    /// The schemes of its own: `acme` for `acme://..`.
    pub const fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    /// The struct's doc comment.
    pub const fn doc(&self) -> &'static str {
        self.doc
    }

    /// The first line of the doc comment.
    pub fn summary(&self) -> &'static str {
        self.doc.lines().next().unwrap_or_default()
    }

    /// Where it was written.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The connector's options, if the attribute names their type.
    pub fn options(&self) -> Option<OptionsSchema> {
        self.options.map(|schema| schema())
    }

    /// Makes the connector. `None` only for the sentinel, which no lookup gives out.
    pub(crate) fn create(&self, ctx: ConnectorContext) -> Option<BoxFuture<'static, Result<BoxConnector>>> {
        self.factory.map(|make| make(ctx))
    }

    pub(crate) fn is_sentinel(&self) -> bool {
        self.factory.is_none()
    }
}

impl fmt::Debug for ConnectorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectorEntry({}/{} at {})", self.module, self.name, self.origin)
    }
}

/// One adapter that a crate registered for a scheme of its own.
#[derive(Clone, Copy)]
pub struct AdapterEntry {
    scheme: &'static str,
    doc: &'static str,
    origin: Origin,
    make: Option<fn() -> Box<dyn DynAdapter>>,
}

impl AdapterEntry {
    /// The entry of adapter `A`. `#[connector_adapter]` writes this.
    pub const fn new<A: ConnectorAdapter + Default>(scheme: &'static str, doc: &'static str, origin: Origin) -> Self {
        Self { scheme, doc, origin, make: Some(|| Box::new(A::default())) }
    }

    pub(crate) const fn sentinel() -> Self {
        let origin = Origin { package: "connector-core", version: "", file: file!(), line: line!(), column: column!() };
        Self { scheme: "", doc: "", origin, make: None }
    }

    /// The scheme it serves.
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The struct's doc comment.
    pub const fn doc(&self) -> &'static str {
        self.doc
    }

    /// Where it was written.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn make(&self) -> Option<Box<dyn DynAdapter>> {
        self.make.map(|make| make())
    }

    pub(crate) fn is_sentinel(&self) -> bool {
        self.make.is_none()
    }
}

impl fmt::Debug for AdapterEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterEntry({}:// at {})", self.scheme, self.origin)
    }
}

/// A connector that a crate has, but that was compiled out: a failed lookup names the feature to enable.
#[derive(Debug, Clone, Copy)]
pub struct ConnectorHint {
    /// The module it would have.
    pub module: &'static str,
    /// The name it would have.
    pub name: &'static str,
    /// The schemes it would have.
    pub schemes: &'static [&'static str],
    /// The package to enable a feature of.
    pub package: &'static str,
    /// The feature.
    pub feature: &'static str,
}

impl ConnectorHint {
    pub(crate) const fn sentinel() -> Self {
        Self { module: "", name: "", schemes: &[], package: "", feature: "" }
    }
}
