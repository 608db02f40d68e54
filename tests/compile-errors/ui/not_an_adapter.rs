use connector_core::connector_adapter;

#[connector_adapter(scheme = "acme")]
#[derive(Default)]
struct AcmeAdapter;

fn main() {}
