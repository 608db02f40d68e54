//! Names of objects, and keys that share one.

use connectors::ErrorKind;

use crate::{BUCKET, chunk, fake, key, open};

#[tokio::test]
async fn objects_have_lmcaches_names() {
    let fake = fake();
    let store = open(&fake, "").await;
    for (text, name) in [
        ("org/my_model@1@0@ff@half", "org_my_model@1@0@ff@half"),
        ("m@1@0@ff@half@7@user%ann b", "m@1@0@ff@half@7@user%ann b"),
        ("org/my_model@01050805@0@ff@salt", "org/my_model@01050805@0@ff@salt"),
        ("模型@01050805@0@ff", "模型@01050805@0@ff"),
    ] {
        store.put(&key(text), chunk(text)).await.unwrap();
        let object = fake.object(BUCKET, name).unwrap_or_else(|| panic!("{name} in {:?}", fake.keys(BUCKET)));
        assert_eq!(*object.bytes, text.as_bytes());
        assert_eq!(store.get(&key(text)).await.unwrap().as_deref(), Some(text.as_bytes()));
    }
    let below = open(&fake, "/team%20a/kv/").await;
    below.put(&key("m@1@0@ee@half"), chunk("x")).await.unwrap();
    assert!(fake.object(BUCKET, "team a/kv/m@1@0@ee@half").is_some(), "{:?}", fake.keys(BUCKET));
}

#[tokio::test]
async fn a_chunk_of_another_key_under_the_name_is_a_miss_and_stays() {
    let fake = fake();
    let store = open(&fake, "").await;
    let (slash, line) = (key("org/m@1@0@ff@half"), key("org_m@1@0@ff@half"));
    for (one, other) in [(&slash, &line), (&line, &slash)] {
        store.put(one, chunk("one")).await.unwrap();
        assert_eq!(store.get(one).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.get(other).await.unwrap(), None);
        assert!(store.exists(one).await.unwrap() && !store.exists(other).await.unwrap());
        let both = [one.clone(), other.clone()];
        let exist: Vec<bool> = store.batched_exists(&both).await.into_iter().map(Result::unwrap).collect();
        assert_eq!((exist, store.batched_contains(&both).await.unwrap()), (vec![true, false], 1));
        assert!(!store.remove(other).await.unwrap());
        let removed: Vec<bool> = store.batched_remove(&both).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(removed, [true, false]);
        assert!(!store.exists(one).await.unwrap());
    }
}

#[tokio::test]
async fn an_object_of_lmcache_belongs_to_each_key_of_its_name() {
    let fake = fake();
    fake.put_object(BUCKET, "org_my_model@1@0@ff@half", b"lmcache".to_vec(), &[]);
    let store = open(&fake, "").await;
    for text in ["org/my_model@1@0@ff@half", "org_my_model@1@0@ff@half"] {
        assert_eq!(store.get(&key(text)).await.unwrap().as_deref(), Some(&b"lmcache"[..]), "{text}");
        assert!(store.exists(&key(text)).await.unwrap());
    }
}

#[tokio::test]
async fn keys_that_a_client_would_change_have_names_of_their_own() {
    let fake = fake();
    for rest in ["", "/p"] {
        let store = open(&fake, rest).await;
        let keys =
            ["/models/m@01050805@0@ff", "models/m@01050805@0@ff", "./m@01050805@0@ff", "a//m@01050805@0@ff"].map(key);
        for key in &keys {
            store.put(key, chunk(key.as_str())).await.unwrap();
        }
        for key in &keys {
            assert_eq!(store.get(key).await.unwrap().as_deref(), Some(key.as_str().as_bytes()));
        }
        let mut listed = crate::listing::list(&store, "").await;
        listed.sort();
        let mut all = keys.to_vec();
        all.sort();
        assert_eq!(listed, all);
        assert_eq!(crate::listing::list(&store, "/models").await, [keys[0].clone()]);
        assert!(store.batched_remove(&keys).await.into_iter().all(|removed| removed.unwrap()));
    }
}

#[tokio::test]
async fn a_name_has_at_most_1024_bytes_with_its_prefix() {
    let fake = fake();
    for (rest, most) in [("", 1024), ("/abc", 1020)] {
        let store = open(&fake, rest).await;
        assert_eq!(store.capabilities().max_key_bytes, Some(most));
        let fields = "@1@0@ff@half";
        let longest = key(&format!("{}{fields}", "m".repeat(most - fields.len())));
        store.put(&longest, chunk("x")).await.unwrap();
        assert!(store.exists(&longest).await.unwrap());
        let longer = key(&format!("m{longest}"));
        let e = store.put(&longer, chunk("x")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidKey);
        assert!(e.to_string().contains(&format!("it can have {most}")), "{e}");
    }
}
