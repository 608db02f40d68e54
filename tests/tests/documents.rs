//! The documents agree with the tree. Links lead to files, and `docs/ARCHITECTURE.md` names only files and items that exist.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Documents outside of `docs` whose links the test checks.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "connector-python/README.md",
    "tests/interop/README.md",
];

#[test]
fn every_link_leads_to_a_file() {
    let docs = [root().join("docs"), root().join("docs/decisions")];
    let docs = docs.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let documents = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut links = 0;
    for document in documents.chain(DOCUMENTS.map(|name| root().join(name))) {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                let target = document.parent().unwrap().join(link);
                assert!(target.exists(), "{} links to {link}, which does not exist", document.display());
                links += 1;
            }
        }
    }
    assert!(links > 20, "only {links} links found");
}

#[test]
fn the_architecture_names_files_that_exist() {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let paths: Vec<&str> = spans(&text).filter(|span| is_path(span)).collect();
    assert!(paths.len() > 50, "only {} paths found", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "docs/ARCHITECTURE.md names `{path}`, which does not exist");
    }
}

/// In a row `| .. | path | text |`, each name in the text is one of that file.
#[test]
fn each_name_beside_a_path_is_in_that_file() {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let mut names = 0;
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let spans: Vec<&str> = spans(row).collect();
        let [path] = *spans.iter().filter(|span| is_path(span)).copied().collect::<Vec<_>>() else { continue };
        if !path.ends_with(".rs") {
            continue;
        }
        let file = read(&root().join(path));
        for name in spans.into_iter().filter(|span| is_name(span)) {
            let item = name.rsplit("::").next().unwrap_or(name);
            let found = file.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == item);
            assert!(found, "docs/ARCHITECTURE.md looks for `{name}` in {path}, which does not have it");
            names += 1;
        }
    }
    assert!(names > 15, "only {names} names found");
}

/// Texts between backticks, outside fenced blocks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// A path from the root of the repository: its first part is one of the root's folders.
fn is_path(span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
    plain && span.split_once('/').is_some_and(|(first, _)| !first.is_empty() && root().join(first).is_dir())
}

/// `name` or `Type::name`.
fn is_name(span: &str) -> bool {
    span.split("::").all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}
