//! Secrets outside URLs: in files and in environment variables.
#![forbid(unsafe_code)]

use std::path::Path;

use connector_core::options::{Credentials, Login};
use connector_core::{
    ConnectorContext, ConnectorOptions, Error, ErrorKind, LMCacheEngineConfig, Namespace, RemoteUrl, Result, builder,
    connector_options,
};
use tokio::runtime::Runtime;

const SECRET: &str = "hunter2";

/// Options with a secret under an innocent name.
#[connector_options]
#[derive(Default)]
struct AcmeOptions {
    /// Tells tenants apart.
    #[option(secret)]
    tenant_code: Option<String>,
    /// Address of the gateway.
    gateway: Option<String>,
    /// Lines of a list.
    lines: Vec<String>,
    /// Parts of the store.
    shards: Option<u16>,
    /// The store behind.
    back: Option<RemoteUrl>,
    namespace: Option<Namespace>,
    #[option(flatten)]
    credentials: Credentials,
}

impl ConnectorOptions for AcmeOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "acme_";
}

fn context(url: &str, config: LMCacheEngineConfig) -> (Runtime, ConnectorContext) {
    let runtime = Runtime::new().unwrap();
    let context = builder(url).config(config).handle(runtime.handle().clone()).build().unwrap();
    (runtime, context)
}

fn options(url: &str) -> Result<AcmeOptions> {
    context(url, LMCacheEngineConfig::default()).1.options()
}

fn login(url: &str) -> Result<Login> {
    let (_runtime, context) = context(url, LMCacheEngineConfig::default());
    context.options::<AcmeOptions>()?.credentials.resolve(context.url())
}

#[track_caller]
fn assert_refused<T>(result: Result<T>, kind: ErrorKind, part: &str) {
    let e: Error = result.err().expect("an error");
    assert!(e.kind() == kind && e.to_string().contains(part), "{e}");
    assert!(!format!("{e:?}").contains(SECRET), "{e:?}");
}

fn secret_file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_secret_option_can_be_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("plain", "hunter2"), ("newline", "hunter2\n"), ("windows", "hunter2\r\n")] {
        let file = secret_file(folder.path(), name, bytes);
        assert_eq!(options(&format!("acme://h:0?tenant_code_file={file}")).unwrap().tenant_code.unwrap(), SECRET);
        let config = LMCacheEngineConfig::default().with_extra_config("acme_tenant_code_file", file.clone());
        let (_runtime, context) = context("acme://h:0", config);
        assert_eq!(context.options::<AcmeOptions>().unwrap().tenant_code.unwrap(), SECRET);
        assert_eq!(login(&format!("acme://h:0?password_file={file}")).unwrap().password(), Some(SECRET));
    }
    let spaces = secret_file(folder.path(), "spaces", " hunter2 \n\n");
    assert_eq!(options(&format!("acme://h:0?tenant_code_file={spaces}")).unwrap().tenant_code.unwrap(), " hunter2 \n");
}

#[test]
fn a_wrong_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| secret_file(folder.path(), name, bytes);
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (value, part) in [
        ("hunter2".to_owned(), "not an absolute path"),
        ("./hunter2".to_owned(), "not an absolute path"),
        (folder.path().join("none").display().to_string(), "none`: No such file"),
        (folder.path().display().to_string(), "is not a regular file"),
        (fifo.display().to_string(), "is not a regular file"),
        ("/dev/zero".to_owned(), "is not a regular file"),
        (file("empty", b""), "empty` is empty"),
        (file("newline", b"\n"), "newline` is empty"),
        (file("binary", b"hunter2\xff"), "is not UTF-8 text"),
        (file("large", &[b'x'; (64 << 10) + 1]), "larger than 65536 bytes"),
    ] {
        for option in ["tenant_code_file", "password_file", "username_file"] {
            let result = login(&format!("acme://h:0?{option}={value}"));
            assert_refused(result, ErrorKind::InvalidOption, &format!("option `{option}`: "));
        }
        assert_refused(options(&format!("acme://h:0?tenant_code_file={value}")), ErrorKind::InvalidOption, part);
    }
    let good = file("good", b"x");
    let both = format!("acme://h:0?tenant_code=hunter2&tenant_code_file={good}");
    assert_refused(options(&both), ErrorKind::InvalidOption, "`tenant_code` and `tenant_code_file` are both set");
    let both = format!("acme://h:0?password=hunter2&password_file={good}");
    assert_refused(login(&both), ErrorKind::InvalidOption, "`password` and `password_file` are both set");
    let both = format!("acme://u:hunter2@h:0?password_file={good}");
    assert_refused(login(&both), ErrorKind::InvalidUrl, "gives the password twice");
    assert_refused(login("acme://u:hunter2@h:0?password=x"), ErrorKind::InvalidUrl, "gives the password twice");
}

