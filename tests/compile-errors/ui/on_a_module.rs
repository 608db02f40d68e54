use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
mod acme {
    pub fn f() {}
}

fn main() {
    acme::f();
}
