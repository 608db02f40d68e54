//! Keys of in-process mode, and the kind of a key.

use connector_core::{CacheEngineKey, CacheKey, KeyKind, LayerCacheEngineKey};

use crate::text;

/// Reads the text as a key of in-process mode, and as a key whose kind the caller does not know.
///
/// # Panics
/// If a key differs from its text, or the second parser gives another result.
pub fn key(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let readings = second_readings(text);

    match (CacheKey::parse(text, KeyKind::Engine), readings.first()) {
        (Ok(key), Some(first)) => {
            assert_eq!((key.as_str(), key.kind()), (text, KeyKind::Engine));
            assert_eq!(key.hash_modulo(1 << 32), low_bits(&first.hash));
            let only = if readings.len() == 1 { Some(first) } else { None };
            assert_eq!(key.model_name(), only.map(|parts| &*parts.model));
            assert_eq!(key.chunk_hash_hex(), only.map(|parts| &*parts.hash));
            assert_eq!(key.layer_id(), only.and_then(|parts| parts.layer));
        }
        (Err(e), Some(parts)) => panic!("{text:?} has the parts {parts:?}, but is refused: {e}"),
        (Ok(key), None) => panic!("{text:?} is {key:?}, but has no reading"),
        (Err(_), None) => {}
    }
    match (text.parse::<LayerCacheEngineKey>(), text.parse::<CacheEngineKey>(), &readings[..]) {
        (Ok(layer), Err(_), [parts]) => parts.check(text, &layer.key, Some(layer.layer_id)),
        (Err(_), Ok(engine), [parts]) => parts.check(text, &engine, None),
        (Err(_), Err(_), parts) => assert_ne!(parts.len(), 1, "{text:?} is refused"),
        (layer, engine, parts) => panic!("{text:?} is {layer:?} and {engine:?} instead of {parts:?}"),
    }
    let object = CacheKey::parse(text, KeyKind::Object).is_ok();
    let guess = text.parse::<CacheKey>().ok().map(|key| key.kind());
    let engine = (!readings.is_empty()).then_some(KeyKind::Engine);
    assert_eq!(guess, if object { Some(KeyKind::Object) } else { engine }, "{text:?} of any kind");
}

#[derive(Debug)]
struct Parts {
    model: String,
    world_size: u32,
    worker_id: u32,
    hash: String,
    dtype: String,
    layer: Option<u32>,
    tags: String,
}

impl Parts {
    /// Checks that the key has these parts, and that a key made from these parts has the text.
    fn check(&self, text: &str, key: &CacheEngineKey, layer: Option<u32>) {
        assert_eq!((key.model_name(), key.world_size()), (&*self.model, self.world_size));
        assert_eq!((key.worker_id(), key.chunk_hash().as_str()), (self.worker_id, &*self.hash));
        assert_eq!((key.dtype().key_name(), layer), (&*self.dtype, self.layer));

        let Some(tags) = key.tags() else { return assert!(self.tags.contains('@')) };
        let joined: Vec<String> = tags.iter().map(|(name, value)| format!("{name}%{value}")).collect();
        assert_eq!(joined.join("@"), self.tags);
        if tags.iter().any(|(name, _)| name.contains('@')) {
            return;
        }
        let hash = key.chunk_hash().clone();
        let made = CacheEngineKey::new(&*self.model, self.world_size, self.worker_id, hash, key.dtype());
        let made = tags.iter().try_fold(made.expect("read parts are valid"), |key, (n, v)| key.with_tag(n, v));
        let made = made.expect("read tags are valid");
        assert_eq!(&made, key);
        let made = match layer {
            None => CacheKey::from(made),
            Some(layer_id) => LayerCacheEngineKey { key: made, layer_id }.into(),
        };
        assert_eq!(made.as_str(), text);
    }
}

const DTYPES: &str =
    "half bfloat16 float double int8 uint8 int16 int32 int64 bool fp8_e4m3fn fp8_e4m3fnuz fp8_e5m2 fp8_e5m2fnuz";

/// All ways to read `model@world_size@worker_id@hash@dtype`, then `@layer_id` if the next field is a number, then
/// anything with a `%`. The model's name may contain `@`.
fn second_readings(text: &str) -> Vec<Parts> {
    let fields: Vec<&str> = text.split('@').collect();
    let read = |model_fields: usize| {
        let model = fields[..model_fields].join("@");
        let [world_size, worker_id, hash, dtype, rest @ ..] = &fields[model_fields..] else { return None };
        let known = !model.is_empty() && text.trim_start() == text && is_hash(hash);
        if !known || !DTYPES.split(' ').any(|d| d == *dtype) {
            return None;
        }
        let (layer, tags) = match rest {
            [layer, tags @ ..] if number(layer).is_some() => (number(layer), tags),
            tags => (None, tags),
        };
        let joined = tags.join("@");
        (tags.is_empty() || joined.contains('%')).then_some(())?;
        Some(Parts {
            model,
            world_size: number(world_size)?,
            worker_id: number(worker_id)?,
            hash: hash.to_string(),
            dtype: dtype.to_string(),
            layer,
            tags: joined,
        })
    };
    (1..fields.len()).filter_map(read).collect()
}

/// The lowest 32 bits of the hash without its sign.
fn low_bits(hash: &str) -> usize {
    let digits = hash.trim_start_matches('-');
    usize::from_str_radix(&digits[digits.len().saturating_sub(8)..], 16).expect("hex digits")
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
