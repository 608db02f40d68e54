//! `open`: the check of the bucket, and where credentials come from.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use connectors::ErrorKind;
use kvconn_cloud_servers::{Fault, Operation};

use crate::{BUCKET, chunk, fake, key, open, url};

#[tokio::test]
async fn a_wrong_bucket_key_or_region_fails_at_once() {
    let fake = fake();
    let right = url(&fake.endpoint(), "?retries=0");
    connectors::open(&right).await.unwrap();
    let wrong_bucket = right.replace(BUCKET, "no-such-bucket");
    let e = connectors::open(&wrong_bucket).await.unwrap_err();
    assert!(e.to_string().contains("no-such-bucket"), "{e}");
    let wrong_secret = right.replace("EXAMPLEKEY", "EXAMPLEKEX");
    let e = connectors::open(&wrong_secret).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    let unknown_key = right.replace("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLX");
    let e = connectors::open(&unknown_key).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    fake.set_region("eu-west-1");
    let e = connectors::open(&right).await.unwrap_err();
    assert!(e.to_string().contains("eu-west-1"), "{e}");
    connectors::open(&format!("{right}&region=eu-west-1")).await.unwrap();
}

/// Amazon answers 403 and not 404 to a reader without the right to list.
#[tokio::test]
async fn a_bucket_opens_without_the_right_to_list() {
    let fake = fake();
    fake.put_object(BUCKET, "m@1@0@ff@half", b"x".to_vec(), &[]);
    fake.always(Fault::refuse(403, "AccessDenied", "Access Denied").key("kvconn-ping"));
    fake.always(Fault::refuse(403, "AccessDenied", "Access Denied").on([Operation::List]));
    let store = open(&fake, "").await;
    assert!(store.exists(&key("m@1@0@ff@half")).await.unwrap());
    store.put(&key("m@1@0@ee@half"), chunk("x")).await.unwrap();
}

#[tokio::test]
async fn a_public_bucket_opens_without_credentials() {
    let fake = fake();
    fake.allow_anonymous(BUCKET);
    fake.put_object(BUCKET, "m@1@0@ff@half", b"x".to_vec(), &[]);
    let store = connectors::open(&format!("s3://{BUCKET}?endpoint={}&anonymous=true", fake.endpoint())).await.unwrap();
    assert!(store.exists(&key("m@1@0@ff@half")).await.unwrap());
}

#[tokio::test]
async fn secrets_come_from_files() {
    let fake = fake();
    let dir = tempfile::tempdir().unwrap();
    let credentials = fake.credentials();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    };
    let id = file("id", &credentials.access_key_id);
    let secret = file("secret", &credentials.secret_access_key);
    let url =
        format!("s3://{BUCKET}?endpoint={}&access_key_id_file={id}&secret_access_key_file={secret}", fake.endpoint());
    connectors::open(&url).await.unwrap();
    std::fs::write(&secret, "wrong").unwrap();
    assert_eq!(connectors::open(&url).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn an_open_is_lazy_or_fails_without_a_server() {
    let mut fake = fake();
    let url = url(&fake.endpoint(), "?retries=0");
    fake.stop();
    let e = connectors::open(&url).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    let store = connectors::open(&format!("{url}&connect=lazy")).await.unwrap();
    fake.resume();
    assert!(!store.exists(&key("m@1@0@ff@half")).await.unwrap());
}

#[tokio::test]
async fn a_lazy_open_succeeds_before_a_server_that_never_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for options in ["", "&timeout_ms=100"] {
        connectors::open(&format!("{}{options}", url(&endpoint, "?connect=lazy"))).await.unwrap();
    }
}

#[tokio::test]
async fn all_forms_of_the_url_open_one_store() {
    let fake = fake();
    let store = open(&fake, "/kv").await;
    store.put(&key("m@1@0@ff@half"), chunk("x")).await.unwrap();
    let options = url(&fake.endpoint(), "").split_once('?').unwrap().1.to_owned();
    let port = fake.port();
    let keys = options.split_once('&').unwrap().1;
    for url in [
        format!("external://h:0/kvconn.s3/?connector_name=S3Connector&bucket={BUCKET}&prefix=kv&{options}"),
        format!("external://{BUCKET}:0/kvconn.s3/?connector_name=S3Connector&path=/kv&{options}"),
        format!(
            "external://127.0.0.1:{port}/kvconn.s3/?connector_name=S3Connector&bucket={BUCKET}&prefix=kv&disable_tls=true&{keys}"
        ),
    ] {
        let store = connectors::open(&url).await.unwrap();
        assert!(store.exists(&key("m@1@0@ff@half")).await.unwrap(), "{url}");
    }
}

/// The variable with the URL that a child of the next test opens.
const CHILD: &str = "KVCONN_TEST_URL";

