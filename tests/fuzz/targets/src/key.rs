//! Keys of in-process mode, and the kind of a key.

use connector_core::{CacheEngineKey, CacheKey, KeyKind, LayerCacheEngineKey};

use crate::text;

/// Reads the text as a key of any kind, and as each of the in-process kinds.
///
/// # Panics
/// If a key differs from its text, or the second parser gives another result.
pub fn key(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let expected = second_reading(text);

    match (CacheKey::parse(text), &expected) {
        (Ok(key), Some(parts)) => {
            assert_eq!((key.as_str(), key.kind()), (text, parts.kind()));
            assert_eq!((key.model_name(), key.chunk_hash_hex()), (parts.model, parts.hash));
            assert!(key.hash_modulo(7) < 7);
        }
        (Ok(key), None) => assert_eq!((key.as_str(), key.kind()), (text, KeyKind::Object)),
        (Err(e), Some(parts)) => panic!("{text:?} has the parts {parts:?}, but is refused: {e}"),
        (Err(_), None) => {}
    }
    for kind in [KeyKind::Engine, KeyKind::Layer] {
        let expected = expected.as_ref().filter(|parts| parts.kind() == kind);
        match (CacheKey::parse_as(text, kind), expected) {
            (Ok(key), Some(parts)) => parts.check(&key),
            (Err(_), None) => {}
            (read, expected) => panic!("{text:?} as {kind:?} is {read:?} instead of {expected:?}"),
        }
    }
}

#[derive(Debug)]
struct Parts<'a> {
    model: &'a str,
    world_size: u32,
    worker_id: u32,
    hash: &'a str,
    dtype: &'a str,
    layer: Option<u32>,
    tags: Vec<(String, String)>,
}

impl Parts<'_> {
    fn kind(&self) -> KeyKind {
        if self.layer.is_some() { KeyKind::Layer } else { KeyKind::Engine }
    }

    /// Checks that the key has these parts, and that a key made from these parts is equal.
    fn check(&self, key: &CacheKey) {
        let (engine, layer) = match key.as_str().parse::<LayerCacheEngineKey>() {
            Ok(layer) => (layer.key, Some(layer.layer_id)),
            Err(_) => (key.as_str().parse().expect("a key of its own kind"), None),
        };
        assert_eq!((engine.model_name(), engine.world_size()), (self.model, self.world_size));
        assert_eq!((engine.worker_id(), engine.chunk_hash().as_str()), (self.worker_id, self.hash));
        assert_eq!((engine.dtype().key_name(), layer, engine.tags()), (self.dtype, self.layer, &self.tags[..]));

        // A value may end with a space if another tag follows, but `with_tag` refuses such a value.
        if self.tags.iter().any(|(_, value)| value.trim_end() != value) {
            return;
        }
        let hash = engine.chunk_hash().clone();
        let made = CacheEngineKey::new(self.model, self.world_size, self.worker_id, hash, engine.dtype());
        let made = self.tags.iter().try_fold(made.expect("read parts are valid"), |k, (n, v)| k.with_tag(n, v));
        let made = made.expect("read tags are valid");
        let made = layer.map_or_else(
            || CacheKey::from(made.clone()),
            |id| LayerCacheEngineKey { key: made.clone(), layer_id: id }.into(),
        );
        assert_eq!(made.as_str(), key.as_str());
    }
}

const DTYPES: &str =
    "half bfloat16 float double int8 uint8 int16 int32 int64 bool fp8_e4m3fn fp8_e4m3fnuz fp8_e5m2 fp8_e5m2fnuz";

/// `model@world_size@worker_id@hash@dtype`, `@layer_id` if the next field is digits only, `@tag%value` for each tag.
fn second_reading(text: &str) -> Option<Parts<'_>> {
    if text.trim() != text {
        return None;
    }
    let fields: Vec<&str> = text.split('@').collect();
    let [model, world_size, worker_id, hash, dtype, rest @ ..] = &fields[..] else { return None };
    let known = !model.is_empty() && is_hash(hash) && DTYPES.split(' ').any(|d| d == *dtype);
    // Eight hex digits in the second field are an object key's rank.
    let world_size = number(world_size).filter(|_| known && world_size.len() != 8)?;
    let worker_id = number(worker_id)?;
    let is_digits = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_digit());
    let (layer, tags) = match rest {
        [layer, tags @ ..] if is_digits(layer) => (Some(number(layer)?), tags),
        tags => (None, tags),
    };
    let tags = tags.iter().map(|t| t.split_once('%').map(|(n, v)| (n.to_owned(), v.to_owned())));
    Some(Parts { model, world_size, worker_id, hash, dtype, layer, tags: tags.collect::<Option<_>>()? })
}

/// A decimal number as Python prints it.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

/// An integer in lower hex as Python prints it, or two or more bytes in lower hex; at most 256 bits.
fn is_hash(text: &str) -> bool {
    let is_hex = |s: &str| !s.is_empty() && s.chars().all(|c| "0123456789abcdef".contains(c));
    let is_natural = |s: &str| is_hex(s) && !s.starts_with('0');
    let is_integer = text == "0" || is_natural(text.strip_prefix('-').unwrap_or(text));
    let is_bytes = is_hex(text) && text.len() >= 4 && text.len().is_multiple_of(2);
    (is_integer || is_bytes) && text.trim_start_matches('-').len() <= 64
}
