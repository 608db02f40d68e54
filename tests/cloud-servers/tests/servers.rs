//! The servers that others wrote start, have buckets, and start again on their ports.

use std::process::Command;

use kvconn_cloud_servers::{Azurite, Credentials, FakeGcs, Moto, S3sFs, python_with_boto3};

/// boto3 puts an object into a bucket and gets it.
fn boto3(endpoint: &str, bucket: &str, credentials: &Credentials) -> Result<(), String> {
    let script = r#"
import sys, boto3
from botocore.config import Config
endpoint, bucket, key, secret = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret,
                  config=Config(retries={"total_max_attempts": 1}))
s3.put_object(Bucket=bucket, Key="a/b", Body=b"bytes")
assert s3.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"bytes"
"#;
    let output = Command::new(python_with_boto3())
        .args(["-c", script, endpoint, bucket, &credentials.access_key_id, &credentials.secret_access_key])
        .output()
        .expect("Python starts");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn s3s_fs_serves_buckets_and_checks_secrets() {
    let mut server = S3sFs::start();
    server.bucket("chunks");
    boto3(&server.endpoint(), "chunks", &server.credentials()).expect("s3s-fs serves boto3");
    let wrong = Credentials::new(&server.credentials().access_key_id, "wrong", None);
    let refused = boto3(&server.endpoint(), "chunks", &wrong).expect_err("the secret is wrong");
    assert!(refused.contains("SignatureDoesNotMatch"), "{refused}");
    server.restart();
    boto3(&server.endpoint(), "chunks", &server.credentials()).expect("s3s-fs serves boto3 after a restart");
}

#[test]
fn moto_serves_buckets() {
    let mut server = Moto::start();
    server.bucket("chunks");
    boto3(&server.endpoint(), "chunks", &server.credentials()).expect("moto serves boto3");
    server.restart();
    let refused = boto3(&server.endpoint(), "chunks", &server.credentials()).expect_err("a restarted server is empty");
    assert!(refused.contains("NoSuchBucket"), "{refused}");
}

#[test]
fn azurite_and_fake_gcs_have_buckets() {
    Azurite::start().bucket("chunks");
    FakeGcs::start().bucket("chunks");
}
