//! From a name to the entry that was linked under it.

use std::collections::HashMap;
use std::fmt::Write;

use super::{AdapterEntry, ConnectorEntry, ConnectorHint, Origin, did_you_mean, is_identifier, nearest};
use crate::layer::is_layer_option;
use crate::options::OptionsSchema;
use crate::{Error, ErrorKind, Hint, Result};

/// Schemes that core itself serves.
const RESERVED_SCHEMES: [&str; 2] = ["external", "plugin"];

/// The owner of a scheme.
#[derive(Debug, Clone, Copy)]
pub enum SchemeOwner {
    /// A connector's own short URL.
    Connector(&'static ConnectorEntry),
    /// An adapter.
    Adapter(&'static AdapterEntry),
}

impl SchemeOwner {
    fn origin(self) -> Origin {
        match self {
            Self::Connector(e) => e.origin(),
            Self::Adapter(e) => e.origin(),
        }
    }

    fn what(self) -> String {
        match self {
            Self::Connector(e) => format!("connector `{}` at {}", e.full_name(), e.origin()),
            Self::Adapter(e) => format!("an adapter at {}", e.origin()),
        }
    }
}

/// One claim, or several that conflict.
#[derive(Debug)]
enum Claims<T> {
    One(T),
    Several(Vec<T>),
}

/// Lookup by name and by scheme: one hash each, no allocation. Public only for this crate's tests and benches.
#[doc(hidden)]
#[derive(Debug)]
pub struct Index {
    by_name: HashMap<(&'static str, &'static str), Claims<&'static ConnectorEntry>>,
    by_scheme: HashMap<&'static str, Claims<SchemeOwner>>,
    connectors: Vec<&'static ConnectorEntry>,
    adapters: Vec<&'static AdapterEntry>,
    hints: Vec<&'static ConnectorHint>,
}

impl Index {
    /// The index of these entries. The same place twice is one entry: a dev-dependency cycle links a crate twice.
    pub fn new(
        connectors: &'static [ConnectorEntry],
        adapters: &'static [AdapterEntry],
        hints: &'static [ConnectorHint],
    ) -> Self {
        let mut connectors: Vec<_> = connectors.iter().filter(|e| !e.is_sentinel()).collect();
        connectors.sort_by_key(|e| (e.module(), e.name(), e.origin()));
        connectors.dedup_by_key(|e| (e.module(), e.name(), e.origin()));
        let mut adapters: Vec<_> = adapters.iter().filter(|e| !e.is_sentinel()).collect();
        adapters.sort_by_key(|e| (e.scheme(), e.origin()));
        adapters.dedup_by_key(|e| (e.scheme(), e.origin()));

        let mut by_name = HashMap::with_capacity(connectors.len());
        let mut by_scheme = HashMap::new();
        for &entry in &connectors {
            claim(&mut by_name, (entry.module(), entry.name()), entry);
            for &scheme in entry.schemes() {
                claim(&mut by_scheme, scheme, SchemeOwner::Connector(entry));
            }
        }
        for &entry in &adapters {
            claim(&mut by_scheme, entry.scheme(), SchemeOwner::Adapter(entry));
        }
        let hints = hints.iter().filter(|h| !h.name.is_empty()).collect();
        Self { by_name, by_scheme, connectors, adapters, hints }
    }

    pub(super) fn connectors(&self) -> &[&'static ConnectorEntry] {
        &self.connectors
    }

    pub(super) fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.by_scheme.keys().copied()
    }

    pub(super) fn knows_scheme(&self, scheme: &str) -> bool {
        RESERVED_SCHEMES.contains(&scheme)
            || self.by_scheme.contains_key(scheme)
            || self.hints.iter().any(|hint| hint.schemes.contains(&scheme))
    }

    pub(super) fn adapters(&self) -> &[&'static AdapterEntry] {
        &self.adapters
    }

    /// The connector of this module and name.
    ///
    /// # Errors
    /// As [`registry::find`](super::find).
    pub fn find(&self, module: &str, name: &str) -> Result<&'static ConnectorEntry> {
        match self.by_name.get(&(module, name)) {
            Some(Claims::One(entry)) => Ok(entry),
            Some(Claims::Several(entries)) => Err(name_conflict(module, name, entries)),
            None => Err(self.no_connector(module, name)),
        }
    }

    pub(super) fn find_scheme(&self, scheme: &str) -> Result<Option<SchemeOwner>> {
        match self.by_scheme.get(scheme) {
            Some(Claims::One(owner)) => Ok(Some(*owner)),
            Some(Claims::Several(owners)) => Err(scheme_conflict(scheme, owners)),
            None => Ok(None),
        }
    }

