use connector_core::connector_options;

#[connector_options]
#[derive(Default)]
struct AcmeOptions {
    #[option(secrt)]
    password: Option<String>,
}

fn main() {}
