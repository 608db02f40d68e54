//! The pages of docs/stores have the URLs and the options of the registry, and every URL in a document is one that kvconn opens.
//!
//! `KVCONN_RECORD=1 cargo test -p kvconn-tests --test store_pages` writes the generated parts of the pages.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use connectors::RemoteUrl;
use connectors::layer::LayerOptions;
use connectors::options::{OptionInfo, OptionsSchema};
use connectors::registry::{self, ConnectorEntry, SchemeOwner};
use kvconn_tests::{assert_says, documents};
use serde_json::Value;

const START: &str = "<!-- generated: KVCONN_RECORD=1 cargo test -p kvconn-tests --test store_pages -->\n";
const END: &str = "<!-- end of the generated part -->\n";

#[test]
fn each_store_has_a_page_with_its_urls_and_options() {
    for entry in registry::connectors() {
        let store = entry.module().strip_prefix("kvconn.").expect("a store of kvconn");
        let page = stores().join(format!("{store}.md"));
        check(&page, &generated(entry));
        let text = read(&page);
        assert_says(&text, &[&format!("`{}` `{}`", entry.module(), entry.name())]);
        for scheme in entry.schemes() {
            assert_says(&text, &[&format!("{scheme}://")]);
        }
    }
}

#[test]
fn the_page_of_all_stores_links_to_each_and_has_the_options_of_the_layers() {
    let page = stores().join("README.md");
    check(&page, &options(OptionsSchema::of::<LayerOptions>()));
    for entry in registry::connectors() {
        let store = entry.module().strip_prefix("kvconn.").expect("a store of kvconn");
        assert_says(&read(&page), &[&format!("]({store}.md)")]);
    }
}

