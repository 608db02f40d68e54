//! An integration test is a separate binary, so it must name the crate that it tests.
use alpha_kv as _;

#[test]
fn an_integration_test_that_names_the_crate_sees_its_entry() {
    let names: Vec<_> = connector_core::registry::connectors().iter().map(|e| e.full_name()).collect();
    assert_eq!(names, ["alpha.kv/AlphaConnector"]);
}
