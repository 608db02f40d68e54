//! Every scheme of a redis server takes a namespace, and a login from the URL, a file or the environment.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use connectors::{CacheKey, Connector, ErrorKind, MemoryObj};
use futures::TryStreamExt;
use kvconn_redis_server::{Certificates, Launch};

/// Cargo sets the variable, and its value is the password.
const VARIABLE: &str = "${CARGO_PKG_NAME}";
const PASSWORD: &str = env!("CARGO_PKG_NAME");

fn key() -> CacheKey {
    "org/model@1@0@ff@bfloat16".parse().expect("a key")
}

/// A URL without its login: scheme, hosts and path, options.
struct Place {
    scheme: &'static str,
    rest: String,
    options: String,
}

impl Place {
    fn new(scheme: &'static str, url: &str, options: &str) -> Self {
        let rest = url.split_once("://").expect("a URL").1.to_owned();
        Self { scheme, rest, options: options.to_owned() }
    }

    fn url(&self, login: &str, options: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        let all =
            [self.options.as_str(), options].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        format!("{}://{login}{at}{}?{all}", self.scheme, self.rest)
    }
}

async fn keys(store: &Connector) -> Vec<CacheKey> {
    store.list("").try_collect().await.expect("a listing")
}

/// Puts by one store of each namespace, and reads by each way to log in.
async fn check(place: &Place, secret: &Path) {
    let open = async |login: &str, options: &str| connectors::open(&place.url(login, options)).await;
    let file = format!("password_file={}", secret.display());
    let with_file = format!("namespace=a&username=kv&{file}");
    let variables = format!("namespace=a&username=kv&password={VARIABLE}");
    let url = place.url("kv", "");
    let a = open(&format!("kv:{PASSWORD}"), "namespace=a").await.unwrap_or_else(|e| panic!("{url}: {e}"));
    let b = open(&format!("kv:{PASSWORD}"), "namespace=b").await.unwrap_or_else(|e| panic!("{url}: {e}"));
    a.put(&key(), MemoryObj::from(vec![1; 99])).await.unwrap_or_else(|e| panic!("{url}: {e}"));
    assert_eq!(keys(&a).await, [key()], "{url}");
    assert_eq!(keys(&b).await, [], "{url}");
    assert!(b.get(&key()).await.unwrap().is_none() && !b.remove(&key()).await.unwrap(), "{url}");
    for (login, options) in [
        (format!("kv:{VARIABLE}"), "namespace=a".to_owned()),
        ("kv".to_owned(), format!("namespace=a&{file}")),
        ("kv".to_owned(), format!("namespace=a&password={VARIABLE}")),
        (String::new(), with_file),
        (String::new(), variables),
    ] {
        let store = open(&login, &options).await.unwrap_or_else(|e| panic!("{url}, {options}: {e}"));
        assert_eq!(store.get(&key()).await.unwrap().as_deref(), Some(&[1; 99][..]), "{url}, {options}");
    }
    let e = open("kv:hunter2", "").await.expect_err("another password");
    assert_eq!(e.kind(), ErrorKind::Denied, "{url}: {e}");
    assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
    assert!(a.remove(&key()).await.unwrap(), "{url}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_scheme_takes_a_namespace_and_a_login_from_everywhere() {
    let certificates = Arc::new(Certificates::new());
    let password = format!(">{PASSWORD}");
    let launch = Launch::new(&["--user", "kv", "on", &password, "~*", "&*", "+@all"]).tls(&certificates);
    let (server, cluster) = (launch.server(), launch.cluster(3, 0));
    let group = launch.sentinels(3, 0, &["--requirepass", PASSWORD]);
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("password");
    std::fs::write(&secret, format!("{PASSWORD}\n")).expect("a file");

    let tls = format!("tls_ca={}", certificates.ca_pem().display());
    let (node, nodes) = (server.tls_url(""), cluster.url(""));
    let cluster_tls = format!("{tls}&cluster=true");
    let sentinels = |login: &str| format!("{tls}&{login}");
    let service = format!("{}/redismaster", group.url(""));
    let places = [
        Place::new("redis", &server.url(""), ""),
        Place::new("redis", &node, &format!("{tls}&tls=true")),
        Place::new("redis", &nodes, &format!("{cluster_tls}&tls=true")),
        Place::new("rediss", &node, &tls),
        Place::new("rediss", &nodes, &cluster_tls),
        Place::new("redis-cluster", &nodes, &format!("{tls}&tls=true")),
        Place::new("rediss-cluster", &nodes, &tls),
        Place::new("redis-sentinel", &service, &sentinels(&format!("tls=true&sentinel_password={VARIABLE}"))),
        Place::new("rediss-sentinel", &service, &sentinels(&format!("sentinel_password_file={}", secret.display()))),
        Place::new("unix", &format!("://{}", server.socket_path().display()), ""),
        Place::new("resp", &server.url(""), ""),
        Place::new("resp", &nodes, &format!("{cluster_tls}&tls=true")),
        Place::new("resps", &node, &tls),
        Place::new("resps", &nodes, &cluster_tls),
        Place::new("valkey", &server.url(""), ""),
        Place::new("valkey", &nodes, &format!("{cluster_tls}&tls=true")),
        Place::new("valkeys", &node, &tls),
        Place::new("valkeys", &nodes, &format!("{tls}&mode=cluster&key_prefix=team")),
    ];
    for place in &places {
        check(place, &secret).await;
    }
    let mut tested: Vec<&str> = places.iter().map(|place| place.scheme).collect();
    tested.sort_unstable();
    tested.dedup();
    let is_one = |name: &&&connectors::registry::ConnectorEntry| {
        ["kvconn.redis", "kvconn.resp", "kvconn.valkey"].contains(&name.module())
    };
    let mut schemes: Vec<&str> =
        connectors::registry::connectors().iter().filter(is_one).flat_map(|entry| entry.schemes()).copied().collect();
    schemes.sort_unstable();
    assert_eq!(tested, schemes);
}
