//! Reads YAML as PyYAML's `safe_load`, LMCache's reader, does: YAML 1.1, where `yes` is true and `0400` is octal.
//!
//! The parser is a library. This module gives the scalars their types, and bounds depth and size.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

/// The deepest nesting. LMCache's configuration has 3 levels.
const MAX_DEPTH: usize = 128;
/// The largest text, and the largest sum of all values, where an alias counts as much as the value that it repeats.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// The bytes that each value counts in addition to its text.
const VALUE_BYTES: usize = 16;

const MERGE: &str = "<<";

/// The value of the only document of the text, or `Null` if the text has no document.
pub(super) fn read(text: &str) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(too_large());
    }
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, anchors: HashMap::new(), bytes_left: MAX_BYTES };
    let mut document = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(document.unwrap_or_default()),
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
            (_, span) if document.is_some() => return Err(at(span, "a second document starts; keep one")),
            event => document = Some(reader.value(event, 0)?),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// By the parser's number of the anchor: the value, and the bytes that it counts.
    anchors: HashMap<usize, (Value, usize)>,
    bytes_left: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        self.parser.next_event().unwrap_or_else(|| Ok((Event::StreamEnd, Span::default()))).map_err(|e| not_yaml(&e))
    }

    /// The value that starts with the event. `depth` counts the lists and maps around it.
    fn value(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Value, String> {
        let bytes_before = self.bytes_left;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let (value, bytes) =
                    self.anchors.get(&anchor).ok_or_else(|| at(span, "an alias is inside its value"))?;
                let (value, bytes) = (value.clone(), *bytes);
                self.count(bytes)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(VALUE_BYTES + text.len())?;
                // A secret that starts with `!` is a tag here, so the error does not show it.
                let value = scalar(&text, style, tag.as_deref()).ok_or_else(|| {
                    at(span, "the value has an unknown tag; put a text that starts with `!` in quotes")
                })?;
                (value, anchor)
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if depth == MAX_DEPTH => return Err(too_deep(span)),
            Event::SequenceStart(anchor, _) => {
                self.count(VALUE_BYTES)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (Value::Array(items), anchor),
                        event => items.push(self.value(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => {
                self.count(VALUE_BYTES)?;
                (Value::Object(self.map(depth + 1)?), anchor)
            }
            _ => return Err(at(span, "a value is missing")),
        };
        if anchor > 0 {
            let bytes = bytes_before - self.bytes_left;
            self.count(bytes)?;
            self.anchors.insert(anchor, (value.clone(), bytes));
        }
        Ok(value)
    }

    /// The rest of a map. If two keys are equal, the last one counts. The map's own keys win over those of a merged map
    /// (`<<`).
    fn map(&mut self, depth: usize) -> Result<Map<String, Value>, String> {
        let (mut own, mut merged) = (Map::new(), Map::new());
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, _, None) if text == MERGE => {
                    let value = self.next()?;
                    merge(self.value(value, depth)?, &mut merged).ok_or_else(|| at(span, "`<<` takes a map"))?;
                    continue;
                }
                // A key that is a number keeps its text.
                Event::Scalar(text, _, anchor, _) => {
                    self.value((Event::Scalar(text, ScalarStyle::SingleQuoted, anchor, None), span), depth)?
                }
                event => self.value((event, span), depth)?,
            };
            let Value::String(key) = key else { return Err(at(span, "a key is not a text")) };
            let value = self.next()?;
            own.insert(key, self.value(value, depth)?);
        }
        merged.append(&mut own);
        Ok(merged)
    }

    fn count(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(too_large)?;
        Ok(())
    }
}

