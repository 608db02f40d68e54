use connector_core::{ConnectorContext, Result};

struct AcmeOptions;

fn read(ctx: &ConnectorContext) -> Result<AcmeOptions> {
    ctx.options()
}

fn main() {}
