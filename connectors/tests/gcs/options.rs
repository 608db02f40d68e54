//! URLs, options and credentials.

use connectors::ErrorKind;

use super::emulated::{chunk, key, open};
use super::{Bucket, SERVER};

#[tokio::test]
async fn both_schemes_and_an_external_url_open_the_bucket() {
    let bucket = Bucket::new();
    let (text, endpoint) = (bucket.url("/kv", ""), SERVER.endpoint());
    let key = key("m@1@0@1f@half");
    open(&text).await.put(&key, chunk(10, 1)).await.expect("a put");
    for same in [
        text.replace("gs://", "gcs://"),
        format!(
            "external://localhost:0/kvconn.gcs/?connector_name=GCSConnector&bucket={}&prefix=kv&endpoint={endpoint}&anonymous=true",
            bucket.0
        ),
        format!(
            "external://{}:0/kvconn.gcs/?connector_name=GCSConnector&path=/kv&endpoint={endpoint}&anonymous=true",
            bucket.0
        ),
        // The server asks for no credentials, and accepts any.
        format!("gs://{}/kv?endpoint={endpoint}&token=hunter2", bucket.0),
    ] {
        assert!(open(&same).await.exists(&key).await.expect("an answer"), "{same}");
    }
}

#[tokio::test]
async fn wrong_options_are_refused_without_secrets() {
    for wrong in [
        "gs://chunks?anonymous=true&token=hunter2",
        "gs://chunks?credentials=hunter2",
        "gs://chunks?endpoint=https://user:hunter2@h",
        "gs://chunks?endpoint=https://h%3Ftoken%3Dhunter2&anonymous=true",
    ] {
        let Err(e) = connectors::open(wrong).await else { panic!("{wrong} is refused") };
        assert_eq!(e.kind(), ErrorKind::InvalidOption, "{wrong}: {e}");
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
    }
    let two = connectors::open("external://localhost:0/kvconn.gcs/?connector_name=GCSConnector&anonymous=true").await;
    let Err(e) = two else { panic!("the URL names no bucket") };
    assert!(e.to_string().contains("`bucket`"), "{e}");
}
