//! `docs/troubleshoot.md` quotes errors and log lines. Each is in the sources as it is quoted.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Folders with the sources of errors and log lines.
const SOURCES: [&str; 5] = [
    "connector-core/src",
    "connectors/src",
    "connector-python/src",
    "connector-python/python/kvconn",
    "connector-cli/src",
];

/// The parts of one text lie at most this far apart in a source: a value's name stands between them.
const APART: usize = 120;

#[test]
fn every_text_that_the_page_quotes_is_in_the_sources() {
    let page = read(&root().join("docs/troubleshoot.md"));
    let (_, tables) = page.split_once("\n## Error or log line\n").expect("the section of kvconn's own texts");
    let (tables, _) = tables.split_once("\n## ").expect("the section after it");
    let quotes: Vec<String> = tables.lines().filter_map(quote).collect();
    assert!(quotes.len() > 60, "only {} texts found", quotes.len());
    let sources: Vec<String> =
        SOURCES.iter().flat_map(|folder| files(&root().join(folder))).map(|file| plain(&read(&file))).collect();
    let stale: Vec<&String> = quotes.iter().filter(|quote| !sources.iter().any(|source| says(source, quote))).collect();
    assert!(stale.is_empty(), "docs/troubleshoot.md quotes texts that no source has: {stale:#?}");
}

#[test]
fn a_text_is_found_over_lines_and_values_and_a_stale_one_is_not() {
    let source = plain("warn!(\n    \"the store {name:?} \\\n     is lost: {e}\"\n)\nf\"one \"\n    f\"two\"");
    for (quote, found) in [
        ("the store .. is lost: ..", true),
        ("one two", true),
        ("the store is lost", false),
        ("is lost: .. the store", false),
    ] {
        assert_eq!(says(&source, quote), found, "{quote}");
    }
}

/// The text of a row's first cell: `a` or ``` `` a `b` `` ```.
fn quote(row: &str) -> Option<String> {
    let cell = row.strip_prefix("| `")?.replace("\\|", "\0");
    let cell = cell.split('|').next()?.trim_end().strip_suffix('`')?;
    Some(cell.trim_matches(['`', ' ']).replace('\0', "|"))
}

/// Whether the parts between `..` follow each other in the source.
fn says(source: &str, quote: &str) -> bool {
    let parts: Vec<&str> = quote.split("..").map(str::trim).filter(|part| !part.is_empty()).collect();
    let [first, rest @ ..] = &parts[..] else { return false };
    source.match_indices(first).any(|(at, _)| {
        let mut at = at + first.len();
        rest.iter().all(|part| {
            let near = (at..=source.len().min(at + APART)).rev().find(|end| source.is_char_boundary(*end));
            let next = near.and_then(|end| source.get(at..end)?.find(part));
            at += next.map_or(0, |next| next + part.len());
            next.is_some()
        })
    })
}

/// The source with each literal on one line: without the line breaks that end in `\`, and with joined neighbours.
fn plain(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    for line in source.lines() {
        let line = line.trim_start();
        if let Some(before) = text.strip_suffix('\\') {
            text.truncate(before.len());
        } else if text.ends_with('"') && (line.starts_with('"') || line.starts_with("f\"")) {
            text.pop();
            text.push_str(&line[line.find('"').map_or(0, |at| at + 1)..]);
            continue;
        } else if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    text
}

/// The sources in a folder, without its tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let inside = paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    let is_source = |path: &PathBuf| {
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        !is_test && path.extension().is_some_and(|extension| extension == "rs" || extension == "py")
    };
    inside.filter(is_source).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}
