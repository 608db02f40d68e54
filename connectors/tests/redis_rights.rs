//! The access lists that `docs/operate/security.md` names: each store works with these rights and no others, and needs each.
#![forbid(unsafe_code)]

use connectors::{CacheKey, Connector, Error, MemoryObj, Result};
use futures::StreamExt;
use kvconn_redis_server::{RedisCluster, RedisServer, Reply};

/// A row of the table: the schemes, the options, and the rights.
struct Row {
    schemes: Vec<String>,
    options: String,
    rights: Vec<String>,
}

/// The rows of the table below this heading.
fn rows(heading: &str) -> Vec<Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/security.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n#").next().unwrap_or_default();
    let spans = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let cells = section.lines().filter(|line| line.starts_with("| `"));
    let rows = cells.map(|line| {
        // A `|` inside a cell is written `\|`.
        let cells: Vec<String> = line.replace("\\|", "\0").split('|').map(|cell| cell.replace('\0', "|")).collect();
        let [_, schemes, options, rights, _] = &cells[..] else { panic!("not three cells: {line}") };
        let rights =
            spans(rights).iter().flat_map(|cell| cell.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        Row { schemes: spans(schemes), options: spans(options).concat(), rights }
    });
    rows.collect()
}

/// Makes a user with only these rights, on the names of one namespace.
fn allow(server: &RedisServer, user: &str, rights: &[String]) {
    let first = ["ACL", "SETUSER", user, "reset", "on", ">pw", "~team-a:*", "-@all"];
    let words: Vec<&str> = first.into_iter().chain(rights.iter().map(String::as_str)).collect();
    assert_eq!(server.cli(&words), Reply::Simple("OK".into()), "{words:?}");
}

fn key(n: usize) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().expect("a key")
}

fn chunk() -> MemoryObj {
    MemoryObj::from(vec![7; 10_000])
}

/// Opens the store and calls each operation. Gives the first refusal.
async fn use_all(url: &str, admin: &RedisServer, one_server: bool) -> std::result::Result<(), String> {
    let said = |operation: &'static str| move |e: Error| format!("{operation}: {e}");
    let store = connectors::open(url).await.map_err(said("open"))?;
    let is = |what: &str, is: bool| if is { Ok(()) } else { Err(format!("{what} is not done")) };
    store.put(&key(1), chunk()).await.map_err(said("put"))?;
    let got = store.get(&key(1)).await.map_err(said("get"))?;
    is("get", got.as_deref() == Some(&chunk()[..]))?;
    is("exists", store.exists(&key(1)).await.map_err(said("exists"))?)?;
    is("a miss", store.get(&key(99)).await.map_err(said("miss"))?.is_none())?;
    let items: Vec<_> = (1..9).map(|n| (key(n), chunk())).collect();
    store.batched_put(&items).await.into_iter().collect::<Result<Vec<_>>>().map_err(said("batched_put"))?;
    let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
    is("a lookup", store.batched_contains(&keys).await.map_err(said("batched_contains"))? == 8)?;
    let got = store.batched_get(&keys).await.into_iter().collect::<Result<Vec<_>>>().map_err(said("batched_get"))?;
    is("batched_get", got.iter().all(Option::is_some))?;
    is("list", listed(&store).await.map_err(said("list"))? == 8)?;
    store.ping().await.map_err(said("ping"))?;
    for server in store.servers().await.map_err(said("servers"))? {
        is("servers", server.error.is_none() && server.detail("info").is_none())?;
    }
    if one_server {
        renew(url, &store, admin).await?;
    }
    is("remove", store.remove(&key(1)).await.map_err(said("remove"))?)?;
    store.close().await.map_err(said("close"))
}

/// Reads that write: a renewed time to live, and a half that is removed.
async fn renew(url: &str, store: &Connector, admin: &RedisServer) -> std::result::Result<(), String> {
    let base = format!("team-a:{}", key(2));
    let name = if url.starts_with("redis:") { format!("{base}kv_bytes") } else { base.clone() };
    if url.contains("refresh_ttl=true") {
        admin.cli(&["EXPIRE", &name, "100"]);
        store.get(&key(2)).await.map_err(|e| e.to_string())?;
        if admin.cli(&["TTL", &name]).integer().is_none_or(|left| left <= 100) {
            return Err("`refresh_ttl` renews nothing".to_owned());
        }
    }
    if url.starts_with("redis:") {
        admin.cli(&["DEL", &format!("{base}kv_bytes")]);
        store.get(&key(2)).await.map_err(|e| e.to_string())?;
        if admin.cli(&["EXISTS", &format!("{base}metadata")]).integer() != Some(0) {
            return Err("the half is not removed".to_owned());
        }
    }
    Ok(())
}

