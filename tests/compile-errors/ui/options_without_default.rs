use connector_core::connector_options;

#[connector_options]
struct AcmeOptions {
    connections: usize,
}

fn main() {}
