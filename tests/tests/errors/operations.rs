//! Errors of operations on an open or closed connector.

use super::*;

#[tokio::test]
async fn a_closed_connector_refuses_every_operation_and_the_error_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["memory://closed".to_owned(), format!("fs://{}", folder.path().display())] {
        let store = connectors::open(&url).await.unwrap();
        let (key, chunk) = (any_key(), MemoryObj::from(b"chunk".to_vec()));
        store.put(&key, chunk.clone()).await.unwrap();
        store.close().await.unwrap();
        store.close().await.expect("a second close succeeds");
        assert!(store.is_closed());

        let keys = [key.clone(), key.clone()];
        let mut dst = MemoryObjMut::zeroed(8);
        let mut into = [(key.clone(), MemoryObjMut::zeroed(8))];
        let mut errors = vec![
            ("exists", store.exists(&key).await.unwrap_err()),
            ("get", store.get(&key).await.unwrap_err()),
            ("put", store.put(&key, chunk.clone()).await.unwrap_err()),
            ("get_into", store.get_into(&key, &mut dst).await.unwrap_err()),
            ("remove", store.remove(&key).await.unwrap_err()),
            ("ping", store.ping().await.unwrap_err()),
            ("batched_contains", store.batched_contains(&keys).await.unwrap_err()),
            ("get_prefix", store.get_prefix(&keys).await.unwrap_err()),
            ("list", first_of_list(&store).await.unwrap_err()),
            ("list_entries", store.list_page("", None, 1).await.unwrap_err()),
        ];
        let batches = [
            ("batched_exists", errors_of(store.batched_exists(&keys).await), 2),
            ("batched_get", errors_of(store.batched_get(&keys).await), 2),
            ("batched_get_into", errors_of(store.batched_get_into(&mut into).await), 1),
            ("batched_put", errors_of(store.batched_put(&[(key.clone(), chunk)]).await), 1),
            ("batched_remove", errors_of(store.batched_remove(&keys).await), 2),
        ];
        for (operation, answers, expected) in batches {
            assert_eq!(answers.len(), expected, "{operation} answers every key");
            errors.extend(answers.into_iter().map(|e| (operation, e)));
        }
        for (operation, e) in errors {
            assert_is(&e, ErrorKind::Closed, &[operation, "Connector", "was closed"]);
            assert_eq!(e.operation(), Some(operation));
        }
        assert!(!dst.is_taken() && !into[0].1.is_taken(), "the caller keeps its memory");
    }
}

#[tokio::test]
async fn a_clone_of_a_closed_connector_is_closed_and_another_opened_by_the_same_url_is_not() {
    let store = connectors::open("memory://shared").await.unwrap();
    let (clone, other) = (store.clone(), connectors::open("memory://shared").await.unwrap());
    store.close().await.unwrap();
    assert_eq!(clone.exists(&any_key()).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!other.exists(&any_key()).await.unwrap());
}

#[tokio::test]
async fn an_operation_that_a_connector_lacks_is_unsupported_and_the_error_names_it() {
    let store = connectors::open("strict://h:0").await.unwrap();
    let key = any_key();
    for (operation, e) in [
        ("remove", store.remove(&key).await.unwrap_err()),
        ("ping", store.ping().await.unwrap_err()),
        ("list", first_of_list(&store).await.unwrap_err()),
    ] {
        let cannot = format!("this connector cannot `{operation}`");
        assert_is(&e, ErrorKind::Unsupported, &["tests.strict/StrictConnector", &cannot]);
    }
    let e = store.list_page("", None, 1).await.unwrap_err();
    assert_is(&e, ErrorKind::Unsupported, &["tests.strict/StrictConnector", "cannot `list`"]);
    let e = store.list_page("", None, 0).await.unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["a page of 0 keys", "ask for 1 key or more"]);
    let capabilities = store.capabilities();
    assert!(!capabilities.remove && !capabilities.list && !capabilities.ping, "the capabilities say so");
}

#[test]
fn opening_outside_of_a_runtime_is_an_error_with_a_hint() {
    let e = connectors::builder("memory://a").build().unwrap_err();
    assert_is(&e, ErrorKind::InvalidInput, &["needs a tokio runtime", "`#[tokio::main]`", "`.handle(..)`"]);
}
