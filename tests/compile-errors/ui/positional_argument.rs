use connector_core::external_connector;

#[external_connector("acme.kv")]
struct Acme;

fn main() {
    let _ = Acme;
}
