//! The namespace of a store: the part of a shared store that one tenant, engine or revision of weights uses.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::{Error, ErrorKind, Result};

/// A part of a shared store: two handles with different namespaces never see each other's chunks.
///
/// A namespace is 1 to 100 ASCII letters, digits, `.`, `_`, `-` and `+`, and does not start with `.`. A store puts it
/// into the *stored* name of a chunk, never into the [`CacheKey`](crate::CacheKey): before the names of redis, or as a
/// folder of fs. A store has the option `namespace: Option<Namespace>`. Without it, the store's bytes and names are
/// those of LMCache.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// let namespace: connector_core::Namespace = "team-a.v2".parse()?;
/// assert_eq!(namespace.as_str(), "team-a.v2");
/// assert!("a/b".parse::<connector_core::Namespace>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// Most bytes of a namespace.
    pub const MAX_LEN: usize = 100;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = Error;

    /// # Errors
    /// `InvalidOption`, with the rule that the text breaks.
    fn from_str(text: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        let why = if text.is_empty() {
            "a namespace is empty".to_owned()
        } else if text.len() > Self::MAX_LEN {
            format!("a namespace of {} bytes is longer than {}", text.len(), Self::MAX_LEN)
        } else if text.starts_with('.') {
            "a namespace starts with `.`".to_owned()
        } else if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            format!("a namespace holds {c:?}")
        } else {
            return Ok(Self(text.into()));
        };
        Err(Error::new(ErrorKind::InvalidOption, why)
            .with_hint("use letters, digits, `.`, `_`, `-` and `+`, as in `namespace=team-a`"))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Namespace {
    fn schema_name() -> Cow<'static, str> {
        "Namespace".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::MAX_LEN, "pattern": "^[A-Za-z0-9_+-][A-Za-z0-9._+-]*$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_safe_part_of_every_stores_names() {
        let longest = "x".repeat(Namespace::MAX_LEN);
        for text in ["a", "0", "team-a", "A_b.c+d", "-", "+", "a..b", &longest] {
            assert_eq!(text.parse::<Namespace>().unwrap().to_string(), text);
        }
        let too_long = "x".repeat(Namespace::MAX_LEN + 1);
        for (text, why) in [
            ("", "is empty"),
            (".", "starts with `.`"),
            ("..", "starts with `.`"),
            (".a", "starts with `.`"),
            ("a/b", "holds '/'"),
            ("a:b", "holds ':'"),
            ("a b", "holds ' '"),
            ("a*", "holds '*'"),
            ("a@b", "holds '@'"),
            ("a\0", "holds '\\0'"),
            ("ä", "holds 'ä'"),
            (&too_long, "101 bytes is longer than 100"),
        ] {
            let e = text.parse::<Namespace>().unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains(why), "{text}: {e}");
        }
    }
}
