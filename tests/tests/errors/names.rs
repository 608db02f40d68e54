//! Errors for unknown names suggest a known name or list all of them.

use super::*;

#[tokio::test]
async fn a_misspelt_name_gives_a_suggestion() {
    use ErrorKind::{InvalidOption, NotFound};
    assert_refused(&[
        (
            "external://h:0/kvcon.memory/?connector_name=MemoryConnector",
            NotFound,
            &[
                "no connector has the module `kvcon.memory`",
                "did you mean `kvconn.memory`?",
                "kvconn.memory/MemoryConnector",
            ],
        ),
        (
            "external://h:0/kvconn.memory/?connector_name=MemoryConector",
            NotFound,
            &["module `kvconn.memory` has no connector `MemoryConector`", "did you mean `MemoryConnector`?"],
        ),
        ("memroy://a", NotFound, &["scheme `memroy://`", "did you mean `memory`?", "memory://"]),
        ("valky://h:1", NotFound, &["did you mean `valkey`?", "as in `valkey://user:password@host:6379/0`"]),
        ("file:///tmp/kv", NotFound, &["did you mean `fs`?", "as in `fs:///var/cache/kv`"]),
        ("lm://h:1", NotFound, &["known schemes: audit://", "`kvconn list`"]),
        ("hf3fs://b", NotFound, &["known schemes: audit://", "`kvconn list`"]),
        ("extrenal://h:0/m/?connector_name=C", NotFound, &["did you mean `external`?"]),
        ("memory://?capcity=1", InvalidOption, &["unknown URL option `capcity`", "did you mean `capacity`?"]),
        (
            "external://h:0/kvconn.fs/?connector_name=FSConnector&base_paht=/tmp",
            InvalidOption,
            &["open (kvconn.fs/FSConnector)", "unknown URL option `base_paht`", "did you mean `base_path`?"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_name_without_a_similar_one_gives_the_whole_list() {
    for url in ["cassandra://h:1", "external://h:0/cassandra/?connector_name=CassandraConnector"] {
        let e = connectors::open(url).await.unwrap_err();
        assert_is(&e, ErrorKind::NotFound, &["known", "memory", "add `use its_crate as _;`"]);
        assert!(!e.to_string().contains("did you mean"), "{e}");
    }
}
