use connector_core::connector_adapter;

#[connector_adapter]
struct AcmeAdapter;

fn main() {
    let _ = AcmeAdapter;
}
