//! Options with a part, a secret, units and an enum, in a crate without serde and schemars.
use connector_core::options::OptionsSchema;
use connector_core::{ConnectorOptions, connector_options};

/// Options of this connector.
#[connector_options]
#[derive(Debug, Default)]
struct AcmeOptions {
    /// Password of the server.
    #[option(secret)]
    key: Option<String>,
    /// When a put ends.
    mode: Mode,
    /// The connections.
    #[option(flatten)]
    wire: WireOptions,
}

impl ConnectorOptions for AcmeOptions {}

/// Options of a wire.
#[connector_options]
#[derive(Debug)]
struct WireOptions {
    /// Longest time until a connection is ready.
    #[option(unit = "ms")]
    connect_timeout: u64,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self { connect_timeout: 5 }
    }
}

/// When a put ends.
#[connector_options]
#[derive(Debug, Default)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// After the write.
    #[default]
    WriteThrough,
    /// Before the write.
    WriteBack,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let schema = OptionsSchema::of::<AcmeOptions>();
    let [key, key_file, mode, timeout] = schema.options() else { panic!("{schema:?}") };
    assert!(key.secret && key_file.name == "key_file" && !mode.secret && !timeout.secret);
    assert_eq!((mode.type_name.as_str(), mode.default_text().as_str()), ("one of write_through, write_back", "write_through"));
    assert_eq!((timeout.unit.as_deref(), timeout.default_text().as_str()), (Some("ms"), "5"));

    let open = |query: &str| connector_core::builder(&format!("acme://h:1?{query}")).build().unwrap().options();
    let options: AcmeOptions = open("key=k&mode=write_back&connect_timeout=7").unwrap();
    assert_eq!(options.wire.connect_timeout, 7);
    assert!(options.key.is_some() && matches!(options.mode, Mode::WriteBack));
    let e = open("connect_timeout=soon").map(|_: AcmeOptions| ()).unwrap_err().to_string();
    assert!(e.contains("option `connect_timeout`: `soon` is not a whole number, 0 or more"), "{e}");
    let e = open("connect_timeot=1").map(|_: AcmeOptions| ()).unwrap_err().to_string();
    assert!(e.contains("did you mean `connect_timeout`?"), "{e}");
}
