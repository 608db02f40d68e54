//! Prints the connectors in a binary, and the result of opening each URL in its arguments.
#![forbid(unsafe_code)]

use connector_core::{Connector, Result, registry};

/// Opens every argument with `open`, then prints the linked connectors and adapters. The first word of each line is its kind.
pub fn run(open: impl AsyncFn(&str) -> Result<Connector>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for url in std::env::args().skip(1) {
        match runtime.block_on(open(&url)) {
            Ok(connector) => println!("opened {url} {}", connector.name()),
            Err(e) => println!("failed {url} {} {e}", e.kind()),
        }
    }
    for entry in registry::connectors() {
        println!("connector {}", entry.full_name());
    }
    for entry in registry::adapters() {
        println!("adapter {}", entry.scheme());
    }
    match registry::validate() {
        Ok(()) => println!("valid"),
        Err(e) => println!("invalid {} {e}", e.kind()),
    }
}
