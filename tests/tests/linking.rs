//! These tests build small binaries and run them, because only a whole binary shows what the linker kept.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::LazyLock;

use connectors::registry::{self, ConnectorEntry};
use kvconn_tests::linking::{Features, Printed, REFRESH_LOCK, Workspace, call_in_python};
use kvconn_tests::{assert_says, package_dir};

/// Builds all crates except the facade, whose features the tests change. One build is faster than many.
static BUILT: LazyLock<Workspace> = LazyLock::new(|| {
    let workspace = Workspace::new(env!("CARGO_TARGET_TMPDIR"));
    workspace.cargo(&["build", "--workspace", "--exclude", "facade"], &[]);
    workspace
});

const ALPHA: &str = "alpha.kv/AlphaConnector";
const ALPHA_URL: &str = "external://localhost:0/alpha.kv/?connector_name=AlphaConnector";

#[test]
fn a_crate_that_the_program_names_is_linked_and_opens() {
    let linked = BUILT.run("linked", &["alpha://localhost:0", ALPHA_URL]);
    assert_eq!(linked.lines("connector"), [ALPHA]);
    assert_eq!(linked.of("alpha://localhost:0"), format!("opened {ALPHA}"));
    assert_eq!(linked.of(ALPHA_URL), format!("opened {ALPHA}"));
    assert!(linked.is_valid());
}

#[test]
fn a_crate_that_the_program_never_names_is_not_linked_and_the_error_says_how_to_link_it() {
    let dead = BUILT.run("dead", &["alpha://localhost:0", ALPHA_URL]);
    assert!(dead.lines("connector").is_empty(), "{dead:?}");
    for url in ["alpha://localhost:0", ALPHA_URL] {
        assert_says(&dead.of(url), &["failed not_found", "add `use its_crate as _;`"]);
    }
    assert_says(&dead.of("alpha://localhost:0"), &["no connector serves the scheme `alpha://`"]);
    assert_says(&dead.of(ALPHA_URL), &["no connector has the module `alpha.kv`", "known: none"]);
}

/// One test, because the binaries of all feature sets have the same name.
#[test]
fn calling_the_facade_links_exactly_the_stores_of_its_features() {
    let features = Features::of("connectors");
    let skipped = [&OTHER_FEATURES[..], &IN_CLOUD].concat();
    let tested =
        |feature: &&str| if cfg!(feature = "slow") { !skipped.contains(feature) } else { SAMPLE.contains(feature) };
    for feature in features.names().into_iter().filter(tested).chain([""]) {
        let enabled = features.closure(feature);
        BUILT.cargo(&["build", "--package", "facade", "--features", &with_crate(feature)], &[]);
        let urls: Vec<String> = registry::connectors().iter().flat_map(|entry| urls_of(entry)).collect();
        let printed = BUILT.run("facade", &urls.iter().map(String::as_str).collect::<Vec<_>>());
        let linked = registry::connectors().iter().filter(|entry| enabled.contains(feature_of(entry)));
        assert_eq!(
            printed.lines("connector"),
            linked.map(|e| e.full_name()).collect::<Vec<_>>(),
            "feature `{feature}`"
        );
        assert!(printed.lines("adapter").is_empty() && printed.is_valid(), "{printed:?}");
        for entry in registry::connectors() {
            let enable = format!("enable feature `{}` of package `connectors`", feature_of(entry));
            for url in urls_of(entry) {
                let answer = printed.of(&url);
                if enabled.contains(feature_of(entry)) {
                    assert!(!answer.starts_with("failed not_found"), "{answer}");
                } else {
                    assert_says(&answer, &["failed not_found", &enable]);
                }
            }
        }
    }
}

/// Features of `connectors` that are neither a store nor a bundle of stores.
const OTHER_FEATURES: [&str; 4] = ["__cloud", "__fuzz", "conformance", "default"];

/// Each alone would compile the libraries of all object stores again, so the bundle tests them together.
const IN_CLOUD: [&str; 3] = ["azure", "gcs", "s3"];

