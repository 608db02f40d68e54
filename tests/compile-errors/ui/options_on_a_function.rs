use connector_core::connector_options;

#[connector_options]
fn options() {}

fn main() {}