/// Adds the maps of a `<<`: one map, or a list. If several maps of a list have a key, the first map wins.
fn merge(value: Value, into: &mut Map<String, Value>) -> Option<()> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                into.entry(key).or_insert(value);
            }
            Some(())
        }
        Value::Array(maps) => {
            maps.into_iter().try_for_each(|map| if map.is_object() { merge(map, into) } else { None })
        }
        _ => None,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    match tag {
        None if style == ScalarStyle::Plain => Some(plain(text)),
        None => Some(text.into()),
        Some(tag) if !tag.is_yaml_core_schema() => None,
        Some(tag) => match tag.suffix.as_str() {
            "str" => Some(text.into()),
            "null" => Some(Value::Null),
            "bool" | "int" | "float" => Some(plain(text)).filter(|value| !value.is_string()),
            _ => None,
        },
    }
}

/// A text without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        _ => int(text).map(integer).or_else(|| float(text).map(real)).unwrap_or_else(|| text.into()),
    }
}

/// `1_024`, `0x400`, `02000` (octal), `0b1`, `1:30` (base 60).
fn int(text: &str) -> Option<i128> {
    let (negative, digits) = signed(text);
    let number = |digits: &str, radix| {
        let known = digits.chars().all(|c| c == '_' || c.is_digit(radix));
        i128::from_str_radix(&digits.replace('_', ""), radix).ok().filter(|_| known)
    };
    let n = if let Some(digits) = digits.strip_prefix("0b") {
        number(digits, 2)
    } else if let Some(digits) = digits.strip_prefix("0x") {
        number(digits, 16)
    } else if digits.starts_with('0') {
        number(digits, 8)
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        let (first, sixtieths) = digits.split_once(':').map_or((digits, None), |(first, rest)| (first, Some(rest)));
        let is_sixtieth = |part: &str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
        sixtieths.into_iter().flat_map(|parts| parts.split(':')).try_fold(number(first, 10)?, |n, part| {
            n.checked_mul(60)?.checked_add(part.parse().ok().filter(|_| is_sixtieth(part))?)
        })
    } else {
        None
    };
    n.map(|n| if negative { -n } else { n })
}

/// `1.5`, `1.`, `.5`, `1.5e+3` (the exponent has a sign), `.inf`, `.nan`.
fn float(text: &str) -> Option<f64> {
    let (negative, digits) = signed(text);
    let n = match digits {
        ".inf" | ".Inf" | ".INF" => f64::INFINITY,
        ".nan" | ".NaN" | ".NAN" => f64::NAN,
        _ => {
            let (mantissa, exponent) = match digits.find(['e', 'E']) {
                Some(e) => (&digits[..e], Some(&digits[e + 1..])),
                None => (digits, None),
            };
            let known = mantissa.contains('.')
                && mantissa.bytes().all(|b| matches!(b, b'0'..=b'9' | b'_' | b'.'))
                && !mantissa.starts_with('_')
                && exponent.is_none_or(|e| e.starts_with(['+', '-']));
            digits.replace('_', "").parse().ok().filter(|_| known)?
        }
    };
    Some(if negative { -n } else { n })
}

fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn integer(n: i128) -> Value {
    Number::from_i128(n).map_or_else(|| real(n as f64), Value::Number)
}

/// JSON has no infinity, so an infinite number is a text, which options and keys can read.
fn real(n: f64) -> Value {
    Number::from_f64(n).map_or_else(|| n.to_string().into(), Value::Number)
}

fn not_yaml(e: &ScanError) -> String {
    match e.info() {
        // The parser looks ahead, and has a limit of its own.
        "recursion limit exceeded" => too_deep(Span::empty(*e.marker())),
        why => at(Span::empty(*e.marker()), &format!("it is not YAML: {why}")),
    }
}

fn too_deep(span: Span) -> String {
    at(span, &format!("lists and maps have more than {MAX_DEPTH} levels"))
}

fn too_large() -> String {
    format!("it has more than {} MiB, with repeated values", MAX_BYTES >> 20)
}

fn at(span: Span, why: &str) -> String {
    format!("line {} column {}: {why}", span.start.line(), span.start.col() + 1)
}
