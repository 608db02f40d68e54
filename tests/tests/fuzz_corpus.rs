//! Runs the fuzz targets on the whole corpus. Needs only the stable toolchain, and takes about a second.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kvconn_fuzz_targets::TARGETS;

#[test]
fn no_input_of_the_corpus_makes_its_target_panic() {
    for (name, target) in TARGETS {
        let files = names_in(&fuzz_dir().join("corpus").join(name));
        assert!(!files.is_empty(), "corpus/{name} is empty, so its target tests nothing");
        for file in files {
            let path = fuzz_dir().join("corpus").join(name).join(&file);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
            let run = std::panic::catch_unwind(|| target(&bytes));
            assert!(run.is_ok(), "{} makes its target panic; see the message above", path.display());
        }
    }
}

#[test]
fn corpora_and_programs_match_the_targets() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&fuzz_dir().join("corpus")), targets);
    let programs = names_in(&fuzz_dir().join("fuzz_targets"));
    assert_eq!(programs, targets.iter().map(|name| format!("{name}.rs")).collect());
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