/// A URL in a document has a scheme, a form and options that kvconn knows. Templates such as `redis://[user@]host` are not
/// URLs. `acme` is the store of the pages about a connector of your own. The changelog quotes URLs that kvconn refuses.
#[test]
fn every_url_in_a_document_is_one_that_kvconn_opens() {
    let schemes: Vec<&str> = registry::connectors().iter().flat_map(|entry| entry.schemes()).copied().collect();
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents().into_iter().filter(|document| !document.ends_with("CHANGELOG.md")) {
        for url in urls_in(&read(&document), &schemes) {
            checked += 1;
            if let Err(why) = check_url(&url) {
                wrong.push(format!("{}: `{url}`: {why}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "only {checked} URLs found");
}

#[test]
fn the_check_of_urls_refuses_what_kvconn_refuses() {
    for (url, why) in [
        ("redis://h:6379?tll_sec=5", "`tll_sec`"),
        ("tiered://?front=memory://&back=fs:///kv?capacty=1", "`capacty`"),
        ("external://h:1/kvconn.nothing/?connector_name=X", "kvconn.nothing"),
        ("resp://h:notaport", "port"),
    ] {
        let refused = check_url(url).expect_err(url);
        assert!(refused.contains(why), "{url}: {refused}");
    }
    assert_eq!(check_url("s3://bucket/kv?region=eu-west-1&timeout_ms=5"), Ok(()));
}

/// Beside `url`, an engine's JSON has the store's options, those of every connector, and the engine's own.
#[test]
fn every_engine_configuration_in_a_document_has_options_that_kvconn_knows() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = read(&document);
        let quoted = text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
        let quoted = quoted.flat_map(|block| block.split('\'').filter(|part| part.starts_with('{')));
        let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
        for json in quoted.chain(blocks).filter_map(|json| serde_json::from_str(json).ok()) {
            check_json(&json, &mut checked, &mut |why| wrong.push(format!("{}: {why}", document.display())));
        }
        for (plugin, options) in plugins(&text) {
            let Some(url) = options.get("url") else { continue };
            checked += 1;
            for name in options.keys().filter(|name| !is_option(url, name, &["url", "module_path", "class_name"])) {
                wrong.push(format!("{}: plugin `{plugin}` of {url} has no option `{name}`", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 15, "only {checked} configurations found");
}

/// Keys of the engines' JSON that are not the store's.
const ENGINES_KEYS: [&str; 14] = [
    "url",
    "type",
    "module_path",
    "class_name",
    "backend_name",
    "interface_v1",
    "prefetch_threshold",
    "lookup_timeout_ms",
    "store_backlog",
    "locality",
    "revision",
    "max_capacity_gb",
    "usage_interval_min",
    "quota_grace_s",
];

fn check_json(json: &Value, checked: &mut usize, wrong: &mut impl FnMut(String)) {
    match json {
        Value::Object(fields) => {
            if let Some(url) = fields.get("url").and_then(Value::as_str) {
                *checked += 1;
                for name in fields.keys().filter(|name| !is_option(url, name, &ENGINES_KEYS)) {
                    wrong(format!("`{url}` has no option `{name}`"));
                }
            }
            fields.values().for_each(|value| check_json(value, checked, wrong));
        }
        Value::Array(values) => values.iter().for_each(|value| check_json(value, checked, wrong)),
        _ => {}
    }
}

/// The options of each plugin in LMCache's YAML: lines such as `remote_storage_plugin.kv.url: redis://host`. A block of
/// several pieces counts as one.
fn plugins(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut plugins: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for block in text.split("```y").skip(1).filter_map(|rest| rest.split("```").next()) {
        let settings = block.lines().filter_map(|line| line.trim().strip_prefix("remote_storage_plugin."));
        for (key, value) in settings.filter_map(|setting| setting.split_once(": ")) {
            let (plugin, option) = key.rsplit_once('.').expect("`remote_storage_plugin.NAME.OPTION`");
            let value = value.split(" #").next().unwrap_or_default().trim();
            plugins.entry(format!("{plugin} {block}")).or_default().insert(option.to_owned(), value.to_owned());
        }
    }
    plugins
}

/// Whether `name` is an option of the store of `url`, of every connector, or one of `others`.
fn is_option(url: &str, name: &str, others: &[&str]) -> bool {
    let owner = RemoteUrl::parse(url).and_then(|url| registry::resolve(&url));
    let own = |schema: &OptionsSchema| schema.option(name).is_some();
    let layers = OptionsSchema::of::<LayerOptions>();
    let store = matches!(owner, Ok(SchemeOwner::Connector(entry)) if entry.options().is_some_and(own));
    store || own(layers) || others.contains(&name)
}

/// The texts in `document` that start with one of `schemes` and are not templates.
fn urls_in(document: &str, schemes: &[&str]) -> Vec<String> {
    let mut urls = Vec::new();
    for (at, _) in document.match_indices("://") {
        let start = document[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '-').map_or(0, |n| n + 1);
        let inner = document[..start].ends_with('=');
        if inner || !(schemes.contains(&&document[start..at]) || &document[start..at] == "external") {
            continue;
        }
        let rest = &document[start..];
        let end = rest.find(|c: char| c.is_whitespace() || "`'\"|)>\\".contains(c)).unwrap_or(rest.len());
        let url = rest[..end].trim_end_matches(['.', ',', ':', ';']);
        let plain = url.replace("${", "");
        let template = ["[", "{", "..", "<", "*", "URL", "HOST", "PORT", "PATH", "H:P", "host:port", "acme"];
        let template = template.iter().any(|part| plain.contains(part));
        if !template && !url.ends_with("://") {
            urls.push(url.to_owned());
        }
    }
    urls
}

fn check_url(text: &str) -> Result<(), String> {
    let url = RemoteUrl::parse(text).map_err(|e| e.to_string())?;
    let SchemeOwner::Connector(entry) = registry::resolve(&url).map_err(|e| e.to_string())? else { return Ok(()) };
    for (name, value) in url.query_pairs() {
        let own = entry.options().and_then(|schema| schema.option(name));
        let external = url.scheme() == "external" && ["connector_name", "path"].contains(&name);
        if own.is_none() && !external && OptionsSchema::of::<LayerOptions>().option(name).is_none() {
            return Err(format!("`{}` has no option `{name}`", entry.full_name()));
        }
        if own.is_some_and(|option| option.url) {
            check_url(value)?;
        }
    }
    Ok(())
}

/// The generated part of a store's page.
fn generated(entry: &ConnectorEntry) -> String {
    let urls: String = entry.urls().iter().map(|url| format!("{url}\n")).collect();
    let module = format!("external://HOST:PORT/{}/?connector_name={}\n", entry.module(), entry.name());
    let schema = entry.options().expect("a store of kvconn declares its options");
    format!("```text\n{urls}{module}```\n\n{}", options(schema))
}

/// A table of options, and their names in `extra_config`.
fn options(schema: &OptionsSchema) -> String {
    let Some(first) = schema.options().first() else { return "It has no options of its own.\n".to_owned() };
    let mut text = "| option | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    let mut others = Vec::new();
    for option in schema.options() {
        let default = option.default_text();
        let none = option.secret || ["", "[]"].contains(&default.as_str());
        let default = if none { String::new() } else { format!("`{default}`") };
        let doc = option.doc.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let row = format!("| `{}` | {} | {default} | {doc} |", option.name, value_of(option));
        writeln!(text, "{}", row.replace("|  |", "| |")).expect("a String takes all text");
        let names = schema.extra_config_keys(&option.name);
        others.extend(names.into_iter().skip(1).map(|other| {
            if other == option.name { format!("`{other}`") } else { format!("`{other}` (`{}`)", option.name) }
        }));
    }
    let prefixed = &schema.extra_config_keys(&first.name)[0];
    let prefix = prefixed.strip_suffix(&first.name).expect("the first name is the prefixed one");
    let mut about = format!("In `extra_config`, the names have the prefix `{prefix}`: `{prefixed}`.");
    if !others.is_empty() {
        about += &format!(" LMCache's own names work, too: {}.", others.join(", "));
    }
    text + "\n" + &wrapped(&about)
}

/// Lines of at most 140 characters.
fn wrapped(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        if length > 0 && length + 1 + word.len() > 140 {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word.len();
    }
    lines + "\n"
}

/// The values that an option takes, in words.
fn value_of(option: &OptionInfo) -> String {
    let kind = match &*option.type_name {
        _ if option.secret => "secret",
        "array" => "list, with commas",
        other => other,
    };
    option.unit.as_ref().map_or_else(|| kind.to_owned(), |unit| format!("{kind}, {unit}"))
}

/// Compares the generated part of `page` with `expected`, or writes it.
fn check(page: &Path, expected: &str) {
    let text = read(page);
    let (before, rest) = text.split_once(START).unwrap_or_else(|| panic!("{} lacks the line {START}", page.display()));
    let (there, after) = rest.split_once(END).unwrap_or_else(|| panic!("{} lacks the line {END}", page.display()));
    if std::env::var_os("KVCONN_RECORD").is_some() {
        std::fs::write(page, format!("{before}{START}{expected}{END}{after}")).expect("the page can be written");
    } else {
        assert_eq!(there, expected, "{} is stale: run the command in its comment", page.display());
    }
}

fn stores() -> PathBuf {
    kvconn_tests::package_dir().join("../docs/stores")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}
