use connector_core::external_connector;

#[external_connector(module = "acme.kv", scheme = "acme", url = "redis://h:1")]
struct Acme;

fn main() {
    let _ = Acme;
}
