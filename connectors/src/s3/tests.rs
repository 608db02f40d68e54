//! URLs and options: the address that they give, and the errors of wrong ones.

use std::time::Duration;

use connector_core::{ConnectorContext, LMCacheEngineConfig, Result, builder};

use super::S3Options;
use super::address::Address;
use super::connector::service;
use super::credentials::Seen;

/// Needs a runtime, as each context does.
fn context(url: &str, config: LMCacheEngineConfig) -> ConnectorContext {
    builder(url).config(config).build().unwrap()
}

fn address_with(url: &str, config: LMCacheEngineConfig) -> Result<Address> {
    let ctx = context(url, config);
    let options: S3Options = ctx.options()?;
    options.check_credentials()?;
    Address::of(&options, &ctx)
}

fn address(url: &str) -> Result<Address> {
    address_with(url, LMCacheEngineConfig::default())
}

/// Bucket, prefix, server, region, and whether the bucket is in the host.
fn shown(address: &Address) -> (&str, &str, &str, &str, bool) {
    (&address.bucket, &address.prefix, &address.endpoint, &address.region, address.is_virtual)
}

#[tokio::test]
async fn a_url_gives_bucket_prefix_server_and_region() {
    let amazon = "https://s3.us-east-1.amazonaws.com";
    let local = "http://127.0.0.1:9000";
    for (url, expected) in [
        ("s3://kv-cache", ("kv-cache", "", amazon, "us-east-1", true)),
        ("s3://kv-cache/", ("kv-cache", "", amazon, "us-east-1", true)),
        ("s3://kv-cache/a/b/", ("kv-cache", "a/b", amazon, "us-east-1", true)),
        ("s3://kv-cache/a%20b", ("kv-cache", "a b", amazon, "us-east-1", true)),
        (
            "s3://kv-cache?region=cn-north-1",
            ("kv-cache", "", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", true),
        ),
        ("s3://kv-cache?style=path", ("kv-cache", "", amazon, "us-east-1", false)),
        ("s3://kv-cache/p?endpoint=http://127.0.0.1:9000", ("kv-cache", "p", local, "us-east-1", false)),
        ("s3://kv-cache?endpoint=http://127.0.0.1:9000/&style=virtual", ("kv-cache", "", local, "us-east-1", true)),
        ("s3://kv-cache?endpoint=127.0.0.1:9000&disable_tls=true", ("kv-cache", "", local, "us-east-1", false)),
        ("s3://KV_cache?endpoint=http://127.0.0.1:9000", ("KV_cache", "", local, "us-east-1", false)),
        ("s3://kv.cache?endpoint=http://127.0.0.1:9000", ("kv.cache", "", local, "us-east-1", false)),
        (
            "s3://kv-cache?endpoint=https://abc.r2.cloudflarestorage.com&region=auto",
            ("kv-cache", "", "https://abc.r2.cloudflarestorage.com", "auto", false),
        ),
        (
            "s3://kv-cache?endpoint=https://s3.eu-west-1.amazonaws.com",
            ("kv-cache", "", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", true),
        ),
        (
            "s3://kv-cache.s3.eu-west-1.amazonaws.com/p",
            ("kv-cache", "p", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", true),
        ),
        ("s3://kv-cache.s3.amazonaws.com", ("kv-cache", "", "https://s3.amazonaws.com", "us-east-1", true)),
        ("s3://kv.cache.s3.amazonaws.com", ("kv.cache", "", "https://s3.amazonaws.com", "us-east-1", false)),
        (
            "s3://kv-cache.s3-eu-west-1.amazonaws.com",
            ("kv-cache", "", "https://s3-eu-west-1.amazonaws.com", "eu-west-1", true),
        ),
        (
            "s3://kv-cache.s3.dualstack.eu-west-1.amazonaws.com",
            ("kv-cache", "", "https://s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", true),
        ),
        (
            "s3://kv-cache.s3.cn-north-1.amazonaws.com.cn",
            ("kv-cache", "", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", true),
        ),
        (
            "s3://kv--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com",
            ("kv--usw2-az1--x-s3", "", "https://s3express-usw2-az1.us-west-2.amazonaws.com", "us-west-2", true),
        ),
        (
            "s3://kv-cache?endpoint=https://bucket.vpce-1a2b-5e6f.s3.eu-west-1.vpce.amazonaws.com",
            ("kv-cache", "", "https://bucket.vpce-1a2b-5e6f.s3.eu-west-1.vpce.amazonaws.com", "eu-west-1", true),
        ),
        ("s3://kv-cache.minio.local:9000", ("kv-cache", "", "https://minio.local:9000", "us-east-1", true)),
        (
            "s3://kv-cache.minio.local:9000/p?disable_tls=true",
            ("kv-cache", "p", "http://minio.local:9000", "us-east-1", true),
        ),
        ("s3://kv-cache.minio.local?style=virtual", ("kv-cache", "", "https://minio.local", "us-east-1", true)),
        (
            "external://minio:9000/kvconn.s3/?connector_name=S3Connector&bucket=kv-cache&prefix=/p/&disable_tls=true",
            ("kv-cache", "p", "http://minio:9000", "us-east-1", false),
        ),
        (
            "external://h:0/kvconn.s3/?connector_name=S3Connector&bucket=kv-cache&region=eu-west-1",
            ("kv-cache", "", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", true),
        ),
        (
            "external://h:1/kvconn.s3/?connector_name=S3Connector&bucket=kv-cache&endpoint=http://127.0.0.1:9000",
            ("kv-cache", "", local, "us-east-1", false),
        ),
    ] {
        let found = address(url).unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(shown(&found), expected, "{url}");
    }
}

#[tokio::test]
async fn a_plugin_takes_lmcaches_settings() {
    let lmcache = || {
        LMCacheEngineConfig::default()
            .with_extra_config("s3_region", "eu-west-1")
            .with_extra_config("s3_num_io_threads", 32)
            .with_extra_config("s3_prefer_http2", true)
            .with_extra_config("s3_enable_s3express", false)
            .with_extra_config("disable_tls", true)
            .with_extra_config("aws_access_key_id", "AKIA")
            .with_extra_config("aws_secret_access_key", "hunter2")
    };
    let ctx = context("plugin://s3", lmcache());
    let options: S3Options = ctx.options().unwrap();
    assert_eq!((options.cloud.connections, options.access_key_id.as_deref()), (32, Some("AKIA")));
    assert_eq!(options.secret_access_key.as_deref(), Some("hunter2"));
    assert!(!format!("{options:?}").contains("hunter2") && !format!("{options:?}").contains("AKIA"));

    let own = lmcache()
        .with_extra_config("remote_storage_plugin.s3.bucket", "kv-cache")
        .with_extra_config("remote_storage_plugin.s3.endpoint", "minio:9000");
    let found = address_with("plugin://s3", own).unwrap();
    assert_eq!(shown(&found), ("kv-cache", "", "http://minio:9000", "eu-west-1", false));

    let mut by_url = lmcache();
    by_url.remote_url = Some("s3://kv-cache.minio.local:9000/p".to_owned());
    let found = address_with("plugin://s3", by_url).unwrap();
    assert_eq!(shown(&found), ("kv-cache", "p", "http://minio.local:9000", "eu-west-1", true));
    let mut with_keys = lmcache();
    with_keys.remote_url = Some("s3://AKIA:hunter2@kv-cache.minio.local:9000/p".to_owned());
    let e = address_with("plugin://s3", with_keys).expect_err("a password in the URL").to_string();
    assert!(e.contains("`access_key_id`") && !e.contains("hunter2"), "{e}");
    for endpoint in ["s3://AKIA:hunter2@kv-cache", "s3://AKIA:hunter2@kv-cache.minio.local:9000"] {
        let with_keys = LMCacheEngineConfig::default().with_extra_config("s3_endpoint", endpoint);
        let e = address_with("plugin://s3", with_keys).expect_err("a password in the endpoint").to_string();
        assert!(e.contains("`access_key_id`") && !e.contains("hunter2"), "{e}");
    }

    let server = lmcache().with_extra_config("s3_endpoint", "s3://kv-cache.minio.local:9000");
    let found = address_with("plugin://s3", server).unwrap();
    assert_eq!(shown(&found), ("kv-cache", "", "http://minio.local:9000", "eu-west-1", true));
}

#[tokio::test]
async fn a_wrong_url_or_option_says_what_to_write() {
    for (url, why) in [
        ("s3://", "names no bucket; write `s3://bucket/prefix`"),
        ("plugin://s3", "names no bucket"),
        ("s3://kv", "it has 2 characters, and a bucket has 3 to 63"),
        ("s3://KV-cache", "lower-case letters, digits, `-` and `.`, but not 'K'"),
        ("s3://kv_cache", "but not '_'"),
        ("s3://kv-cache-", "it starts and ends with a letter or a digit"),
        ("s3://my.bucket", "write `s3://my.bucket.s3.amazonaws.com`"),
        ("s3://localhost:9000/kv-cache", "write `s3://bucket?endpoint=http://localhost:9000`"),
        ("s3://127.0.0.1:9000/kv-cache", "names a server, but no bucket"),
        ("s3://kv-cache:9000?endpoint=http://h:1", "has a port, and the option `endpoint` names the server"),
        ("s3://kv-cache.s3.eu-west-1.amazonaws.com?region=us-east-1", "`eu-west-1` in the host and `us-east-1`"),
        ("s3://kv-cache.s3.amazonaws.com?endpoint=http://h:1", "both name the server"),
        ("s3://kv-cache?bucket=other", "both name the bucket"),
        ("s3://kv-cache/p?prefix=q", "both name the prefix"),
        ("s3://kv-cache/a/../b", "the prefix has an empty part, a `.`"),
        ("s3://kv-cache/a//b", "the prefix has an empty part"),
        ("s3://kv.cache.s3.amazonaws.com?style=virtual", "write `style=path`"),
        ("s3://kv-cache?style=host", "`style`"),
        ("s3://kv-cache?endpoint=ftp://h", "neither `http` nor `https`"),
        ("s3://kv-cache?endpoint=http://h/kv-cache", "it has a path or a query"),
        ("s3://kv-cache?endpoint=http://:9000", "it names no host"),
        ("s3://kv-cache?endpoint=http://h:99999", "its port is not a number from 0 to 65535"),
        ("s3://kv-cache?endpoint=https://kv-cache.s3.eu-west-1.amazonaws.com", "its host begins with a bucket"),
        ("s3://kv-cache?region=eu west", "letters, digits and `-`"),
        ("s3://kv-cache?region=x.test/", "letters, digits and `-`"),
        ("s3://kv-cache?endpoint=http://u:hunter2@h", "it has a user or a password"),
        ("s3://kv-cache?endpoint=https://h&disable_tls=true", "it is `https`, and `disable_tls` is set"),
        ("s3://kv-cache?access_key_id=hunter2", "option `access_key_id` is set without `secret_access_key`"),
        ("s3://kv-cache?secret_access_key=hunter2", "`secret_access_key` is set without `access_key_id`"),
        ("s3://kv-cache?session_token=hunter2", "set the keys that belong to the token"),
        ("s3://kv-cache?anonymous=true&profile=dev", "options `anonymous` and `profile` are both set"),
        ("s3://kv-cache?external_id=x", "option `external_id` is set without `role_arn`"),
        ("s3://kv-cache?sse_kms_key_id=x", "needs `server_side_encryption=aws:kms`"),
        ("s3://kv-cache?access_key_id_file=key", "not an absolute path"),
        ("s3://kv-cache?part_bytes=1", "option `part_bytes`"),
    ] {
        let e = match address(url) {
            Err(e) => e,
            Ok(found) => {
                let options: S3Options = context(url, LMCacheEngineConfig::default()).options().unwrap();
                options.cloud.check().expect_err(&format!("{url} gives {found:?}"))
            }
        };
        let text = e.to_string();
        assert!(text.contains(why), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{url}: {text}");
    }
}

#[tokio::test]
async fn requests_have_the_bucket_in_the_host_or_in_the_path() {
    for (url, object) in [
        ("s3://kv-cache/p?{keys}", "https://kv-cache.s3.us-east-1.amazonaws.com/p/m%401"),
        ("s3://kv-cache?style=path&{keys}", "https://s3.us-east-1.amazonaws.com/kv-cache/m%401"),
        ("s3://kv.cache.s3.eu-west-1.amazonaws.com?{keys}", "https://s3.eu-west-1.amazonaws.com/kv.cache/m%401"),
        (
            "s3://kv-cache.s3.dualstack.eu-west-1.amazonaws.com?{keys}",
            "https://kv-cache.s3.dualstack.eu-west-1.amazonaws.com/m%401",
        ),
        (
            "s3://kv--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com?{keys}",
            "https://kv--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com/m%401",
        ),
        (
            "s3://kv--usw2-az1--x-s3?region=us-west-2&{keys}",
            "https://kv--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com/m%401",
        ),
        ("s3://kv-cache.minio.local:9000/p?disable_tls=true&{keys}", "http://kv-cache.minio.local:9000/p/m%401"),
        ("s3://minio?endpoint=http://minio.local:9000&{keys}", "http://minio.local:9000/minio/m%401"),
        ("s3://kv-cache?endpoint=http://[::1]:9000&{keys}", "http://[::1]:9000/kv-cache/m%401"),
    ] {
        let ctx = context(
            &url.replace("{keys}", "access_key_id=AKIA&secret_access_key=hunter2"),
            LMCacheEngineConfig::default(),
        );
        let options: S3Options = ctx.options().unwrap();
        let address = Address::of(&options, &ctx).unwrap();
        let operator = opendal::Operator::new(service(&options, &address, &Seen::default()))
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        let request = operator.presign_read("m@1", Duration::from_secs(60)).await.unwrap();
        let sent = request.uri().to_string();
        assert_eq!(sent.split('?').next(), Some(object), "{url}");
    }
}