/// A sample of the features, because each one takes a build.
const SAMPLE: [&str; 3] = ["full", "local", "memory"];

fn with_crate(feature: &str) -> String {
    if feature.is_empty() { String::new() } else { format!("connectors/{feature}") }
}

/// The store's feature has the name of its module.
fn feature_of(entry: &ConnectorEntry) -> &'static str {
    entry.module().strip_prefix("kvconn.").expect("a module of kvconn")
}

/// A URL of each form. Nothing listens there, so most stores fail to open, but not with `not_found`.
fn urls_of(entry: &ConnectorEntry) -> Vec<String> {
    let (module, name) = (entry.module(), entry.name());
    let short = entry.schemes().iter().map(|scheme| format!("{scheme}://localhost:1"));
    short.chain([format!("external://localhost:1/{module}/?connector_name={name}")]).collect()
}

#[test]
fn every_store_is_a_feature_and_the_bundle_full_has_all_of_them() {
    let features = Features::of("connectors");
    let full = features.closure("full");
    let all = features.names().into_iter().filter(|feature| !OTHER_FEATURES.contains(feature));
    let missing: Vec<&str> = all.filter(|feature| *feature != "full" && !full.contains(*feature)).collect();
    assert!(missing.is_empty(), "`full` lacks {missing:?}");
    let stores: Vec<&str> = registry::connectors().iter().map(|entry| feature_of(entry)).collect();
    assert!(stores.iter().all(|store| full.contains(*store)), "{stores:?} in {full:?}");
}

fn twins() -> Printed {
    BUILT.run("twins", &[TWIN_URL, "twin://localhost:0", LEFT_URL, RIGHT_URL])
}

const TWIN_URL: &str = "external://localhost:0/twin.kv/?connector_name=TwinConnector";
const LEFT_URL: &str = "external://localhost:0/left.kv/?connector_name=LeftConnector";
const RIGHT_URL: &str = "external://localhost:0/right.kv/?connector_name=RightConnector";
const TWIN_PLACES: [&str; 4] = ["twin-a/src/lib.rs:", "(twin-a 1.2.3)", "twin-b/src/lib.rs:", "(twin-b 4.5.6)"];

#[test]
fn a_name_that_two_crates_claim_opens_neither_and_the_error_names_both_places() {
    let twins = twins();
    assert_says(&twins.of(TWIN_URL), &["failed conflict", "connector `twin.kv/TwinConnector` is registered 2 times"]);
    assert_says(&twins.of(TWIN_URL), &TWIN_PLACES);
}

#[test]
fn a_scheme_that_two_crates_claim_opens_neither_and_the_error_names_both_places() {
    let twins = twins();
    assert_says(&twins.of("twin://localhost:0"), &["failed conflict", "scheme `twin://` is claimed 2 times"]);
    assert_says(&twins.of("twin://localhost:0"), &TWIN_PLACES);
    assert_says(&twins.of("twin://localhost:0"), &["left.kv/LeftConnector", "right.kv/RightConnector"]);
}

#[test]
fn a_conflict_does_not_affect_other_names() {
    let twins = twins();
    assert_eq!(twins.of(LEFT_URL), "opened left.kv/LeftConnector");
    assert_eq!(twins.of(RIGHT_URL), "opened right.kv/RightConnector");
}

#[test]
fn validate_names_every_conflict_at_once() {
    let twins = twins();
    let [invalid] = twins.lines("invalid")[..] else { panic!("not one line of validate: {twins:?}") };
    assert_says(invalid, &["conflict ", "connector `twin.kv/TwinConnector`", "scheme `twin://`"]);
    assert_says(invalid, &TWIN_PLACES);
}

