fn main() {
    probe::run(connector_core::open);
}
