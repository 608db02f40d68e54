use connector_core::external_connector;

#[external_connector(modul = "acme.kv", name = "AcmeConnector")]
struct Acme;

fn main() {
    let _ = Acme;
}
