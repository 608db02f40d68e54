//! The conformance kit: a connector that keeps the contract passes, and the kit finds each broken rule.

mod faulty;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use connector_core::conformance::{Check, CheckResult, Kit, Outcome, checks};
use connector_core::{
    CacheKey, Capabilities, ChunkLayout, Connector, Error, ErrorKind, MemoryObj, RemoteConnector, Result,
};
use faulty::{FAULTS, Fault, Profile, Untidy, Wrong, kit};

/// The names of all checks.
fn names() -> BTreeSet<&'static str> {
    checks().iter().map(|c| c.name).collect()
}

fn skipped(results: &[CheckResult]) -> Vec<&str> {
    results.iter().filter(|c| matches!(c.outcome, Outcome::Skipped(_))).map(|c| c.name).collect()
}

/// The macro, as an author uses it.
mod as_tests {
    connector_core::conformance_tests!(super::faulty::kit(super::Profile::Full, None));
}

#[tokio::test]
async fn a_connector_that_keeps_the_contract_passes_every_check_that_applies() {
    let full = kit(Profile::Full, None).run().await;
    assert!(full.passed() && full.checks.len() == checks().len(), "{full}");
    let no_url = "both_urls_open_one_store";
    let limits = [
        "a_refused_item_fails_alone",
        "keys_over_the_limit_are_refused",
        "undeclared_operations_are_unsupported",
        "undeclared_dtypes_are_refused",
        "chunks_over_the_limit_are_refused",
    ];
    assert_eq!(skipped(&full.checks), [&[no_url], &limits[..]].concat());

    let exact = kit(Profile::Exact, None).run().await;
    assert!(exact.passed() && exact.checks.len() == checks().len(), "{exact}");
    let of_layouts = ["several_groups_come_back", "put_replaces_the_layout"];
    let others = skipped(&exact.checks).into_iter().filter(|name| !of_layouts.contains(name));
    assert_eq!(others.collect::<Vec<_>>(), [&[no_url], &limits[1..]].concat());

    let plain = kit(Profile::Plain, None).run().await;
    assert!(plain.passed() && plain.checks.len() == checks().len(), "{plain}");
    let skipped = skipped(&plain.checks);
    assert!(skipped.iter().all(|name| !limits.contains(name)), "{skipped:?}");
    // No `remove`, no `list`, no layouts, no servers, no URL.
    assert_eq!(skipped.len(), 15, "{skipped:?}");
}

/// Runs one check.
async fn run(kit: &Kit, name: &str) -> CheckResult {
    kit.run_some(|c| c.name == name, |_| true).await.checks.pop().expect("the check exists")
}