    /// Also checks that no crate claims `external` or `plugin`, which the attributes refuse.
    pub(super) fn validate(&self) -> Result<()> {
        let mut conflicts: Vec<String> = Vec::new();
        for (&(module, name), claims) in &self.by_name {
            if let Claims::Several(entries) = claims {
                conflicts.push(name_conflict(module, name, entries).message().to_owned());
            }
        }
        for (&scheme, claims) in &self.by_scheme {
            match claims {
                Claims::Several(owners) => conflicts.push(scheme_conflict(scheme, owners).message().to_owned()),
                Claims::One(owner) if RESERVED_SCHEMES.contains(&scheme) => {
                    conflicts.push(format!("scheme `{scheme}` is kvconn's own, but is claimed by {}", owner.what()));
                }
                Claims::One(_) => {}
            }
        }
        for entry in &self.connectors {
            let options = entry.options().map(OptionsSchema::options).unwrap_or_default();
            for option in options.iter().filter(|option| is_layer_option(&option.name)) {
                let (option, name, origin) = (&option.name, entry.full_name(), entry.origin());
                conflicts.push(format!("option `{option}` of connector `{name}` at {origin} is a layer's option, too"));
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        conflicts.sort();
        Err(Error::new(ErrorKind::Conflict, conflicts.join("; ")).with_hint(rename()))
    }

    #[cold]
    pub(super) fn no_scheme(&self, scheme: &str) -> Error {
        let known: Vec<&str> = RESERVED_SCHEMES.into_iter().chain(self.schemes()).collect();
        let mut message = format!("no connector serves the scheme `{scheme}://`");
        if let Some(hint) = self.hints.iter().find(|h| h.schemes.contains(&scheme)) {
            return Error::new(ErrorKind::NotFound, message).with_hint(compiled_out(hint));
        }
        // `redis+tls` means redis with TLS, so only `rediss` is a correction of it.
        let plain = known.iter().find(|k| is_with_tls(scheme, k));
        let near = match plain {
            Some(plain) => known.iter().copied().find(|k| is_with_tls(k, plain)),
            None => nearest(scheme, known.iter().copied()),
        };
        if let Some(near) = near {
            let _ = write!(message, " (did you mean `{near}`?)");
        }
        let mut known: Vec<String> = known.iter().map(|s| format!("{s}://")).collect();
        known.sort();
        let _ = write!(message, "; known schemes: {}", known.join(" "));
        let error = Error::new(ErrorKind::NotFound, message);
        match near.and_then(super::example_of) {
            Some(example) => error.with_hint(format!("write the URL as in `{example}`")),
            None if plain.is_some() => error.with_hint(NO_TLS),
            None => error.with_hint(find_more()),
        }
    }

    pub(super) fn search(&self, text: &str) -> Result<Vec<&'static ConnectorEntry>> {
        if let Some((module, name)) = text.rsplit_once('/') {
            return self.find(module, name).map(|entry| vec![entry]);
        }
        let named = self.connectors.iter().filter(|e| e.module() == text || e.name() == text);
        let named: Vec<_> = named.copied().collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let known = self.connectors.iter().flat_map(|e| [e.module(), e.name()]).chain(self.schemes());
        let guess = did_you_mean(text, known);
        let message =
            format!("`{}` is not a known connector, module or scheme{guess}; known: {}", shown(text), self.all());
        Err(Error::new(ErrorKind::NotFound, message))
    }

    fn all(&self) -> String {
        if self.connectors.is_empty() {
            return "none".to_owned();
        }
        self.connectors.iter().map(|e| e.full_name()).collect::<Vec<_>>().join(", ")
    }

    #[cold]
    fn no_connector(&self, module: &str, name: &str) -> Error {
        let names: Vec<&str> = self.connectors.iter().filter(|e| e.module() == module).map(|e| e.name()).collect();
        let mut message = if names.is_empty() {
            format!("no connector has the module `{}`", shown(module))
        } else {
            format!("module `{module}` has no connector `{}`", shown(name))
        };
        if let Some(hint) = self.hints.iter().find(|h| h.module == module && h.name == name) {
            return Error::new(ErrorKind::NotFound, message).with_hint(compiled_out(hint));
        }
        let guess = if names.is_empty() {
            let modules = self.connectors.iter().map(|e| e.module()).chain(self.hints.iter().map(|h| h.module));
            did_you_mean(module, modules)
        } else {
            did_you_mean(name, names.into_iter())
        };
        message.push_str(&guess);
        let _ = write!(message, "; known: {}", self.all());
        Error::new(ErrorKind::NotFound, message).with_hint(find_more())
    }
}

/// A name that is not registered. A text that is not a name may be a URL without its `://`, with a password.
fn shown(name: &str) -> &str {
    if name.split(['.', '-']).all(is_identifier) { name } else { "***" }
}

/// Whether a scheme means another one with encryption: `rediss`, `redis+tls`, `redis-ssl`, `rediss-cluster`.
fn is_with_tls(scheme: &str, plain: &str) -> bool {
    let is_suffix = |suffix: &str| {
        let suffix = suffix.trim_start_matches(['+', '-', '.', '_']);
        ["s", "tls", "ssl"].contains(&suffix)
    };
    let (store, kind) = plain.split_once('-').unwrap_or((plain, ""));
    scheme.strip_prefix(plain).is_some_and(is_suffix)
        || scheme.strip_prefix(store).and_then(|rest| rest.strip_suffix(kind)?.strip_suffix('-')).is_some_and(is_suffix)
}

const NO_TLS: &str = "this scheme asks for TLS, which its store does not have; a tunnel such as stunnel encrypts, too";

fn find_more() -> Hint {
    Hint::each(
        "`kvconn list` shows the connectors of the command; to link one into your own program, add \
         `use its_crate as _;` or enable its feature",
        "`kvconn.connectors()` lists the connectors that are installed; `pip install` the package that has the other one",
        "`kvconn list` lists the connectors of this command",
    )
}

fn compiled_out(hint: &ConnectorHint) -> Hint {
    let ConnectorHint { feature, package, .. } = hint;
    Hint::each(
        format!(
            "kvconn has it, but this binary was built without it: enable feature `{feature}` of package `{package}`"
        ),
        "kvconn has it, but this library was built without it: install kvconn's full wheel, and open it by `kvconn.connect`",
        "kvconn has it, but this command was built without it: use the command of kvconn's full wheel",
    )
}

/// For connectors that claim one name.
fn rename() -> Hint {
    const IN_A_BUILD: &str = "this build has both: the author of one of them must rename it";
    Hint::each("rename one of them, or leave one crate out of this binary", IN_A_BUILD, IN_A_BUILD)
}

fn claim<K: std::hash::Hash + Eq, T: Copy>(map: &mut HashMap<K, Claims<T>>, key: K, new: T) {
    map.entry(key)
        .and_modify(|claims| match claims {
            Claims::One(first) => *claims = Claims::Several(vec![*first, new]),
            Claims::Several(all) => all.push(new),
        })
        .or_insert(Claims::One(new));
}

#[cold]
fn name_conflict(module: &str, name: &str, entries: &[&'static ConnectorEntry]) -> Error {
    let places: Vec<String> = entries.iter().map(|e| e.origin().to_string()).collect();
    Error::new(
        ErrorKind::Conflict,
        format!("connector `{module}/{name}` is registered {} times: {}", entries.len(), places.join(" and ")),
    )
    .with_hint(rename())
}

#[cold]
fn scheme_conflict(scheme: &str, owners: &[SchemeOwner]) -> Error {
    let mut owners = owners.to_vec();
    owners.sort_by_key(|o| o.origin());
    let places: Vec<String> = owners.iter().map(|o| o.what()).collect();
    Error::new(
        ErrorKind::Conflict,
        format!("scheme `{scheme}://` is claimed {} times: by {}", places.len(), places.join(" and by ")),
    )
    .with_hint(Hint::each(
        "drop one of the claims, or open the connector by its `external://` URL",
        "open the connector by its `external://` URL",
        "open the connector by its `external://` URL",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Audience;

    #[test]
    fn hints_name_crates_and_features_only_in_a_rust_program() {
        let out = ConnectorHint { feature: "fs", package: "connectors", ..ConnectorHint::SENTINEL };
        for hint in [find_more(), compiled_out(&out), rename()] {
            for audience in [Audience::Python, Audience::Shell] {
                let text = hint.to(audience);
                assert!(!["crate", "feature", "use its", "::"].iter().any(|word| text.contains(word)), "{text}");
            }
        }
        assert!(find_more().to(Audience::Rust).contains("`use its_crate as _;`"));
        assert!(compiled_out(&out).to(Audience::Rust).contains("enable feature `fs`"));
    }
}
