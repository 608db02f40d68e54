use connector_core::external_connector;

#[external_connector(module = "")]
enum Acme {
    Local,
}

fn main() {
    let _ = Acme::Local;
}
