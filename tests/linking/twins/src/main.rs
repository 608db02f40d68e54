use twin_a as _;
use twin_b as _;

fn main() {
    probe::run(connector_core::open);
}
