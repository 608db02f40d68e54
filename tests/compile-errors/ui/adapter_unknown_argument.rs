use connector_core::connector_adapter;

#[connector_adapter(scheme = "acme", module = "acme.kv")]
struct AcmeAdapter;

fn main() {
    let _ = AcmeAdapter;
}
