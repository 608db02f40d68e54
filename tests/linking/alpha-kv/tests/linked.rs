//! So is an integration test.
use alpha_kv as _;

#[test]
fn an_integration_test_that_names_the_crate_sees_its_entry() {
    let names: Vec<_> = connector_core::registry::connectors().iter().map(|e| e.full_name()).collect();
    assert_eq!(names, ["alpha.kv/AlphaConnector"]);
}
