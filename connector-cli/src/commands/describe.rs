//! `kvconn describe`: prints a connector's documentation, URLs and options. Opens no store.

use std::io::Write;

use connectors::layer::LayerOptions;
use connectors::options::{OptionInfo, OptionsSchema};
use connectors::registry::{self, AdapterEntry, ConnectorEntry, SchemeOwner};
use connectors::{Error, ErrorKind, RemoteUrl, redact};
use serde::Serialize;
use serde_json::Value;

use crate::args::DescribeArgs;
use crate::output::{Answer, BOLD, Failure, Out, PLAIN};

/// The longest line of wrapped text, in bytes.
const WIDTH: usize = 96;

#[derive(Serialize)]
struct Description {
    module: &'static str,
    name: &'static str,
    package: &'static str,
    version: &'static str,
    doc: &'static str,
    schemes: &'static [&'static str],
    urls: Vec<String>,
    /// `None` if the connector does not declare its options.
    options: Option<Vec<OptionDescription>>,
    /// The options that every connector has.
    layers: Vec<OptionDescription>,
}

#[derive(Serialize)]
struct OptionDescription {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    unit: Option<String>,
    default: Option<Value>,
    secret: bool,
    doc: String,
    extra_config: Vec<String>,
}

/// The entries that a name or URL stands for.
enum Subject {
    Connectors(Vec<&'static ConnectorEntry>),
    Adapter(&'static AdapterEntry),
}

impl Subject {
    fn of(owner: SchemeOwner) -> Self {
        match owner {
            SchemeOwner::Connector(entry) => Self::Connectors(vec![entry]),
            SchemeOwner::Adapter(entry) => Self::Adapter(entry),
        }
    }
}

pub(crate) fn run(args: &DescribeArgs, out: &mut Out) -> Result<Answer, Failure> {
    let subject = if args.name.contains("://") { by_url(&args.name)? } else { by_name(&args.name)? };
    match subject {
        Subject::Connectors(entries) => {
            let all: Vec<Description> = entries.into_iter().map(Description::of).collect();
            match &all[..] {
                [one] if args.json => out.json(one)?,
                several if args.json => out.json(&several)?,
                all => {
                    for (n, one) in all.iter().enumerate() {
                        if n > 0 {
                            writeln!(out)?;
                        }
                        one.print(out)?;
                    }
                }
            }
        }
        Subject::Adapter(entry) => {
            let origin = entry.origin();
            if args.json {
                out.json(&serde_json::json!({
                    "scheme": entry.scheme(), "package": origin.package, "version": origin.version, "doc": entry.doc(),
                }))?;
            } else {
                writeln!(out, "{BOLD}{}://{PLAIN}  adapter, {} {}\n", entry.scheme(), origin.package, origin.version)?;
                prose(out, "", entry.doc())?;
            }
        }
    }
    Ok(Answer::Yes)
}

fn by_url(text: &str) -> Result<Subject, Failure> {
    let url = RemoteUrl::parse(text)?;
    if url.scheme() == "plugin" {
        let text = format!("kvconn cannot describe `{}`: the configuration says which connector it is", redact(text));
        return Err(Error::new(ErrorKind::InvalidUrl, text)
            .with_hint("describe the connector that the configuration names")
            .into());
    }
    Ok(Subject::of(registry::resolve(&url)?))
}

/// Takes a scheme, a module (for all its connectors), `module/Name`, or a connector's name (in any module).
fn by_name(text: &str) -> Result<Subject, Failure> {
    match registry::find_scheme(text)? {
        Some(owner) => Ok(Subject::of(owner)),
        None => Ok(Subject::Connectors(registry::search(text)?)),
    }
}

impl Description {
    fn of(entry: &'static ConnectorEntry) -> Self {
        let (module, name, origin) = (entry.module(), entry.name(), entry.origin());
        let options = entry.options().map(OptionDescription::all_of);
        let query = |sep| match &options {
            Some(all) if Vec::is_empty(all) => String::new(),
            _ => format!("[{sep}OPTION=VALUE..]"),
        };
        let layers = OptionDescription::all_of(OptionsSchema::of::<LayerOptions>());
        let short = entry.schemes().iter().map(|s| format!("{s}://[HOST:PORT][/PATH]{}", query('?')));
        let external = format!("external://HOST:PORT/{module}/?connector_name={name}{}", query('&'));
        let plugin = entry.schemes().iter().map(|s| format!("plugin://{s}[.INSTANCE]"));
        Self {
            module,
            name,
            package: origin.package,
            version: origin.version,
            doc: entry.doc(),
            schemes: entry.schemes(),
            urls: short.chain([external]).chain(plugin).collect(),
            options,
            layers,
        }
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        writeln!(out, "{BOLD}{}/{}{PLAIN}  {} {}\n", self.module, self.name, self.package, self.version)?;
        prose(out, "", self.doc)?;
        writeln!(out, "\n{BOLD}URLs{PLAIN}")?;
        for url in &self.urls {
            writeln!(out, "  {url}")?;
        }
        match self.options.as_deref() {
            None => writeln!(out, "\nThis connector does not declare its options.")?,
            Some([]) => writeln!(out, "\nIt has no options of its own.")?,
            Some(options) => {
                writeln!(out, "\n{BOLD}Options{PLAIN}, in the URL's query or in the configuration's extra_config")?;
                for option in options {
                    option.print(out)?;
                }
            }
        }
        writeln!(out, "\n{BOLD}Options of every connector{PLAIN}, off until they are set")?;
        for option in &self.layers {
            option.print(out)?;
        }
        Ok(())
    }
}

impl OptionDescription {
    fn all_of(schema: &OptionsSchema) -> Vec<Self> {
        let describe = |o: &OptionInfo| Self {
            name: o.name.clone(),
            type_name: o.type_name.clone(),
            unit: o.unit.clone(),
            default: o.default.clone().filter(|d| !o.secret && !d.is_null()),
            secret: o.secret,
            doc: o.doc.clone(),
            extra_config: schema.extra_config_keys(&o.name),
        };
        schema.options().iter().map(describe).collect()
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        write!(out, "  {BOLD}{}{PLAIN}  {}", self.name, self.type_name)?;
        if let Some(unit) = &self.unit {
            write!(out, " ({unit})")?;
        }
        match &self.default {
            _ if self.secret => write!(out, ", secret")?,
            Some(Value::String(text)) => write!(out, ", default {text}")?,
            Some(value) => write!(out, ", default {value}")?,
            None => {}
        }
        writeln!(out)?;
        prose(out, "      ", &self.doc)?;
        if !self.extra_config.is_empty() {
            writeln!(out, "      extra_config: {}", self.extra_config.join(", "))?;
        }
        Ok(())
    }
}

/// Wraps the paragraphs of a doc comment to [`WIDTH`], because the comment has the line breaks of its source file.
fn prose(out: &mut Out, indent: &str, text: &str) -> Result<(), Failure> {
    for (n, paragraph) in text.trim().split("\n\n").enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
                writeln!(out, "{indent}{line}")?;
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            writeln!(out, "{indent}{line}")?;
        }
    }
    Ok(())
}
