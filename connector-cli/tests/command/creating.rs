//! `kvconn new`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Finished, kvconn, run};

/// The top of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// Runs `kvconn new` with this name, in a fresh directory.
fn new(name: &str, args: &[&str]) -> (TempDir, Finished) {
    let dir = TempDir::new().expect("a directory can be made");
    let output = kvconn(&[&["new", name], args].concat()).current_dir(dir.path()).output().expect("the command starts");
    (dir, output.into())
}

/// All files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            let built = ["target", "__pycache__", ".venv"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && !built {
                folders.push(path);
            } else if path.is_file() && path.extension().is_none_or(|extension| extension != "so") {
                let name = path.strip_prefix(folder).expect("it is below").to_str().expect("it is UTF-8").to_owned();
                found.insert(name, std::fs::read_to_string(&path).expect("a file of the project is text"));
            }
        }
    }
    found
}

#[test]
fn a_new_project_has_its_names_and_nothing_of_the_examples() {
    for (name, package, scheme, type_name) in [
        ("my-store", "my_store", "my-store", "MyStore"),
        ("my_store", "my_store", "my-store", "MyStore"),
        ("blob-kv", "blob", "blob", "Blob"),
        ("s3x", "s3x", "s3x", "S3x"),
    ] {
        let (dir, made) = new(name, &[]);
        let made = made.exits(0);
        assert!(made.text().starts_with(name) && made.text().contains(&format!("{scheme}://")), "{}", made.text());
        let files = files(&dir.path().join(name));
        for (path, text) in &files {
            let text = format!("{path}\n{text}").to_lowercase();
            assert!(!text.contains("acme") && !text.contains("../../"), "{path} has names of the example:\n{text}");
        }
        let says = |path: &str, word: &str| {
            let text = files.get(path).unwrap_or_else(|| panic!("no {path} in {:?}", files.keys()));
            assert!(text.contains(word), "{path} lacks `{word}`:\n{text}");
        };
        says("Cargo.toml", &format!("name = \"{name}\""));
        says(
            "src/lib.rs",
            &format!("module = \"{package}.kv\", name = \"{type_name}Connector\", scheme = \"{scheme}\""),
        );
        says("wheel/pyproject.toml", &format!("module-name = \"{package}._native\""));
        says("wheel/src/lib.rs", &format!("use {} as _;", name.replace('-', "_")));
        says(&format!("wheel/python/{package}/__init__.py"), "kvconn.carry(_native)");
        says(&format!("wheel/tests/test_{package}.py"), &format!("import {package}\n"));
        says(".github/workflows/ci.yml", "pip install 'kvconn @ git+https://");
        let tag = concat!("tag = \"v", env!("CARGO_PKG_VERSION"), "\"");
        says("Cargo.toml", tag);
        says("wheel/Cargo.toml", tag);
    }
}