#[tokio::test]
async fn each_fault_is_found_by_its_check() {
    let mut missed = Vec::new();
    for (fault, name, profile) in FAULTS {
        let limit = Duration::from_secs(if fault.hangs() { 1 } else { 60 });
        let kit = kit(*profile, Some(*fault)).limit(limit).grace(Duration::from_millis(300));
        let result = run(&kit, name).await;
        println!("{fault:?}: {result}");
        // A failure of the clean-up does not show that the check itself finds the fault.
        if !result.is_failure() || result.to_string().contains("failed: after the check, ") {
            missed.push(format!("{fault:?}: {result}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_check_has_a_fault() {
    let tested: BTreeSet<_> = FAULTS.iter().map(|(_, name, _)| *name).collect();
    assert_eq!(tested, names());
    assert_eq!(names().len(), checks().len(), "two checks have one name");
}

#[tokio::test]
async fn panics_hangs_and_leaks_are_failures_with_a_reason() {
    let text = async |fault, name| {
        let kit = kit(Profile::Full, Some(fault)).limit(Duration::from_secs(8)).grace(Duration::from_millis(300));
        run(&kit, name).await.to_string()
    };
    for (fault, name, words) in [
        (Fault::PanicsInGet, "put_replaces", "panicked: the author did not think of this"),
        (Fault::HangsInGet, "put_replaces", "`get` hangs: it did not end within 1"),
        (Fault::BlocksInGet, "put_replaces", "`get` blocks its thread: it did not return within 1"),
        (Fault::LeaksWhatItReads, "put_replaces", "bytes of the pool did not come back"),
        (Fault::CloseFails, "put_replaces", "cannot be closed"),
        (Fault::RemovesNothing, "bytes_come_back", "were not removed"),
    ] {
        let text = text(fault, name).await;
        assert!(text.contains("failed: ") && text.contains(words), "`{words}` is missing: {text}");
    }
}

#[tokio::test]
async fn the_report_of_a_broken_store_starts_with_the_cause_and_skips_what_needs_it() {
    for (fault, name, words) in [
        (Fault::KeepsItsChunk, "put_does_not_keep_its_chunk", "still holds its chunk of 500 bytes: copy the bytes"),
        (Fault::HangsInGet, "calls_do_not_block_their_thread", "`get` hangs"),
        (Fault::HangsInPut, "calls_do_not_block_their_thread", "`put` hangs"),
        (Fault::HangsInExists, "calls_do_not_block_their_thread", "`exists` hangs"),
        (Fault::BlocksInGet, "calls_do_not_block_their_thread", "`get` blocks its thread"),
        (Fault::SleepsInGet, "calls_do_not_block_their_thread", "`get` blocks its thread"),
        (Fault::CloseHangs, "close_succeeds_once_for_all", "`close` hangs"),
        (Fault::CloseFails, "close_succeeds_once_for_all", "the connection was never opened"),
        (Fault::HangsInList, "list_gives_each_key_once", "`list` hangs"),
        (Fault::BlocksInList, "list_gives_each_key_once", "`list` blocks its thread"),
        (Fault::DropBlocks, "close_succeeds_once_for_all", "`drop` blocks its thread"),
        (Fault::DropPanics, "close_succeeds_once_for_all", "its drop panicked: the author did not think of this"),
        (Fault::FlipsABit, "bytes_come_back", "byte 0 comes back as"),
        (Fault::PanicsInGet, "misses_are_not_errors", "panicked: the author did not think of this"),
        (Fault::MissesAreErrors, "misses_are_not_errors", "`get` of a key that is not stored is an error"),
        (Fault::LosesEveryOtherPut, "bytes_come_back", "was put, but is a miss"),
        (Fault::GivesAnotherKeysChunk, "bytes_come_back", "comes back"),
        (Fault::ExistsIsAlwaysTrue, "exists_agrees_with_get", "which `get` does not find"),
        (Fault::LeaksWhatItReads, "memory_comes_back", "bytes of the pool did not come back"),
        (Fault::RemovesNothing, "remove_says_whether_it_was_there", "were not removed, although `remove` says so"),
    ] {
        let limit = Duration::from_secs(if fault.hangs() { 8 } else { 60 });
        let kit = kit(Profile::Full, Some(fault)).limit(limit).grace(Duration::from_millis(300));
        let report = kit.run().await;
        let text = report.to_string();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with(&format!("{name}: failed: ")) && first.contains(words), "{fault:?}: {text}");
        // Each check has a result, one names the cause, and no check behind it waits for the store.
        assert_eq!((report.failures().count(), report.checks.len()), (1, checks().len()), "{fault:?}: {text}");
        let behind = report.checks.iter().skip_while(|c| c.name != name).skip(1);
        let waited = behind.filter(|c| c.needs.is_none()).map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(waited, [""; 0], "{fault:?}: {text}");
        let needed = report.checks.iter().filter(|c| c.needs == Some(name)).count();
        assert!(text.contains(&format!("{needed} skipped: they need `{name}`, which failed")), "{fault:?}: {text}");
    }
}

/// Each call takes 100 ms. A batch makes 500 at once.
#[derive(Default)]
struct FarAway(Mutex<HashMap<CacheKey, (Vec<u8>, ChunkLayout)>>);

impl FarAway {
    async fn chunks(&self) -> MutexGuard<'_, HashMap<CacheKey, (Vec<u8>, ChunkLayout)>> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.0.lock().unwrap()
    }
}

impl RemoteConnector for FarAway {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.chunks().await.contains_key(key))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let chunk = self.chunks().await.get(key).cloned();
        chunk.map(|(bytes, layout)| MemoryObj::from_vec(bytes, layout)).transpose()
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.chunks().await.insert(key.clone(), (chunk.to_vec(), chunk.layout().clone()));
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_layout_kept().with_batch_concurrency(500)
    }
}

