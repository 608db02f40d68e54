use std::collections::VecDeque;

use super::*;

/// Gives these answers, one after the other.
#[derive(Debug)]
struct Script(Mutex<VecDeque<Result<Option<Credential>>>>);

impl ProvideCredential for Script {
    type Credential = Credential;

    async fn provide_credential(&self, _: &Context) -> Result<Option<Credential>> {
        self.0.lock().unwrap().pop_front().expect("the chain asks no more often")
    }
}

fn chain(name: &'static str, answers: impl IntoIterator<Item = Result<Option<Credential>>>) -> Chain {
    let script = Script(Mutex::new(answers.into_iter().collect()));
    Chain { sources: vec![Source::new(name, script)], seen: Seen::default() }
}

fn valid_for(seconds: u64) -> Result<Option<Credential>> {
    let (access_key_id, secret_access_key) = ("id".to_owned(), "secret".to_owned());
    let expires_in = Some(Timestamp::now() + Duration::from_secs(seconds));
    Ok(Some(Credential { access_key_id, secret_access_key, session_token: None, expires_in }))
}

fn unreachable() -> Result<Option<Credential>> {
    Err(Error::unexpected("no connection").set_retryable(true))
}

#[tokio::test]
async fn the_last_credentials_serve_while_their_source_is_unreachable() {
    let chain = chain("the source", [valid_for(60), unreachable(), valid_for(0), unreachable(), valid_for(60)]);
    let context = Context::new();
    for _ in 0..3 {
        assert!(chain.provide_credential(&context).await.unwrap().is_some());
    }
    // These have expired.
    assert!(chain.provide_credential(&context).await.is_err());
    let why = chain.seen.failure.get().unwrap();
    assert_eq!((why.kind(), why.is_temporary()), (ErrorKind::Unavailable, true));
    assert!(why.to_string().contains("the source: no connection"), "{why}");

    tokio::time::sleep(FAILS_FOR).await;
    assert!(chain.provide_credential(&context).await.unwrap().is_some());
    assert!(chain.seen.failure.get().is_none());
}

/// OpenDAL asks for credentials on behalf of one call after the other.
#[tokio::test]
async fn calls_that_wait_for_a_source_share_its_failure() {
    let chain = chain("the source", [unreachable()]);
    for _ in 0..64 {
        assert!(chain.provide_credential(&Context::new()).await.is_err());
    }
}

#[tokio::test]
async fn a_host_without_a_metadata_service_has_no_credentials() {
    let chain = chain(INSTANCE, [unreachable()]);
    assert!(chain.provide_credential(&Context::new()).await.is_err());
    let why = chain.seen.failure.get().unwrap();
    assert_eq!((why.kind(), why.is_temporary()), (ErrorKind::Denied, false));
}
