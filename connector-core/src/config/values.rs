//! Values as LMCache's converters read them: Python's `int`, `float` and `str`, and LMCache's `_to_bool`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{invalid, wrong};
use crate::Result;
use crate::url::redact;

/// `true` and `1` are true. LMCache takes any other text for false, also `yes`.
pub(super) fn flag(key: &str, value: &Value) -> bool {
    let text = match value {
        Value::Bool(flag) => return *flag,
        Value::String(text) => text.trim().to_ascii_lowercase(),
        other => other.to_string(),
    };
    if !matches!(text.as_str(), "true" | "1" | "false" | "0" | "") {
        tracing::warn!(key, value = %redact(&text), "LMCache takes this for false; write `true` or `false`");
    }
    matches!(text.as_str(), "true" | "1")
}

/// Python's `int`: cuts off decimals of a number, but not of a text. `_` may separate digits.
pub(super) fn int(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(flag) => Some(i128::from(*flag)),
        Value::Number(n) => n.as_i128().or_else(|| n.as_f64().map(|n| n as i128)),
        Value::String(text) => without_separators(text)?.parse().ok(),
        _ => None,
    }
}

/// Python's `float`.
pub(super) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(n) => n.as_f64(),
        Value::String(text) => without_separators(text)?.parse().ok(),
        _ => None,
    }
}

/// The text of a number without `_`, each of which must be between two digits.
fn without_separators(text: &str) -> Option<String> {
    let text = text.trim();
    let parts = text.split('_');
    let starts = parts.clone().skip(1).all(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let ends = parts.rev().skip(1).all(|part| part.ends_with(|c: char| c.is_ascii_digit()));
    (starts && ends).then(|| text.replace('_', ""))
}

/// Python's `str` of a scalar. Empty text counts as not set.
pub(super) fn text(key: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Value::Bool(flag) => Ok(Some(if *flag { "True" } else { "False" }.to_owned())),
        Value::Number(n) => Ok(Some(n.to_string())),
        _ => Err(wrong(key, value, "text")),
    }
}

/// A list, or a text whose items commas separate.
pub(super) fn list(key: &str, value: &Value) -> Result<Vec<String>> {
    match value {
        Value::String(text) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        Value::Array(items) => items.iter().filter_map(|item| text(key, item).transpose()).collect(),
        _ => Err(wrong(key, value, "a list of texts")),
    }
}

/// Whether Python's `bool` is false. LMCache takes such a value for an empty map.
pub(super) fn is_false(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// A map, or JSON of one. The JSON may itself be a text with JSON.
pub(super) fn map(key: &str, value: &Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        value if is_false(value) => Ok(Map::new()),
        Value::String(text) => {
            let value = serde_json::from_str(text.trim_start_matches('\u{feff}'));
            map(key, &value.map_err(|e| invalid(format!("key `{key}`: it is not JSON: {e}")))?)
        }
        _ => Err(invalid(format!("key `{key}` is not a map of keys to values"))),
    }
}

/// The text of a variable. As in LMCache, a text in quotes is a Python literal, or loses its quotes if it is not a
/// valid one.
pub(super) fn unquote(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return literal(inner, quote).map_or(Cow::Borrowed(inner), Cow::Owned);
        }
    }
    Cow::Borrowed(text)
}

/// The value of a Python string literal without its quotes.
fn literal(inner: &str, quote: char) -> Option<String> {
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == quote || c == '\n' {
            return None;
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = chars.next()?;
        let hex = |chars: &mut std::str::Chars<'_>, digits: usize| {
            let (text, rest) = chars.as_str().split_at_checked(digits)?;
            *chars = rest.chars();
            char::from_u32(u32::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))?)
        };
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'x' => out.push(hex(&mut chars, 2)?),
            'u' => out.push(hex(&mut chars, 4)?),
            'U' => out.push(hex(&mut chars, 8)?),
            '0'..='7' => {
                let mut code = escape.to_digit(8)?;
                for _ in 0..2 {
                    if let Some(digit) = chars.clone().next().and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        chars.next();
                    }
                }
                out.push(char::from_u32(code)?);
            }
            // A character by its name is left as it is written, without quotes.
            'N' => return None,
            other => out.extend(['\\', other]),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_in_quotes_is_a_python_literal() {
        for (text, value) in [
            ("  a b ", "a b"),
            ("'a'", "a"),
            (r#""{\"a\": \"b\\n\"}""#, r#"{"a": "b\n"}"#),
            (r"'it\'s\t\x41\u6a21\U0001F600\101\d'", "it's\tA模😀A\\d"),
            ("'a' 'b'", "a' 'b"),
            (r"'a\'", r"a\"),
            (r"'\xg1'", r"\xg1"),
            (r"'\x+1'", r"\x+1"),
            ("'", "'"),
            ("''", ""),
            ("'a\"", "'a\""),
            ("", ""),
        ] {
            assert_eq!(unquote(text), value, "{text}");
        }
    }
}
