//! `kvconn describe`: prints a connector's documentation, URLs and options. Opens no store.

use std::io::Write;

use connectors::layer::LayerOptions;
use connectors::options::{OptionInfo, OptionsSchema};
use connectors::registry::{self, AdapterEntry, ConnectorEntry, SchemeOwner};
use connectors::{Error, ErrorKind, RemoteUrl, redact};
use serde_json::{Value, json};

use crate::args::DescribeArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, mode};

/// The longest line of wrapped text, in bytes.
const WIDTH: usize = 96;

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
        Subject::Connectors(entries) if mode::is_json() => {
            let all: Vec<Value> = entries.into_iter().map(as_json).collect();
            match &all[..] {
                [one] => out.json(one)?,
                several => out.json(&several)?,
            }
        }
        Subject::Connectors(entries) => {
            for (n, entry) in entries.into_iter().enumerate() {
                if n > 0 {
                    writeln!(out)?;
                }
                print(entry, out)?;
            }
        }
        Subject::Adapter(entry) => {
            let origin = entry.origin();
            let Style { bold, plain, .. } = out.style();
            if mode::is_json() {
                out.json(&json!({
                    "scheme": entry.scheme(), "package": origin.package, "version": origin.version, "doc": entry.doc(),
                }))?;
            } else {
                writeln!(out, "{bold}{}://{plain}  adapter, {} {}\n", entry.scheme(), origin.package, origin.version)?;
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

/// The forms of the store's URL.
fn urls(entry: &ConnectorEntry) -> Vec<String> {
    let (module, name) = (entry.module(), entry.name());
    let short = entry.schemes().iter().flat_map(|scheme| {
        let examples = entry.urls().iter().filter(|url| url.split_once("://").is_some_and(|(own, _)| own == *scheme));
        let examples: Vec<String> = examples.map(|url| (*url).to_owned()).collect();
        if examples.is_empty() { vec![format!("{scheme}://[HOST:PORT][/PATH]")] } else { examples }
    });
    let external = format!("external://HOST:PORT/{module}/?connector_name={name}");
    let with_options = short.chain([external]).map(|url| {
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}[{separator}OPTION=VALUE..]")
    });
    let plugin = entry.schemes().iter().map(|s| format!("plugin://{s}[.INSTANCE]"));
    with_options.chain(plugin).collect()
}

/// The default, unless it is secret.
fn default(option: &OptionInfo) -> Option<&Value> {
    option.default.as_ref().filter(|default| !option.secret && !default.is_null())
}

/// `options` is null if the connector does not declare its options. `layers` are the options that every connector has.
fn as_json(entry: &ConnectorEntry) -> Value {
    let options = |schema: &OptionsSchema| -> Vec<Value> {
        let option = |o: &OptionInfo| {
            json!({
                "name": o.name, "type": o.type_name, "unit": o.unit, "default": default(o), "secret": o.secret,
                "doc": o.doc, "extra_config": schema.extra_config_keys(&o.name),
            })
        };
        schema.options().iter().map(option).collect()
    };
    json!({
        "module": entry.module(), "name": entry.name(),
        "package": entry.origin().package, "version": entry.origin().version,
        "doc": entry.doc(), "schemes": entry.schemes(), "urls": urls(entry),
        "options": entry.options().map(options), "layers": options(OptionsSchema::of::<LayerOptions>()),
    })
}

fn print(entry: &ConnectorEntry, out: &mut Out) -> Result<(), Failure> {
    let origin = entry.origin();
    let Style { bold, plain, .. } = out.style();
    writeln!(out, "{bold}{}{plain}  {} {}\n", entry.full_name(), origin.package, origin.version)?;
    prose(out, "", entry.doc())?;
    writeln!(out, "\n{bold}URLs{plain}")?;
    for url in urls(entry) {
        writeln!(out, "  {url}")?;
    }
    match entry.options() {
        None => writeln!(out, "\nThis connector does not declare its options.")?,
        Some(schema) if schema.options().is_empty() => writeln!(out, "\nIt has no options of its own.")?,
        Some(schema) => {
            writeln!(out, "\n{bold}Options{plain}, in the URL's query or in the configuration's extra_config")?;
            print_options(schema, out)?;
        }
    }
    writeln!(out, "\n{bold}Options of every connector{plain}, off until they are set")?;
    print_options(OptionsSchema::of::<LayerOptions>(), out)
}

fn print_options(schema: &OptionsSchema, out: &mut Out) -> Result<(), Failure> {
    let Style { bold, plain, .. } = out.style();
    for option in schema.options() {
        write!(out, "  {bold}{}{plain}  {}", option.name, option.type_name)?;
        if let Some(unit) = &option.unit {
            write!(out, " ({unit})")?;
        }
        match default(option) {
            _ if option.secret => write!(out, ", secret")?,
            Some(Value::String(text)) => write!(out, ", default {text}")?,
            Some(value) => write!(out, ", default {value}")?,
            None => {}
        }
        writeln!(out)?;
        prose(out, "      ", &option.doc)?;
        let keys = schema.extra_config_keys(&option.name);
        if !keys.is_empty() {
            writeln!(out, "      extra_config: {}", keys.join(", "))?;
        }
    }
    Ok(())
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
