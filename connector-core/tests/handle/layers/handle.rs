use super::*;

#[tokio::test(start_paused = true)]
async fn close_ends_a_listing_that_waits_and_it_does_not_pass_for_a_whole_one() {
    let connector = Connector::new("test", Scripted::new([]));
    let mut listed = connector.list("");
    assert_eq!(listed.next().await.unwrap().unwrap(), key());
    let (next, closed) = tokio::join!(listed.next(), connector.close());
    assert_eq!(next.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(closed.is_ok() && listed.next().await.is_none());
}

/// Panics in every operation.
struct Panics;

impl RemoteConnector for Panics {
    async fn exists(&self, _: &CacheKey) -> Result<bool> {
        panic!("the test wants a panic")
    }
    async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
        panic!("the test wants a panic")
    }
    async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
        panic!("the test wants a panic")
    }
    // Panics before it gives the future.
    fn ping(&self) -> impl Future<Output = Result<()>> + Send {
        if true {
            panic!("the test wants a panic");
        }
        async { Ok(()) }
    }
    async fn close(&self) -> Result<()> {
        panic!("the test wants a panic")
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        assert!(!prefix.is_empty(), "the test wants a panic");
        let panics = |n| if n == 1 { panic!("the test wants a panic") } else { Ok(key()) };
        futures::stream::iter(0..3).map(panics).boxed()
    }
}

#[tokio::test]
async fn a_connector_that_panics_is_an_error_with_its_name_and_operation() {
    let connector = Connector::new("acme.kv/Acme", Panics);
    let mut errors = vec![
        connector.exists(&key()).await.unwrap_err(),
        connector.get(&key()).await.unwrap_err(),
        connector.put(&key(), MemoryObj::from(vec![1])).await.unwrap_err(),
        connector.get_into(&key(), &mut MemoryObjMut::zeroed(8)).await.unwrap_err(),
        connector.ping().await.unwrap_err(),
        connector.list("").next().await.unwrap().unwrap_err(),
    ];
    let batch = connector.batched_get(&keys(3)).await;
    assert_eq!(batch.len(), 3);
    errors.extend(batch.into_iter().map(Result::unwrap_err));
    // A listing that panics in its middle must not look complete.
    let mut listed: Vec<_> = connector.list("m").collect().await;
    assert!(listed.len() == 2 && listed[0].is_ok(), "{listed:?}");
    errors.push(listed.pop().unwrap().unwrap_err());
    errors.push(connector.close().await.unwrap_err());
    for e in errors {
        assert!(e.kind() == ErrorKind::Other && e.message().contains("panicked"), "{e}");
        assert!(e.operation().is_some() && e.connector() == Some("acme.kv/Acme"), "{e}");
    }
}

#[tokio::test]
async fn one_destination_without_memory_fails_alone() {
    let connector = Connector::new("test", Scripted::new([]));
    let mut requests: Vec<_> = keys(3).into_iter().map(|key| (key, MemoryObjMut::zeroed(16))).collect();
    let _elsewhere = requests[1].1.take();
    let answers = connector.batched_get_into(&mut requests).await;
    let kinds: Vec<_> = answers.iter().map(|a| a.as_ref().err().map(connector_core::Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::InvalidInput), None]);
}