#[test]
fn a_crate_that_renames_its_dependency_registers_with_crate_path() {
    let url = "external://localhost:0/renamed.kv/?connector_name=RenamedConnector";
    let renamed = BUILT.run("renamed", &[url]);
    assert_eq!(renamed.lines("connector"), ["renamed.kv/RenamedConnector"]);
    assert_eq!(renamed.of(url), "opened renamed.kv/RenamedConnector");
}

#[test]
fn a_crate_that_depends_on_the_facade_alone_registers_through_it() {
    let url = "external://localhost:0/reexport.kv/?connector_name=ReexportConnector";
    let reexport = BUILT.run("reexport", &[url]);
    assert_eq!(reexport.lines("connector"), ["reexport.kv/ReexportConnector"]);
    assert_eq!(reexport.of(url), "opened reexport.kv/ReexportConnector");
}

#[test]
fn unit_tests_integration_tests_and_examples_see_the_entries() {
    let tested = BUILT.cargo(&["test", "--package", "alpha-kv", "--lib", "--tests", "--examples"], &[]);
    // The tests of `alpha-kv` check the entries. This test checks that they ran.
    assert_eq!(passed(&tested.stdout), 2);
    BUILT.cargo(&["build", "--package", "alpha-kv", "--examples"], &[]);
    assert_eq!(BUILT.run("examples/alpha", &[]).lines("connector"), [ALPHA]);
}

/// Its code uses options, listings, timers, tasks, locks, threads, log lines and the conformance kit.
#[test]
fn a_connector_needs_no_dependency_but_connector_core() {
    let tested = BUILT.cargo(&["test", "--package", "one-dependency", "--lib"], &[]);
    assert!(passed(&tested.stdout) > 50, "{}", String::from_utf8_lossy(&tested.stdout));
}

#[test]
fn an_entry_that_a_dev_dependency_cycle_links_twice_counts_once() {
    // The test in `cycle` checks for two entries in the binary and one in the registry.
    assert_eq!(passed(&BUILT.cargo(&["test", "--package", "cycle", "--lib"], &[]).stdout), 1);
}

#[test]
fn a_shared_library_has_the_connectors_of_the_crates_it_names() {
    let library = BUILT.made("libloaded.so");
    assert_eq!(call_in_python(&library, "kvconn_test_connectors"), 1);
    assert_eq!(call_in_python(&library, "kvconn_test_finds_alpha"), 1);
}

#[test]
fn an_adapter_of_a_linked_crate_serves_its_scheme() {
    let routed = BUILT.run("routed", &["routed://alpha:1", "routed://beta:1"]);
    assert_eq!(routed.lines("adapter"), ["routed"]);
    assert_eq!(routed.of("routed://alpha:1"), format!("opened {ALPHA}"));
    assert_says(&routed.of("routed://beta:1"), &["failed invalid_url", "routed/src/lib.rs:", "routed://beta:1"]);
}

/// With other versions, these tests would need more downloads and would test other releases than the project's.
#[test]
fn the_lock_file_has_the_projects_versions() {
    let project = locked("../Cargo.lock");
    let mut others: Vec<_> = locked("linking/Cargo.lock").difference(&project).cloned().collect();
    others.sort();
    assert!(others.is_empty(), "the project's Cargo.lock has none of {others:?}: {REFRESH_LOCK}");
}

/// The packages that a lock file takes from a registry, as `name version`.
fn locked(path: &str) -> HashSet<String> {
    let path = package_dir().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let packages = text.split("[[package]]").filter(|package| field(package, "source").is_some());
    let packages = packages.filter_map(|p| Some(format!("{} {}", field(p, "name")?, field(p, "version")?)));
    let packages: HashSet<_> = packages.collect();
    assert!(!packages.is_empty(), "{} lists no package", path.display());
    packages
}

/// The number of tests that passed, from the harness's summary lines.
fn passed(stdout: &[u8]) -> usize {
    let text = String::from_utf8_lossy(stdout);
    let counts = text.lines().filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"));
    counts.map(|(count, _)| count.parse::<usize>().unwrap_or_else(|e| panic!("{count}: {e}"))).sum()
}
