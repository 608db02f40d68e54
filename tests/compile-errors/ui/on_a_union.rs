use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
union Acme {
    a: u32,
    b: f32,
}

fn main() {
    let _ = (Acme { a: 1 }, Acme { b: 1.0 });
}
