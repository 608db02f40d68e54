use connector_core::external_connector;

#[external_connector]
struct Acme;

fn main() {
    let _ = Acme;
}
