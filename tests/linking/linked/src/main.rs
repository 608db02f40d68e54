use alpha_kv as _;

fn main() {
    probe::run(connector_core::open);
}