#[tokio::test]
async fn a_large_batch_has_more_time_than_the_limit_of_a_check() {
    let kit = Kit::new(|_backend| async { Ok(Connector::new("test/FarAway", FarAway::default())) });
    let limit = Duration::from_millis(1200);
    let result = run(&kit.limit(limit), "thousands_of_keys_in_one_batch").await;
    assert_eq!(result.outcome, Outcome::Passed);
    assert!(result.elapsed > limit, "the store is not slow: {:?}", result.elapsed);
}

#[tokio::test]
async fn a_broken_chapter_leaves_the_others() {
    let wanted = |c: &Check| ["listing", "batches", "removal"].contains(&c.chapter);
    let report = kit(Profile::Full, Some(Fault::PanicsOnEmptyBatches)).run_some(wanted, |_| true).await;
    let names = |needs: Option<&str>| {
        let checks = report.checks.iter().filter(|c| !c.is_failure() && c.needs == needs);
        checks.map(|c| c.chapter).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(report.failures().map(|c| c.name).collect::<Vec<_>>(), ["batches_of_none_and_one"], "{report}");
    assert_eq!((names(Some("batches_of_none_and_one")), names(None)), (vec!["batches"], vec!["listing", "removal"]));
}

#[tokio::test]
async fn both_forms_of_a_url_open_one_store_if_the_connector_reads_its_location() {
    let run = async |url: &str| run(&Kit::from(url), "both_urls_open_one_store").await;
    assert_eq!(run("own-path://h:1/dir").await.outcome, Outcome::Passed);
    let wrong = run("module-as-path://h:1/dir").await.to_string();
    for part in
        ["`module-as-path://h:1/***` and `external://h:1/test.by_path/?", "open different stores", "`ctx.location()`"]
    {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    let external = "external://h:1/test.by_path/?connector_name=OwnPath&path=/dir";
    assert!(matches!(run(external).await.outcome, Outcome::Skipped(_)), "it has no other form");
}

/// Runs a check with 2000 keys. Gives its result, the number of keys that are left, and the number of open connectors.
async fn after_thousands_of_keys(wrong: Wrong) -> (CheckResult, usize, usize) {
    let store = Untidy::new(wrong, None);
    let result = run(&store.kit(), "thousands_of_keys_in_one_batch").await;
    (result, store.left(), store.open())
}

#[tokio::test]
async fn the_kit_retries_a_removal_that_fails_temporarily() {
    let (result, left, open) = after_thousands_of_keys(Wrong::OneHiccup).await;
    assert_eq!((&result.outcome, left, open), (&Outcome::Passed, 0, 0));
}

#[tokio::test]
async fn if_some_keys_cannot_be_removed_the_kit_removes_all_others_and_closes_the_connector() {
    // The kit removes 2000 keys in seven batches of 256 and one of 208.
    let (result, left, open) = after_thousands_of_keys(Wrong::RemovalsOf(256)).await;
    assert_eq!((left, open), (1792, 0), "{result}");
    let text = result.to_string();
    assert!(text.contains("1792 of its 2000 keys may be left") && text.contains("no removal of 256"), "{text}");
    let (result, left, open) = after_thousands_of_keys(Wrong::RemovalsOf(208)).await;
    assert_eq!((left, open, result.is_failure()), (208, 0, true), "{result}");
}

#[tokio::test]
async fn a_new_connector_removes_the_keys_that_a_broken_one_left() {
    let (result, left, open) = after_thousands_of_keys(Wrong::FirstRemovesPanic).await;
    assert_eq!((left, open), (0, 0), "{result}");
    let text = result.to_string();
    assert!(text.contains("the first connector is broken") && text.contains("A new connector could"), "{text}");

    let store = Untidy::new(Wrong::SecondOpenHangs, None);
    let kit = store.kit().limit(Duration::from_secs(1));
    let result = run(&kit, "closing_one_leaves_the_others_open").await;
    assert_eq!(store.left(), 0, "{result}");
}

#[tokio::test]
async fn a_huge_limit_of_keys_is_not_tried() {
    let kit = Untidy::new(Wrong::Nothing, Some(usize::MAX)).kit();
    let result = run(&kit, "keys_over_the_limit_are_refused").await;
    assert!(matches!(&result.outcome, Outcome::Skipped(why) if why.contains("too long to try")), "{result}");
}

#[tokio::test]
async fn a_result_is_one_line_without_control_characters() {
    let kit = kit(Profile::Full, Some(Fault::OddKeysBecomeOthers));
    let text = run(&kit, "odd_keys_are_kept_or_refused").await.to_string();
    assert!(text.contains("\\ttab@") && !text.contains(char::is_control), "{text}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_fails_and_says_why() {
    let kit = Kit::new(|_| async { Err(Error::new(ErrorKind::Unavailable, "connection refused")) });
    let result = run(&kit, "bytes_come_back").await;
    assert!(result.is_failure() && result.to_string().contains("connection refused"), "{result}");
    let unknown = run(&Kit::from("nowhere://x"), "bytes_come_back").await;
    assert!(unknown.to_string().contains("nowhere"), "{unknown}");
}

#[tokio::test]
async fn a_run_shows_each_result_at_once_and_can_end_early() {
    let shown = Arc::new(AtomicUsize::new(0));
    let report = kit(Profile::Full, None)
        .run_some(|c| c.chapter == "get_into", |_| shown.fetch_add(1, Ordering::SeqCst) < 1)
        .await;
    assert_eq!((report.checks.len(), shown.load(Ordering::SeqCst)), (2, 2));
    assert!(report.interrupted && report.failures().next().is_none() && !report.passed(), "{report}");
    assert!(report.to_string().ends_with("2 passed, 0 failed, 0 skipped; interrupted"), "{report}");
}

#[tokio::test]
async fn a_run_in_which_no_check_passed_does_not_pass() {
    let kit = kit(Profile::Plain, None);
    let none = kit.run_some(|_| false, |_| true).await;
    let skipped = kit.run_some(|c| c.chapter == "removal", |_| true).await;
    for (report, checks) in [(none, 0), (skipped, 2)] {
        assert_eq!((report.checks.len(), report.passed(), report.interrupted), (checks, false, false), "{report}");
    }
}

#[tokio::test]
async fn a_report_as_json_has_a_reason_for_each_check_that_did_not_pass() {
    let report = kit(Profile::Plain, None).run_some(|c| c.chapter == "removal", |_| true).await;
    let json = serde_json::to_value(&report).expect("a report is JSON");
    let check = &json["checks"][0];
    assert_eq!(check["name"], "remove_says_whether_it_was_there");
    assert_eq!((&check["outcome"], &check["why"]), (&"skipped".into(), &"the store declares no `remove`".into()));
    assert!(check["seconds"].is_f64() && check["rule"].is_string(), "{check}");
    assert!(report.to_string().ends_with("0 passed, 0 failed, 2 skipped; nothing was checked"), "{report}");
}

#[test]
fn the_document_names_every_check_with_its_rule_and_no_others() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/connector/contract.md");
    let text = std::fs::read_to_string(path).expect("docs/connector/contract.md is there");
    let row = |line: &'static str| -> Option<(&'static str, &'static str)> {
        let (name, rule) = line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")?;
        Some((name, rule))
    };
    let text: &'static str = text.leak();
    let documented: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    let rules: BTreeMap<_, _> = checks().iter().map(|c| (c.name, c.rule)).collect();
    assert_eq!(documented, rules);
}
