use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
type Acme = u32;

fn main() {
    let _: Acme = 1;
}
