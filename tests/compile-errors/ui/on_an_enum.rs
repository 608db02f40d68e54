use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
enum Acme {
    Local,
    Remote,
}

fn main() {
    let _ = (Acme::Local, Acme::Remote);
}
