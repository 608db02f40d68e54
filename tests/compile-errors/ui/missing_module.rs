use connector_core::external_connector;

#[external_connector(name = "AcmeConnector")]
struct Acme;

fn main() {
    let _ = Acme;
}
