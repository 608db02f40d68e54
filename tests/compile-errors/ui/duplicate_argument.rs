use connector_core::external_connector;

#[external_connector(module = "acme.kv", module = "acme.kv2")]
struct Acme;

fn main() {
    let _ = Acme;
}
