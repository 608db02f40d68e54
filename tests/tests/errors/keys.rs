//! Invalid keys, and keys that a store cannot name.

use super::*;

#[test]
fn a_bad_key_is_refused_with_the_field_and_what_to_write_there() {
    for (text, parts) in [
        ("", &["it has 1 of the 5 fields"][..]),
        ("m@1@0@ff", &["it has 4 of the 5 fields `model@world_size@worker_id@hash@dtype`"]),
        ("m@1@0@ff", &["in an object key", "the second field has eight hex digits"]),
        ("me@corp@1@0@1f2e", &["it has 4 of the 5 fields", "with the model `me@corp`", "an object key's model"]),
        ("@1@0@ff@half", &["field 1 (model) is ``"]),
        ("m@x@0@ff@half", &["field 2 (world size) is `x`", "a whole number from 0 to 4294967295"]),
        ("m@01@0@ff@half", &["field 2 (world size) is `01`; write `1`"]),
        ("m@1@4294967296@ff@half", &["field 3 (worker id) is `4294967296`"]),
        ("m@1@0@FF@half", &["field 4", "is `FF`", "write `ff`"]),
        ("m@1@0@0xff@half", &["field 4", "write `ff`"]),
        ("m@1@0@xyz@half", &["field 4", "is `xyz`"]),
        ("m@1@0@ff@float16", &["field 5 (dtype) is `float16`", "half bfloat16 float double"]),
        ("m@1@0@ff@half@tag", &["field 6 (tag) is `tag`", "write `tag%value`, or a layer id in digits"]),
        ("m@1@0@ff@half@03", &["field 6 (layer id) is `03`; write `3`"]),
        ("m@1@0@ff@half@3@tag", &["field 7 (tag) is `tag`"]),
        (" m@1@0@ff@half", &["starts or ends with a space", "write `m@1@0@ff@half`"]),
        ("m@01050805@0@f", &["field 4 (chunk hash) is `f`", "two hex digits each"]),
        ("m@01050805@00@ff", &["field 3 (object group) is `00`; write `0`"]),
        ("m@01050805@0@ff@a/b", &["field 5 (salt)", "must not contain '/'"]),
    ] {
        assert_is(&text.parse::<CacheKey>().unwrap_err(), ErrorKind::InvalidKey, parts);
    }
    let e = CacheKey::parse("me@corp@1@0@1f2e", KeyKind::Object).unwrap_err();
    assert_is(&e, ErrorKind::InvalidKey, &["field 2 (kv rank) is `corp`", "no `@` in the model"]);
}

#[tokio::test]
async fn every_operation_refuses_a_key_that_the_store_cannot_name_with_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_fs(folder.path()).await;
    let key: CacheKey = format!("{}@1@0@ff@half", "m".repeat(300)).parse().unwrap();
    let chunk = MemoryObj::from(b"chunk".to_vec());
    let errors = [
        store.put(&key, chunk).await.unwrap_err(),
        store.get(&key).await.unwrap_err(),
        store.exists(&key).await.unwrap_err(),
        store.remove(&key).await.unwrap_err(),
    ];
    for e in errors {
        assert_is(&e, ErrorKind::InvalidKey, &["kvconn.fs/FSConnector", "317 bytes", "at most 255"]);
    }
}
