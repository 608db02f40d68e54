use connector_core::external_connector;

#[external_connector(module = "acme.kv", name = "AcmeConnector", scheme = "acme")]
struct Acme;

fn main() {}
