use connector_core::external_connector;

#[external_connector(module = "acme/kv", name = "acme-connector", scheme = "ACME", retries = 3)]
struct Acme {
    connections: usize,
}

fn main() {
    // One pass reports all four mistakes and keeps the struct, so the code below gives no error.
    let acme = Acme { connections: 8 };
    assert_eq!(acme.connections, 8);
}
