//! The options of a connector, as data.

use serde::Serialize;
use serde_json::Value;

use super::ConnectorOptions;

/// One option.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptionInfo {
    /// Its name in the URL's query.
    pub name: String,
    /// Its type, in words: `integer`, `string or null`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its value if nothing sets it.
    pub default: Option<Value>,
    /// The field's doc comment.
    pub doc: String,
    /// Whether its value must not be shown.
    pub secret: bool,
}

impl OptionInfo {
    /// The first paragraph of the doc comment, in one line.
    pub fn summary(&self) -> String {
        let lines: Vec<&str> = self.doc.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        lines.join(" ")
    }

    /// The default as one would write it in a URL; empty for none.
    pub fn default_text(&self) -> String {
        match &self.default {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

/// All options of a connector, from the JSON schema of its options type.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionsSchema {
    options: Vec<OptionInfo>,
    prefix: &'static str,
    shared: &'static [(&'static str, &'static str)],
    json: Value,
}

impl OptionsSchema {
    /// The options of `O`, in the order of its fields.
    pub fn of<O: ConnectorOptions>() -> Self {
        let json = schemars::schema_for!(O).to_value();
        let options = json["properties"].as_object().into_iter().flatten().map(|(name, s)| OptionInfo {
            name: name.clone(),
            type_name: type_name(s),
            default: s.get("default").cloned(),
            doc: s["description"].as_str().unwrap_or_default().to_owned(),
            secret: crate::url::is_secret_name(name) || s["writeOnly"] == true,
        });
        Self { options: options.collect(), prefix: O::EXTRA_CONFIG_PREFIX, shared: O::EXTRA_CONFIG_SHARED, json }
    }

    /// The options.
    pub fn options(&self) -> &[OptionInfo] {
        &self.options
    }

    /// The option of this name.
    pub fn option(&self, name: &str) -> Option<&OptionInfo> {
        self.options.iter().find(|o| o.name == name)
    }

    /// The keys of `extra_config` that set an option: the prefixed one, and shared ones.
    pub fn extra_config_keys(&self, option: &str) -> Vec<String> {
        let prefixed = (!self.prefix.is_empty()).then(|| format!("{}{option}", self.prefix));
        let shared = self.shared.iter().filter(|(_, o)| *o == option).map(|(key, _)| (*key).to_owned());
        prefixed.into_iter().chain(shared).collect()
    }

    /// The JSON schema.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

fn type_name(schema: &Value) -> String {
    let choices = |v: &Value| v.as_array().map(|a| a.iter().map(type_name).collect::<Vec<_>>().join(" or "));
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        return format!("one of {}", values.join(", "));
    }
    match &schema["type"] {
        Value::String(name) => name.clone(),
        // `Option<T>` reads as `T`: leaving an option out is how one says null.
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).filter(|n| *n != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => choices(&schema["anyOf"]).or_else(|| choices(&schema["oneOf"])).unwrap_or_else(|| "value".into()),
    }
}
