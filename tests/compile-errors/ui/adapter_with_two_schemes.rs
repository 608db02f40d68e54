use connector_core::connector_adapter;

#[connector_adapter(scheme = "acme", scheme = "acmes")]
struct AcmeAdapter;

fn main() {
    let _ = AcmeAdapter;
}