/// The environment is the process's, so each case is another process: this test alone, in a new environment.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_profiles_and_proxies_come_from_the_environment() {
    if let Ok(url) = std::env::var(CHILD) {
        match connectors::open(&url).await {
            Ok(_) => println!("opened"),
            Err(e) => println!("failed: {:?}: {e}", e.kind()),
        }
        return;
    }
    let fake = fake();
    let credentials = fake.credentials();
    let (id, secret) = (credentials.access_key_id.as_str(), credentials.secret_access_key.as_str());
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".aws")).unwrap();
    let profile = format!("[dev]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(dir.path().join(".aws/credentials"), profile).unwrap();
    let made = dir.path().join("made.json");
    let keys = format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "{secret}"}}"#);
    std::fs::write(&made, keys).unwrap();
    let config = format!(
        "[profile made]\ncredential_process = /bin/cat {}\n[profile broken]\ncredential_process = /bin/cat /no-such-file\n",
        made.display()
    );
    std::fs::write(dir.path().join(".aws/config"), config).unwrap();
    let child = |url: &str, variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "opening::credentials_profiles_and_proxies_come_from_the_environment";
        command.args(["--exact", name, "--nocapture"]).env_clear().env("HOME", dir.path());
        command.env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
        command.env(CHILD, url);
        let output = command.output().expect("the test runs itself");
        String::from_utf8(output.stdout).expect("text")
    };
    for (options, variables, says) in [
        ("", &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)][..], "opened"),
        ("&profile=dev", &[], "opened"),
        ("", &[("AWS_PROFILE", "dev")], "opened"),
        ("&profile=made", &[], "opened"),
        ("&profile=broken", &[], "failed: Denied"),
        ("&profile=absent", &[], "failed: Denied"),
        (
            "&profile=absent",
            &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)],
            "`absent` has no credentials",
        ),
        ("&profile=dev", &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", "hunter2")], "opened"),
        ("&profile=broken", &[], "the profile's `credential_process`: credential process failed with status 1"),
        ("", &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_PROFILE", "dev")], "opened"),
        ("", &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")], "failed: Unavailable"),
        ("&access_key_id=${KV_ID}&secret_access_key=${KV_SECRET}", &[("KV_ID", id), ("KV_SECRET", secret)], "opened"),
        ("&anonymous=true", &[("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")], "opened"),
        ("", &[], "kvconn has no credentials for bucket"),
        ("", &[], "`access_key_id` and `secret_access_key`"),
        ("", &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", "hunter2")], "SignatureDoesNotMatch"),
    ] {
        let said = child(&format!("s3://{BUCKET}?endpoint={}&retries=0{options}", fake.endpoint()), variables);
        assert!(said.contains(says), "{options} {says}: {said}");
        assert!(!said.contains(secret) && !said.contains("hunter2"), "{said}");
    }

    // The fake is a proxy for each name of a host, and reads the bucket from the name.
    let keys = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret), ("HTTP_PROXY", &*fake.endpoint())];
    for url in
        ["s3://kv-cache.minio.test:9000/p?disable_tls=true", "s3://kv-cache?endpoint=http://s3.test&style=virtual"]
    {
        let said = child(url, &keys);
        assert!(said.contains("opened"), "{url}: {said}");
    }
    let said = child("s3://no-such-bucket.minio.test:9000?disable_tls=true", &keys);
    assert!(said.contains("NoSuchBucket"), "{said}");
}

/// A server without ranges that refuses a HEAD without a reason, and whose objects have no end.
#[tokio::test]
async fn a_question_whether_an_object_exists_reads_none_of_its_bytes() {
    let port = kvconn_redis_server::fake::listen(|mut stream| {
        let mut request = BufReader::new(stream.try_clone().expect("the same socket"));
        loop {
            let lines = request.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let lines: Vec<String> = lines.collect();
            match lines.first().map(|line| line.starts_with("HEAD")) {
                None => return,
                Some(true) => {
                    if stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
                Some(false) => {
                    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec();
                    while stream.write_all(&answer).is_ok() {
                        answer = vec![0; 1 << 20];
                    }
                    return;
                }
            }
        }
    });
    let url = format!(
        "s3://{BUCKET}?endpoint=http://127.0.0.1:{port}&region=r&access_key_id=a&secret_access_key=s&style=path"
    );
    let questions = async {
        let store = connectors::open(&url).await.unwrap();
        store.ping().await.unwrap();
        assert_eq!(store.exists(&key("m@1@0@ff@half")).await.unwrap_err().kind(), ErrorKind::Denied);
    };
    tokio::time::timeout(Duration::from_secs(60), questions).await.expect("the bodies are not read");
}
