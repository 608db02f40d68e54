//! The entries that the attributes add to the lists.

use std::fmt;

use futures::future::BoxFuture;

use crate::adapter::{ConnectorAdapter, DynAdapter, ExternalConnectorAdapter};
use crate::connector::BoxConnector;
use crate::connector::{FromContext, RemoteConnector};
use crate::context::ConnectorContext;
use crate::options::{ConnectorOptions, OptionsSchema};
use crate::{Error, ErrorKind, Result};

type Factory = fn(ConnectorContext) -> BoxFuture<'static, Result<BoxConnector>>;

/// The place of an attribute in the source.
#[non_exhaustive]
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

impl Origin {
    /// The attributes call this. The values are options because not every build tool sets cargo's variables.
    #[doc(hidden)]
    pub const fn new(
        package: Option<&'static str>,
        version: Option<&'static str>,
        file: &'static str,
        line: u32,
        column: u32,
    ) -> Self {
        let package = if let Some(package) = package { package } else { "unknown package" };
        let version = if let Some(version) = version { version } else { "unknown version" };
        Self { package, version, file, line, column }
    }
}

impl fmt::Display for Origin {
    /// `src/lib.rs:12 (acme-kv 1.0.0)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({} {})", self.file, self.line, self.package, self.version)
    }
}

const HERE: Origin = Origin::new(Some("connector-core"), None, file!(), line!(), column!());

/// One connector that is linked into this binary.
#[derive(Clone, Copy)]
pub struct ConnectorEntry {
    module: &'static str,
    name: &'static str,
    schemes: &'static [&'static str],
    urls: &'static [&'static str],
    doc: &'static str,
    origin: Origin,
    options: Option<fn() -> &'static OptionsSchema>,
    factory: Factory,
}

impl ConnectorEntry {
    pub(crate) const SENTINEL: Self = Self {
        module: "",
        name: "",
        schemes: &[],
        urls: &[],
        doc: "",
        origin: HERE,
        options: None,
        factory: |_| Box::pin(async { Err(Error::new(ErrorKind::NotFound, "the sentinel is not a connector")) }),
    };

    /// The entry of connector `C`: `#[external_connector]` writes this.
    #[doc(hidden)]
    pub const fn new<C: RemoteConnector + FromContext>(
        module: &'static str,
        name: &'static str,
        schemes: &'static [&'static str],
        doc: &'static str,
        origin: Origin,
    ) -> Self {
        let factory: Factory = |ctx| Box::pin(async move { Ok(BoxConnector::new(C::from_context(ctx).await?)) });
        Self { module, name, schemes, urls: &[], doc, origin, options: None, factory }
    }

    /// The same entry, with examples of its short URLs.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_urls(mut self, urls: &'static [&'static str]) -> Self {
        self.urls = urls;
        self
    }

    /// The same entry, with the type of the connector's options.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_options<O: ConnectorOptions>(mut self) -> Self {
        self.options = Some(OptionsSchema::of::<O>);
        self
    }

    /// The dotted path in the URL: `acme.kv`.
    pub const fn module(&self) -> &'static str {
        self.module
    }

    /// The value of `connector_name` in the URL: `AcmeConnector`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// `module/Name`, as errors and the index write it.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.module, self.name)
    }

    /// The schemes that it claims: `acme` for `acme://..`.
    pub const fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    /// Examples of its short URLs, if the attribute gives any: `acme://user:password@host:7000`.
    pub const fn urls(&self) -> &'static [&'static str] {
        self.urls
    }

    /// The struct's doc comment.
    pub const fn doc(&self) -> &'static str {
        self.doc
    }

    /// The first line of the doc comment.
    pub fn summary(&self) -> &'static str {
        self.doc.lines().next().unwrap_or_default()
    }

    /// The place of its attribute.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The connector's options, if the attribute names their type.
    pub fn options(&self) -> Option<&'static OptionsSchema> {
        self.options.map(|schema| schema())
    }

    pub(crate) fn create(&self, ctx: ConnectorContext) -> BoxFuture<'static, Result<BoxConnector>> {
        (self.factory)(ctx)
    }

    pub(super) fn is_sentinel(&self) -> bool {
        self.name.is_empty()
    }
}

impl fmt::Debug for ConnectorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectorEntry({}/{} at {})", self.module, self.name, self.origin)
    }
}

/// One adapter that a crate registered for a scheme.
#[derive(Clone, Copy)]
pub struct AdapterEntry {
    scheme: &'static str,
    doc: &'static str,
    origin: Origin,
    make: fn() -> Box<dyn DynAdapter>,
}

impl AdapterEntry {
    pub(crate) const SENTINEL: Self =
        Self { scheme: "", doc: "", origin: HERE, make: || Box::new(ExternalConnectorAdapter) };

    /// The entry of adapter `A`: `#[connector_adapter]` writes this.
    #[doc(hidden)]
    pub const fn new<A: ConnectorAdapter + Default>(scheme: &'static str, doc: &'static str, origin: Origin) -> Self {
        Self { scheme, doc, origin, make: || Box::new(A::default()) }
    }

    /// The scheme it serves.
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The struct's doc comment.
    pub const fn doc(&self) -> &'static str {
        self.doc
    }

    /// The place of its attribute.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn make(&self) -> Box<dyn DynAdapter> {
        (self.make)()
    }

    pub(super) fn is_sentinel(&self) -> bool {
        self.scheme.is_empty()
    }
}

impl fmt::Debug for AdapterEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterEntry({}:// at {})", self.scheme, self.origin)
    }
}

/// A connector that a crate has, but that was compiled out: a failed lookup names the feature to enable.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct ConnectorHint {
    pub module: &'static str,
    pub name: &'static str,
    pub schemes: &'static [&'static str],
    pub package: &'static str,
    pub feature: &'static str,
}

impl ConnectorHint {
    pub(crate) const SENTINEL: Self = Self { module: "", name: "", schemes: &[], package: "", feature: "" };
}
