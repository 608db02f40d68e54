use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
fn acme() {}

fn main() {
    acme();
}
