//! The names of blobs, and keys that share one.

use super::Container;
use super::emulated::{key, keys, keys_that_share_a_name_differ, open, small};

/// `AzureConnector._blob_name` of LMCache 0.5.6 gave these names.
const LMCACHES: [(&str, &str); 4] = [
    ("facebook/opt-125m@1@0@1f@half", "facebook_opt-125m%401%400%401f%40half"),
    ("org_my/model-1.5~b@2@1@-7f@bfloat16", "org_my_model-1.5~b%402%401%40-7f%40bfloat16"),
    ("m@1@0@ab@fp8_e5m2@3", "m%401%400%40ab%40fp8_e5m2%403"),
    ("Qwen/Qwen2@8@0@ff@half@tag%a=b+c \u{e9}", "Qwen_Qwen2%408%400%40ff%40half%40tag%25a%3Db%2Bc%20%C3%A9"),
];

#[tokio::test]
async fn in_process_chunks_have_lmcaches_names() {
    let container = Container::new();
    let store = open(&container.url("", "")).await;
    for (seed, (text, name)) in LMCACHES.into_iter().enumerate() {
        store.put(&key(text), small(seed as u8)).await.expect("a put");
        assert!(container.has(name, seed as u8), "{text} has the name {name}");
    }
}

#[tokio::test]
async fn the_chunks_of_lmcache_are_read_and_listed_by_their_names() {
    let container = Container::new();
    let store = open(&container.url("", "")).await;
    container.write("org_my_model%401%400%401f%40half", "a chunk of LMCache");
    // The name has `_` for both signs, and the blob records no key.
    for text in ["org/my_model@1@0@1f@half", "org_my_model@1@0@1f@half"] {
        let found = store.get(&key(text)).await.expect("a get").expect("a hit");
        assert_eq!(found.to_vec(), b"a chunk of LMCache", "{text}");
    }
    assert_eq!(keys(&store).await, ["org_my_model@1@0@1f@half"]);
}

#[tokio::test]
async fn a_blob_of_another_key_with_the_same_name_is_a_miss() {
    let container = Container::new();
    let store = open(&container.url("/kv", "")).await;
    keys_that_share_a_name_differ(&store).await;
}

#[tokio::test]
async fn object_keys_keep_their_slashes_and_share_no_name() {
    let container = Container::new();
    let store = open(&container.url("", "")).await;
    let texts = ["org/my_model@01000100@0@1f", "org_my/model@01000100@0@1f", "org_my_model@01000100@0@1f@salt"];
    for (seed, text) in texts.into_iter().enumerate() {
        store.put(&key(text), small(seed as u8)).await.expect("a put");
    }
    assert!(container.has("org%2Fmy_model%4001000100%400%401f", 0));
    assert_eq!(keys(&store).await, texts);
    for (seed, text) in texts.into_iter().enumerate() {
        let found = store.get(&key(text)).await.expect("a get").expect("a hit");
        assert_eq!(found.to_vec(), small(seed as u8).to_vec(), "{text}");
    }
}

#[tokio::test]
async fn blobs_that_are_not_chunks_are_not_listed() {
    let container = Container::new();
    let store = open(&container.url("", "")).await;
    for name in ["notes.txt", "m@1@0@1f@half", "folder/m%401%400%401f%40half"] {
        container.write(name, "x");
    }
    assert_eq!(keys(&store).await, [""; 0]);
}
