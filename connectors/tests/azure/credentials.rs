//! Credentials, and errors about them.

use connectors::{Error, ErrorKind};
use kvconn_cloud_servers::Azurite;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::emulated::{chunk, key, open};
use super::{ALL_RIGHTS, Container, SERVER};

/// As [`ALL_RIGHTS`], to read and to list.
const READ_AND_LIST: &str = "st=2020-01-01T00%3A00%3A00Z&se=2099-01-01T00%3A00%3A00Z&sp=rl&sv=2026-10-06&ss=b&srt=sco&sig=FNy0%2BdIOaFn%2B55ittD4wX8TzKV3hP9JMlySrhJehksE%3D";

fn quoted(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

async fn refused(url: &str, secret: &str) -> Error {
    let Err(e) = connectors::open(url).await else { panic!("the store does not open") };
    assert!(!format!("{e} {e:?}").contains(secret), "an error shows a secret: {e}");
    e
}

#[tokio::test]
async fn a_connection_string_opens_the_store() {
    let container = Container::new();
    let text = format!(
        "AccountName%3D{};AccountKey%3D{};BlobEndpoint%3D{}",
        Azurite::ACCOUNT,
        Azurite::KEY,
        SERVER.account_endpoint()
    );
    let store = open(&container.with("", &format!("connection_string={}", text.replace('+', "%2B")))).await;
    store.put(&key("m@1@0@1f@half"), chunk(10, 1)).await.expect("a put");
}

#[tokio::test]
async fn lmcaches_settings_open_the_store() {
    let container = Container::new();
    let (url, secret) = (SERVER.account_endpoint(), Azurite::KEY);
    let yaml = format!("extra_config:\n  azure_account_url: {url}\n  azure_account_key: {secret}\n");
    let config = connectors::LMCacheEngineConfig::from_yaml(&yaml).expect("a configuration");
    let store = connectors::builder(&container.with("", "")).config(config).open().await.expect("the store opens");
    store.put(&key("m@1@0@1f@half"), chunk(10, 1)).await.expect("a put");
}

#[tokio::test]
async fn an_external_url_names_the_container_by_an_option() {
    let container = Container::new();
    let options = container.url("", &format!("&container={}&prefix=kv", container.0));
    let options = options.split_once('?').expect("options").1;
    let store = open(&format!("external://localhost:0/kvconn.azure/?connector_name=AzureConnector&{options}")).await;
    store.put(&key("m@1@0@1f@half"), chunk(10, 1)).await.expect("a put");
    assert!(open(&container.url("/kv", "")).await.exists(&key("m@1@0@1f@half")).await.expect("an answer"));
}

#[tokio::test]
async fn a_signature_gives_the_rights_that_it_names() {
    let container = Container::new();
    let options = |token| format!("account_url={}&sas_token={}", SERVER.account_endpoint(), quoted(token));
    let (writer, reader) = (
        open(&container.with("", &options(ALL_RIGHTS))).await,
        open(&container.with("", &options(&format!("?{READ_AND_LIST}")))).await,
    );
    let (one, two) = (key("m@1@0@1f@half"), key("m@1@0@2f@half"));
    for key in [&one, &two] {
        writer.put(key, chunk(10, 1)).await.expect("a put");
    }
    assert!(reader.get(&one).await.expect("a get").is_some());
    let refused = reader.put(&one, chunk(10, 2)).await.expect_err("the signature allows no write");
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("FNy0"), "{refused}");
    // Azurite answers 500 to a batch with a signature, also to Microsoft's client, so the removals are single.
    for key in [&one, &two] {
        assert!(writer.remove(key).await.expect("a removal"));
    }
}

#[tokio::test]
async fn a_wrong_key_is_denied() {
    let container = Container::new();
    let options = |key| format!("account_url={}&{key}", SERVER.account_endpoint());
    let e = refused(&container.with("", &options("account_key=aHVudGVyMg==")), "aHVudGVyMg").await;
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    let e = refused(&container.with("", &options("account_key=hunter-2")), "hunter").await;
    assert_eq!(e.kind(), ErrorKind::InvalidOption, "{e}");
}

#[tokio::test]
async fn a_container_without_public_access_needs_credentials() {
    let container = Container::new();
    let options = |other| format!("account_url={}&{other}", SERVER.account_endpoint());
    let e = refused(&container.with("", &options("anonymous=true")), "sig=").await;
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
}

#[tokio::test]
async fn a_missing_container_is_named() {
    let container = Container::new();
    let e = refused(&container.url("", "").replace(&container.0, "nowhere"), Azurite::KEY).await;
    assert!(e.to_string().contains("`nowhere`"), "{e}");
    assert!(!e.is_temporary(), "{e}");
}

#[tokio::test]
async fn an_account_url_with_a_signature_is_refused_without_it() {
    let url = format!("azure://chunks?account_url={}%3Fsig%3Dhunter2", SERVER.account_endpoint());
    let e = refused(&url, "hunter2").await;
    assert_eq!(e.kind(), ErrorKind::InvalidOption, "{e}");
    let e = refused("azure://chunks", "sig=").await;
    assert!(e.to_string().contains("account"), "{e}");
}