async fn listed(store: &Connector) -> Result<usize> {
    Ok(store.list("").collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>>>()?.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_one_server_needs_these_rights_and_no_others() {
    let server = RedisServer::start(&[]);
    let rows = rows("One server");
    assert!(rows.len() > 4, "only {} rows", rows.len());
    for Row { schemes, options, rights } in rows {
        for scheme in schemes {
            let scheme = scheme.trim_end_matches("://");
            let url = |user| {
                let own = if scheme == "redis" { "&orphan_grace_sec=0" } else { "" };
                let (path, query) = place(&options);
                format!("{scheme}://{user}:pw@{}{path}?namespace=team-a{own}{query}", server.address())
            };
            server.cli(&["FLUSHALL"]);
            allow(&server, "all", &rights);
            use_all(&url("all"), &server, true).await.unwrap_or_else(|e| panic!("{scheme} {options}: {e}"));
            for left_out in &rights {
                let rest: Vec<String> = rights.iter().filter(|right| *right != left_out).cloned().collect();
                server.cli(&["FLUSHALL"]);
                allow(&server, "less", &rest);
                let refused = use_all(&url("less"), &server, true).await;
                assert!(refused.is_err(), "{scheme} {options}: nothing needs `{left_out}`");
            }
        }
    }
}

/// The path and the end of the query that these options make: `/2` names a database.
fn place(options: &str) -> (&str, String) {
    match options {
        "" => ("", String::new()),
        path if path.starts_with('/') => (path, String::new()),
        query => ("", format!("&{query}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_needs_these_rights_and_cannot_write() {
    let server = RedisServer::start(&[]);
    let rows = rows("A reader");
    assert_eq!(rows.len(), 2);
    for Row { schemes, rights, .. } in rows {
        for scheme in schemes {
            let scheme = scheme.trim_end_matches("://");
            let url = |login| format!("{scheme}://{login}{}?namespace=team-a", server.address());
            connectors::open(&url("")).await.unwrap().put(&key(1), chunk()).await.unwrap();
            allow(&server, "reader", &rights);
            let store = connectors::open(&url("reader:pw@")).await.unwrap();
            assert!(store.exists(&key(1)).await.unwrap());
            assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&chunk()[..]));
            assert_eq!(store.get(&key(2)).await.unwrap(), None);
            store.put(&key(1), chunk()).await.expect_err("a reader may not put");
            store.remove(&key(1)).await.expect_err("a reader may not remove");
            for left_out in &rights {
                let rest: Vec<String> = rights.iter().filter(|right| *right != left_out).cloned().collect();
                allow(&server, "less", &rest);
                let store = connectors::open(&url("less:pw@")).await.unwrap();
                let answers = (store.exists(&key(1)).await, store.get(&key(1)).await, store.get(&key(2)).await);
                let all_work = answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok();
                assert!(!all_work, "{scheme}: nothing needs `{left_out}`");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_cluster_needs_no_other_rights() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let rows = rows("A cluster");
    assert!(rows.len() > 1, "only {} rows", rows.len());
    for Row { schemes, options, rights } in rows {
        for scheme in schemes {
            let scheme = scheme.trim_end_matches("://");
            for i in 0..cluster.len() {
                cluster.node(i).cli(&["FLUSHALL"]);
                allow(cluster.node(i), "all", &rights);
            }
            let hosts = cluster.url(scheme);
            let url = format!("{}?namespace=team-a{}", hosts.replacen("://", "://all:pw@", 1), place(&options).1);
            use_all(&url, cluster.node(0), false).await.unwrap_or_else(|e| panic!("{scheme} {options}: {e}"));
        }
    }
}

/// Why the page warns of `scan`.
#[tokio::test]
async fn scan_shows_a_user_the_names_of_all_namespaces() {
    let server = RedisServer::start(&[]);
    server.cli(&["SET", "team-b:secret", "1"]);
    allow(&server, "all", &["+scan".to_owned(), "+get".to_owned()]);
    let mut client = server.client();
    client.command(&["AUTH", "all", "pw"]).unwrap();
    assert!(matches!(client.command(&["GET", "team-b:secret"]).unwrap(), Reply::Error(_)));
    let Reply::Array(answer) = client.command(&["SCAN", "0"]).unwrap() else { panic!("no answer") };
    assert_eq!(answer[1].items()[0].bytes(), Some(&b"team-b:secret"[..]));
}