/// A name in which a second replacement would find the example's name again.
#[test]
fn a_name_that_contains_the_examples_name_is_replaced_once() {
    let (dir, made) = new("acme-store", &[]);
    made.exits(0);
    let files = files(&dir.path().join("acme-store"));
    assert!(
        files["src/lib.rs"].contains(r#"module = "acme_store.kv", name = "AcmeStoreConnector", scheme = "acme-store""#)
    );
    assert!(files.contains_key("wheel/python/acme_store/__init__.py"), "{:?}", files.keys());
}

#[test]
fn a_project_of_the_examples_name_is_the_example() {
    let repository = repository();
    let checkout = repository.to_str().expect("it is UTF-8");
    let (dir, made) = new("acme-kv", &["--kvconn-path", checkout]);
    made.exits(0);
    let example = files(&repository.join("examples/acme-kv"));
    let made = files(&dir.path().join("acme-kv"));
    assert_eq!(made.keys().collect::<Vec<_>>(), example.keys().collect::<Vec<_>>());
    let version = concat!(", version = \"", env!("CARGO_PKG_VERSION"), "\"");
    for (path, text) in &made {
        let text = text.replace("[workspace]\nmembers = [\"wheel\"]\n\n", "");
        let expected = example[path]
            .replace(&format!("../../../connector-python\"{version}"), &format!("{checkout}/connector-python\""))
            .replace(&format!("../../connector-core\"{version}"), &format!("{checkout}/connector-core\""))
            .replace("../../connector-python", &format!("'{checkout}/connector-python'"));
        assert_eq!(text, expected, "{path}");
    }
}

#[test]
fn cargo_reads_the_project() {
    let repository = repository();
    let (dir, made) = new("my-store", &["--path", "a/b c", "--kvconn-path", repository.to_str().expect("it is UTF-8")]);
    made.exits(0);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(dir.path().join("a/b c"));
    let read = Finished::from(metadata.output().expect("cargo starts")).exits(0).json();
    let packages = read["packages"].as_array().into_iter().flatten().map(|package| package["name"].as_str());
    let mut packages: Vec<&str> = packages.flatten().collect();
    packages.sort_unstable();
    assert_eq!(packages, ["my-store", "my-store-wheel"]);
}

#[test]
fn a_wrong_name_is_refused_with_the_rule_or_another_name() {
    for (name, words) in [
        ("", ["it is empty", "as in `my-store`"]),
        ("9kv", ["starts with a digit", "a letter first"]),
        ("MyStore", ["has capital letters", "lower-case letters"]),
        ("my store", ["has the character ' '", "as in `my-store`"]),
        ("störe", ["has the character 'ö'", "as in `my-store`"]),
        ("my--store", ["two of them in a row", "as in `my-store`"]),
        ("store-", ["ends with `-`", "as in `my-store`"]),
        ("async", ["a keyword of Rust", "`my-async`"]),
        ("lambda-kv", ["lambda is a keyword of Python", "`my-lambda-kv`"]),
        ("json", ["a module of Python itself", "`my-json`"]),
        ("connector-core", ["a crate that the connector needs", "`my-connector-core`"]),
        ("test-kv", ["a module of Python itself", "`my-test-kv`"]),
        ("pytest", ["a Python package that runs beside kvconn", "`my-pytest`"]),
        ("torch", ["a Python package that runs beside kvconn", "`my-torch`"]),
        ("redis", ["redis:// belongs to kvconn.redis/RedisConnector", "`my-redis`"]),
        ("external", ["belongs to kvconn itself", "`my-external`"]),
    ] {
        let (dir, refused) = new(name, &[]);
        refused.refuses_with(&words);
        assert!(files(dir.path()).is_empty(), "`{name}` wrote files");
    }
}

#[test]
fn a_folder_with_files_and_a_wrong_checkout_are_refused_and_nothing_is_written() {
    let dir = TempDir::new().expect("a directory can be made");
    std::fs::write(dir.path().join("notes"), "mine").expect("a file can be written");
    let path = dir.path().to_str().expect("it is UTF-8");
    run(&["new", "my-store", "--path", path]).refuses_with(&["is not empty", "`--path DIR`"]);
    let below = format!("{path}/project");
    run(&["new", "my-store", "--path", &below, "--kvconn-path", path])
        .refuses_with(&["--kvconn-path", "is not a checkout of kvconn"]);
    run(&["new", "my-store", "--path", &below, "--kvconn-path", &below])
        .refuses_with(&["--kvconn-path", "cannot be read"]);
    run(&["new", "my-store", "--path", &format!("{path}/notes/project")]).fails_with(&["notes/project"]);
    assert_eq!(files(dir.path()).into_iter().collect::<Vec<_>>(), [("notes".to_owned(), "mine".to_owned())]);
}

/// A folder that a user made first.
#[test]
fn an_empty_folder_is_filled() {
    let dir = TempDir::new().expect("a directory can be made");
    run(&["new", "my-store", "--path", dir.path().to_str().expect("it is UTF-8")]).exits(0);
    assert!(files(dir.path()).contains_key("src/lib.rs"));
}
