use connector_core::external_connector;

#[external_connector(module = "acme.kv", name = "")]
struct Acme;

fn main() {
    let _ = Acme;
}