#[test]
fn a_login_reads_its_files_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = secret_file(folder.path(), "password", "first\n");
    let old = login(&format!("acme://reader@h:0?password_file={file}")).unwrap();
    assert_eq!((old.username(), old.password()), (Some("reader"), Some("first")));
    assert!(old.is_in_a_file() && old.reload().unwrap() == old);
    std::fs::write(&file, "second\n").unwrap();
    assert_eq!(old.reload().unwrap().password(), Some("second"));
    std::fs::remove_file(&file).unwrap();
    assert_refused(old.reload(), ErrorKind::InvalidOption, "option `password_file`: cannot read");

    let fixed = login("acme://reader:p%40w@h:0").unwrap();
    assert_eq!((fixed.username(), fixed.password()), (Some("reader"), Some("p@w")));
    assert!(!fixed.is_in_a_file());
    assert_eq!(login("acme://h:0").unwrap().username(), None);
    assert!(!format!("{old:?} {fixed:?}").contains("reader"));
}

/// Cargo sets this variable for every test.
const VARIABLE: &str = "${CARGO_PKG_NAME}";
const VALUE: &str = "connector-core";

#[test]
fn an_options_value_can_name_environment_variables() {
    let all = options(&format!("acme://h:0?gateway=x-{VARIABLE}&lines=a,{VARIABLE}&namespace={VARIABLE}")).unwrap();
    assert_eq!(all.gateway.unwrap(), format!("x-{VALUE}"));
    assert_eq!(all.lines, ["a", VALUE]);
    assert_eq!(all.namespace.unwrap().as_str(), VALUE);
    assert_eq!(options("acme://h:0?gateway=$${A}").unwrap().gateway.unwrap(), "${A}");

    let config = LMCacheEngineConfig::default().with_extra_config("acme_tenant_code", VARIABLE);
    let (_runtime, context) = context("acme://h:0", config);
    assert_eq!(context.options::<AcmeOptions>().unwrap().tenant_code.unwrap(), VALUE);

    let list = serde_json::json!(["a", VARIABLE]);
    let (_runtime, context) =
        self::context("acme://h:0", LMCacheEngineConfig::default().with_extra_config("acme_lines", list));
    assert_eq!(context.options::<AcmeOptions>().unwrap().lines, ["a", VALUE]);

    for url in [format!("acme://{VARIABLE}:x{VARIABLE}@h:0"), format!("acme://{VARIABLE}@h:0?password=x{VARIABLE}")] {
        let login = login(&url).unwrap();
        assert_eq!((login.username(), login.password()), (Some(VALUE), Some("xconnector-core")), "{url}");
    }
    assert_refused(
        options("acme://h:0?gateway=${KVCONN_NOT_SET}"),
        ErrorKind::InvalidOption,
        "option `gateway`: environment variable `KVCONN_NOT_SET` is not set",
    );
    // The name may be a part of a password.
    assert_refused(
        options("acme://h:0?tenant_code=a${hunter2}"),
        ErrorKind::InvalidOption,
        "the environment variable behind `${`",
    );
    assert_refused(login("acme://u:a${hunter2}@h:0"), ErrorKind::InvalidUrl, "the environment variable behind `${`");
}

#[test]
fn an_error_does_not_show_the_value_of_a_variable() {
    for option in ["shards=", "namespace=.", "back="] {
        let e = options(&format!("acme://h:0?{option}{VARIABLE}")).err().expect("the value is wrong").to_string();
        assert!(e.contains("the value of its environment variable is not"), "{e}");
        assert!(!e.contains(VALUE), "{e}");
    }
}

#[test]
fn a_url_in_an_option_expands_its_variables_itself() {
    let behind = options(&format!("acme://h:0?back=redis://:{VARIABLE}@h:1")).unwrap().back.unwrap();
    assert_eq!(behind.password(), Some(VARIABLE));
    assert_eq!(Credentials::default().resolve(&behind).unwrap().password(), Some(VALUE));
    // A whole URL can be in a variable.
    let result = options(&format!("acme://h:0?back={VARIABLE}"));
    assert_refused(result, ErrorKind::InvalidOption, "option `back`: ");
}
