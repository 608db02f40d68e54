//! Links in every profile and with every linker. The set of linked connectors must depend on neither.
//!
//! Needs `--features slow` and all linkers. A missing linker is a failure, because a skipped test tests nothing.
#![forbid(unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use kvconn_tests::linking::{Workspace, call_in_python};

const PROFILES: [&str; 4] = ["dev", "release", "thin", "fat"];

struct Linker {
    /// Its name for `-fuse-ld=`.
    name: &'static str,
    program: &'static str,
    /// Its Debian package.
    package: &'static str,
    /// A text that the linker writes into every file.
    mark: Option<&'static str>,
}

const LINKERS: [Linker; 4] = [
    Linker { name: "bfd", program: "ld.bfd", package: "binutils", mark: None },
    Linker { name: "gold", program: "ld.gold", package: "binutils", mark: Some(".note.gnu.gold-version") },
    Linker { name: "lld", program: "ld.lld", package: "lld", mark: Some("Linker: ") },
    Linker { name: "mold", program: "mold", package: "mold", mark: Some("(compatible with GNU ld)") },
];

const ALPHA: &str = "alpha.kv/AlphaConnector";

/// The tests build the same files with other options, so they must not run at the same time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn every_linker_is_installed() {
    let missing: Vec<_> = LINKERS.iter().filter(|l| !starts(l.program)).collect();
    let packages: Vec<_> = missing.iter().map(|l| l.package).collect();
    let programs: Vec<_> = missing.iter().map(|l| l.program).collect();
    assert!(missing.is_empty(), "{programs:?} cannot be started: apt-get install {}", packages.join(" "));
}

fn starts(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn every_profile_links_what_the_program_names_and_nothing_else() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for profile in PROFILES {
        let workspace = workspace(profile);
        check(&workspace, &[], profile);
        workspace.cargo(&["build", "--package", "facade", "--features", "connectors/full"], &[]);
        let facade = workspace.run("facade", &["memory://a"]);
        let stores: Vec<String> = connectors::registry::connectors().iter().map(|entry| entry.full_name()).collect();
        assert_eq!(facade.lines("connector"), stores, "{profile}");
        workspace.cargo(&["build", "--package", "twins"], &[]);
        assert!(!workspace.run("twins", &[]).is_valid(), "{profile}: the conflict is seen");
    }
}

#[test]
fn every_linker_links_what_the_program_names_and_nothing_else() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for profile in PROFILES {
        for linker in &LINKERS {
            let choice = format!("-Clink-arg=-fuse-ld={}", linker.name);
            // Without `-lld`, Rust would use its own lld.
            let what = format!("{profile} with {}", linker.name);
            let workspace = workspace(profile);
            check(&workspace, &["-Clinker-features=-lld", &choice], &what);
            for file in ["linked", "dead", "libloaded.so"] {
                assert_linked_by(linker, &workspace.made(file), &what);
            }
        }
    }
}

/// Builds and runs a program that names its connector's crate, one that does not, and a shared library that does.
fn check(workspace: &Workspace, to_rustc: &[&str], what: &str) {
    workspace.cargo(&["rustc", "--package", "linked"], to_rustc);
    let linked = workspace.run("linked", &["alpha://localhost:0"]);
    assert_eq!(linked.lines("connector"), [ALPHA], "{what}");
    assert_eq!(linked.of("alpha://localhost:0"), format!("opened {ALPHA}"), "{what}");

    workspace.cargo(&["rustc", "--package", "dead"], to_rustc);
    assert!(workspace.run("dead", &[]).lines("connector").is_empty(), "{what}");

    workspace.cargo(&["rustc", "--package", "loaded"], to_rustc);
    assert_eq!(call_in_python(&workspace.made("libloaded.so"), "kvconn_test_connectors"), 1, "{what}");
}

/// Without this check, the test would pass if the compiler ignored the choice of linker.
fn assert_linked_by(linker: &Linker, file: &Path, what: &str) {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
    for other in &LINKERS {
        let Some(mark) = other.mark else { continue };
        let marked = bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
        assert_eq!(marked, other.name == linker.name, "{what}: the mark of {} in {}", other.name, file.display());
    }
}

/// Uses a separate folder, because the quick tests build the same files.
fn workspace(profile: &'static str) -> Workspace {
    Workspace::new(&format!("{}/full", env!("CARGO_TARGET_TMPDIR"))).with_profile(profile)
}
