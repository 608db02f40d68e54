//! Each command line that a document shows is one that the command takes.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use super::Cli;

#[test]
fn every_command_line_of_the_documents_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = pages(&root.join("docs"));
    files.extend(["README.md", "connector-python/README.md", "SECURITY.md"].map(|name| root.join(name)));
    let mut taken = 0;
    let mut refused = Vec::new();
    for file in files {
        let text = read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
        for words in text.lines().filter_map(|line| line.strip_prefix("$ ")).flat_map(command_lines) {
            match Cli::try_parse_from(&words) {
                Err(e) if !matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                    refused.push(format!("{}: {}: {e}", file.display(), words.join(" ")));
                }
                _ => taken += 1,
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(taken > 20, "only {taken} command lines found");
}

/// The calls of `kvconn` in a line for the shell, also behind a pipe and `xargs`. A line that goes on has none.
fn command_lines(line: &str) -> Vec<Vec<String>> {
    let Some(words) = shlex::split(line) else { return Vec::new() };
    let calls = words.split(|word| ["|", "&&", "||", ";", "&"].contains(&word.as_str()));
    let calls = calls.filter_map(|call| {
        let at = call.iter().position(|word| word == "kvconn")?;
        let end = call.iter().position(|word| word.starts_with('>') || word.starts_with("2>") || word == "<");
        let is_started = call[..at].iter().all(|word| word == "xargs" || word.starts_with('-') || word.contains('='));
        let call = &call[at..end.unwrap_or(call.len())];
        // `@prod` is in a file of the reader's.
        let url = |word: &String| if word.starts_with('@') { "fs:///tmp/kv".to_owned() } else { word.clone() };
        is_started.then(|| call.iter().map(url).collect())
    });
    calls.collect()
}

/// The Markdown files in a folder and below.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let inside = paths.flat_map(|path| if path.is_dir() { pages(&path) } else { vec![path] });
    inside.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}
