use connector_core::external_connector;

#[external_connector(module = "acme.kv", crate = "connector_core")]
struct Acme;

fn main() {
    let _ = Acme;
}
