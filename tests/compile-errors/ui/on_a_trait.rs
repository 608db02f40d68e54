use connector_core::external_connector;

#[external_connector(module = "acme.kv")]
trait Acme {}

fn main() {
    fn _takes(_: &dyn Acme) {}
}
