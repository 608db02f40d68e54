fn main() {
    probe::run(connector_core::create_connector);
}
