//! The documents agree with the tree. Links lead to files, and `docs/architecture.md` names only files and items that exist.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use kvconn_tests::{documents, pages};

/// The pages of the site name other files of the repository by these addresses, because the site has only `docs`.
const REPOSITORY: [&str; 2] =
    ["https://github.com/kvconn/kvconn/blob/main/", "https://github.com/kvconn/kvconn/tree/main/"];

#[test]
fn every_link_leads_to_a_file() {
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let target = match REPOSITORY.iter().find_map(|address| link.strip_prefix(address)) {
                Some(path) => root().join(path),
                None if link.is_empty() || link.contains("://") => continue,
                None => document.parent().unwrap().join(link),
            };
            assert!(target.exists(), "{} links to {link}, which does not exist", document.display());
            links += 1;
        }
    }
    assert!(links > 20, "only {links} links found");
}

/// crates.io shows the README of `connectors`, which lists the stores by hand.
#[test]
fn the_readme_of_connectors_has_every_store_and_its_bundle() {
    let manifest = read(&root().join("connectors/Cargo.toml"));
    let readme = read(&root().join("connectors/README.md"));
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `")).collect();
    let mut stores = 0;
    for bundle in ["cloud", "local", "remote"] {
        let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{bundle} = [")));
        let line = line.unwrap_or_else(|| panic!("connectors/Cargo.toml has no bundle `{bundle}`"));
        for store in line.split('"').skip(1).step_by(2) {
            let start = format!("| `{store}` | `{bundle}` |");
            assert!(rows.iter().any(|row| row.starts_with(&start)), "connectors/README.md has no row `{start}`");
            stores += 1;
        }
    }
    assert_eq!(rows.len(), stores, "connectors/README.md lists stores that no bundle has");
}

#[test]
fn the_site_has_every_page_once() {
    let summary = read(&root().join("docs/SUMMARY.md"));
    let mut listed: Vec<PathBuf> = summary
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|path| !path.is_empty())
        .map(|path| kvconn_tests::package_dir().join("../docs").join(path))
        .collect();
    listed.sort();
    let pages: Vec<PathBuf> = pages().into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed, pages);
}

/// `cargo test --doc` compiles the Rust of the pages that `tests/src/lib.rs` includes.
#[test]
fn the_rust_of_every_page_is_tested() {
    let included = read(&root().join("tests/src/lib.rs"));
    let mut found = 0;
    for page in pages() {
        let text = read(&page);
        let tested = text.lines().any(|line| line.starts_with("```rust") && !line.contains("ignore"));
        let path = page.strip_prefix(kvconn_tests::package_dir().join("../docs")).expect("a page of docs").display();
        if tested {
            assert!(included.contains(&format!("../../docs/{path}")), "tests/src/lib.rs does not include docs/{path}");
            found += 1;
        }
    }
    assert!(found > 0, "no page has Rust");
}

#[test]
fn the_architecture_names_files_that_exist() {
    let text = read(&root().join("docs/architecture.md"));
    let paths: Vec<&str> = spans(&text).filter(|span| is_path(span)).collect();
    assert!(paths.len() > 50, "only {} paths found", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "docs/architecture.md names `{path}`, which does not exist");
    }
}

/// In a row `| .. | path | text |`, each name in the text is one of that file.
#[test]
fn each_name_beside_a_path_is_in_that_file() {
    let text = read(&root().join("docs/architecture.md"));
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
            assert!(found, "docs/architecture.md looks for `{name}` in {path}, which does not have it");
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
