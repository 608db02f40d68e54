use routed as _;

fn main() {
    probe::run(connector_core::open);
}
