use connector_core::connector_adapter;

#[connector_adapter(scheme = "acme")]
enum AcmeAdapter {
    One,
}

fn main() {
    let _ = AcmeAdapter::One;
}
