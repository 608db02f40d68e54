//! The options of a connector, as data.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::ConnectorOptions;
use crate::runtime::PerProcess;

/// One option.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OptionInfo {
    /// Its name in the URL's query.
    pub name: String,
    /// Its type, in words: `integer`, `string or null`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The unit of its value, if it has one: `bytes`, `ms`, `seconds`.
    pub unit: Option<String>,
    /// Its value if nothing sets it.
    pub default: Option<Value>,
    /// The field's doc comment.
    pub doc: String,
    /// Whether its value must stay hidden.
    pub secret: bool,
    /// Whether its value is the URL of a store.
    pub url: bool,
    /// The values that it takes, in words: `a whole number from 0 to 255`.
    pub(crate) takes: String,
    /// The secret option whose value is in the file that this option names.
    pub(crate) file_of: Option<String>,
}

impl OptionInfo {
    /// The first paragraph of the doc comment, in one line.
    pub(crate) fn summary(&self) -> String {
        let lines: Vec<&str> = self.doc.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        lines.join(" ")
    }

    /// The default as a URL would hold it; empty if there is none.
    pub fn default_text(&self) -> String {
        match &self.default {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

/// All options of a connector, from the JSON schema of its options type.
#[derive(Debug)]
pub struct OptionsSchema {
    options: Vec<OptionInfo>,
    prefix: &'static str,
    shared: &'static [(&'static str, &'static str)],
}

/// The schema of each type, built once: to build it takes longer than to open a store.
static BUILT: PerProcess<Mutex<HashMap<TypeId, &'static OptionsSchema>>> = PerProcess::new();

impl OptionsSchema {
    /// The options of `O`, in the order of its fields.
    pub fn of<O: ConnectorOptions>() -> &'static Self {
        let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        built.entry(TypeId::of::<O>()).or_insert_with(|| Box::leak(Box::new(Self::build::<O>())))
    }

    fn build<O: ConnectorOptions>() -> Self {
        let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
        let json = O::describe(settings.into_generator()).to_value();
        let declared = json["properties"].as_object();
        let mut options = Vec::new();
        for (name, s) in declared.into_iter().flatten() {
            options.push(OptionInfo {
                name: name.clone(),
                takes: if s["url"] == true { "a URL".to_owned() } else { takes(s) },
                type_name: if s["url"] == true { "URL".to_owned() } else { type_name(s) },
                unit: s["unit"].as_str().map(str::to_owned),
                default: s.get("default").cloned(),
                doc: s["description"].as_str().unwrap_or_default().to_owned(),
                secret: s["secret"] == true,
                url: s["url"] == true,
                file_of: None,
            });
            let file = format!("{name}_file");
            if s["secret"] == true && declared.is_some_and(|declared| !declared.contains_key(&file)) {
                options.push(OptionInfo {
                    name: file,
                    type_name: "string".to_owned(),
                    unit: None,
                    default: None,
                    doc: format!("File that holds `{name}`."),
                    secret: false,
                    url: false,
                    takes: "text".to_owned(),
                    file_of: Some(name.clone()),
                });
            }
        }
        Self { options, prefix: O::EXTRA_CONFIG_PREFIX, shared: O::EXTRA_CONFIG_SHARED }
    }

    /// The options.
    pub fn options(&self) -> &[OptionInfo] {
        &self.options
    }

    /// The option of this name.
    pub fn option(&self, name: &str) -> Option<&OptionInfo> {
        self.options.iter().find(|o| o.name == name)
    }

    /// Whether the value of this option stays hidden: it is a secret, or names the file of a secret.
    pub(crate) fn hides(&self, name: &str) -> bool {
        let is_secret = |name: &str| self.option(name).is_some_and(|option| option.secret);
        is_secret(name) || name.strip_suffix("_file").is_some_and(is_secret)
    }

    /// The keys of `extra_config` that set an option: the prefixed one, and shared ones.
    pub fn extra_config_keys(&self, option: &str) -> Vec<String> {
        let prefixed = (!self.prefix.is_empty()).then(|| format!("{}{option}", self.prefix));
        let shared = self.shared.iter().filter(|(_, o)| *o == option).map(|(key, _)| (*key).to_owned());
        prefixed.into_iter().chain(shared).collect()
    }
}

/// The values that a schema allows, in words.
fn takes(schema: &Value) -> String {
    let kind = type_name(schema);
    let format = schema["format"].as_str().unwrap_or_default();
    match &*kind {
        "integer" => match (schema["minimum"].as_i64(), format) {
            (Some(0), "uint8") => "a whole number from 0 to 255".to_owned(),
            (Some(0), "uint16") => "a whole number from 0 to 65535".to_owned(),
            (Some(0), "uint32") => "a whole number from 0 to 4294967295".to_owned(),
            (Some(0), _) => "a whole number, 0 or more".to_owned(),
            _ => "a whole number".to_owned(),
        },
        "number" => "a number".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "string" => match schema["pattern"].as_str() {
            Some(pattern) => format!("text of the form `{pattern}`"),
            None => "text".to_owned(),
        },
        "array" => "a list".to_owned(),
        _ => kind,
    }
}

fn type_name(schema: &Value) -> String {
    if let Some(values) = choices(schema) {
        return format!("one of {}", values.join(", "));
    }
    match &schema["type"] {
        Value::String(name) => name.clone(),
        // `Option<T>` reads as `T`: a caller leaves an option out to say null.
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).filter(|n| *n != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => {
            let parts = schema["anyOf"].as_array().or(schema["oneOf"].as_array()).into_iter().flatten();
            let names: Vec<String> = parts.filter(|part| part["type"] != "null").map(type_name).collect();
            if names.is_empty() { "value".to_owned() } else { names.join(" or ") }
        }
    }
}

/// The values that a schema allows, if it lists them. An enum whose variants have doc comments is a `oneOf` of constants.
fn choices(schema: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(value) = schema.get("const") {
        return Some(vec![text(value)]);
    }
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().map(text).collect());
    }
    let parts = schema["oneOf"].as_array()?.iter().map(choices);
    parts.collect::<Option<Vec<_>>>().map(|parts| parts.concat())
}
