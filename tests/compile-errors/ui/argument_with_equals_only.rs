use connector_core::external_connector;

#[external_connector(module = )]
struct Acme;

fn main() {
    let _ = Acme;
}
