use connector_core::external_connector;

struct Acme;

#[external_connector(module = "acme.kv")]
impl Acme {
    fn new() -> Self {
        Self
    }
}

fn main() {
    let _ = Acme::new();
}
