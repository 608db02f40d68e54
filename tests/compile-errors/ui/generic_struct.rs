use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
struct Acme<T> {
    inner: T,
}

fn main() {
    assert_eq!(Acme { inner: 1 }.inner, 1);
}
