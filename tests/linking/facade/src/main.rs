fn main() {
    probe::run(connectors::open);
}
