use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
struct Acme<'a> {
    name: &'a str,
}

fn main() {
    assert_eq!(Acme { name: "a" }.name, "a");
}
