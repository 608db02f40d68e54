//! Reads typed options from texts: a URL has only strings, and YAML often has a number in quotes.

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// A JSON value whose strings also read as the number, flag or list that the struct asks for.
pub(super) struct Loose(Value);

impl Loose {
    pub(super) fn new(value: Value) -> Self {
        Self(value)
    }
}

/// Separates field and message in the error of a flattened part: serde passes on only text.
const FIELD_END: char = '\0';

/// Reads a part that the options of a store contain. Without this, serde's `flatten` would lose the loose reading of texts
/// and the name of the wrong field.
///
/// # Errors
/// The first wrong value.
pub fn flattened<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let map = Map::deserialize(deserializer)?;
    T::deserialize(Loose(Value::Object(map))).map_err(|e| match e.field {
        Some(field) => de::Error::custom(format_args!("{field}{FIELD_END}{}", e.message.unwrap_or_default())),
        None => de::Error::custom(e.message.unwrap_or_default()),
    })
}

/// The wrong field and the reason.
#[derive(Debug)]
pub struct LooseError {
    pub(super) field: Option<String>,
    /// `None` if the value's type or range is wrong. Serde's own text would show the value.
    pub(super) message: Option<String>,
}

const WRONG_TYPE: LooseError = LooseError { field: None, message: None };

impl fmt::Display for LooseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("the value has the wrong type"))
    }
}

impl std::error::Error for LooseError {}

impl de::Error for LooseError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        let (field, message) = match text.split_once(FIELD_END) {
            Some((field, message)) => (Some(field.to_owned()), message),
            None => (None, &*text),
        };
        Self { field, message: Some(message.to_owned()).filter(|message| !message.is_empty()) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), message: Some("it is required, but nothing sets it".to_owned()) }
    }

    fn invalid_type(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        WRONG_TYPE
    }

    fn invalid_value(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        WRONG_TYPE
    }

    fn invalid_length(_: usize, _: &dyn de::Expected) -> Self {
        WRONG_TYPE
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        WRONG_TYPE
    }
}

/// `true`, `false` and what LMCache's and YAML 1.1's readers take for them.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $ty:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
            match &self.0 {
                Value::String(text) => visitor.$visit(text.trim().parse::<$ty>().map_err(|_| WRONG_TYPE)?),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Loose {
    type Error = LooseError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, number) => visitor.visit_f64(number.ok_or(WRONG_TYPE)?),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Object(map) => visitor.visit_map(Fields { map: map.into_iter(), value: None }),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self::new))),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64, deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        match self.0 {
            Value::String(text) => visitor.visit_bool(parse_bool(&text).ok_or(WRONG_TYPE)?),
            Value::Number(n) if n.as_u64() == Some(0) || n.as_u64() == Some(1) => {
                visitor.visit_bool(n.as_u64() == Some(1))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        match self.0 {
            // YAML reads `password: 1234` as a number, but its author means text.
            Value::Number(number) => visitor.visit_string(number.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// `a,b` is a list where the struct asks for one.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, LooseError> {
        match self.0 {
            Value::String(text) => {
                let items: Vec<_> =
                    text.split(',').map(|item| Self::new(Value::String(item.trim().to_owned()))).collect();
                visitor.visit_seq(SeqDeserializer::new(items.into_iter()))
            }
            other => Self::new(other).deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, LooseError> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.into_deserializer()),
            _ => Err(WRONG_TYPE),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, LooseError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, LooseError> for Loose {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A struct's fields; an error of a value is labelled with its field.
struct Fields {
    map: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = LooseError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, LooseError> {
        let Some((key, value)) = self.map.next() else { return Ok(None) };
        let answer = seed.deserialize(key.as_str().into_deserializer()).map(Some);
        self.value = Some((key, value));
        answer
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, LooseError> {
        let (key, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Loose::new(value)).map_err(|e| LooseError { field: Some(key), message: e.message })
    }
}
