//! Requests that move no chunk: whether chunks exist, and removals.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use connector_core::{CacheKey, Result};
use futures::stream::{self, Stream, StreamExt};
use http::StatusCode;
use opendal::{ErrorKind, Metadata, Operator};

use super::errors::{find, is_unexplained};
use super::refusal::Refused;
use super::store::Store;

/// The object that `ping` asks for. It does not exist, because its name is not a key's.
const ABSENT: &str = "kvconn-ping";
/// The most names of one bulk request on S3.
const BULK: usize = 1000;

impl Store {
    pub(crate) async fn exists(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        self.stat(key.clone()).await.map(|found| self.is_chunk(found.as_ref()))
    }

    pub(crate) async fn batched_exists(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.stats(keys).map(|found| found.map(|found| self.is_chunk(found.as_ref()))).collect().await
    }

    /// Stops at the first key that is missing: the requests for later keys are dropped.
    pub(crate) async fn batched_contains(self: &Arc<Self>, keys: &[CacheKey]) -> Result<usize> {
        let mut stats = self.stats(keys);
        for run in 0..keys.len() {
            match stats.next().await {
                Some(Ok(found)) if self.is_chunk(found.as_ref()) => {}
                Some(Err(e)) if run == 0 => return Err(e),
                _ => return Ok(run),
            }
        }
        Ok(keys.len())
    }

    pub(crate) async fn ping(self: &Arc<Self>) -> Result<()> {
        self.probe().await.map(drop)
    }

    /// Asks for an object that does not exist. Unlike a listing, this needs no right of its own. Unlike a HEAD, the answer
    /// has a body that says whether the bucket exists.
    ///
    /// `false` if the server refuses to say whether the object exists: Amazon does so without the right to list, and
    /// the chunks may be readable all the same.
    pub(super) async fn probe(self: &Arc<Self>) -> Result<bool> {
        self.request(|operator| async move {
            match ask(&operator, ABSENT).await {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
                Err(e) if is_unsaid(&e) => Ok(false),
                Err(e) => Err(e),
            }
        })
        .await
    }

    /// Removes the key's object, unless it is another key's.
    pub(crate) async fn remove(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        if self.stat(key.clone()).await?.is_none() {
            return Ok(false);
        }
        self.delete(self.name(key)?.into_owned()).await.map(|()| true)
    }

    /// Asks for all objects at once, and removes those that exist with as few requests as the service allows.
    pub(crate) async fn batched_remove(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<Result<bool>> {
        // An object that `get` cannot read is removed, too.
        let mut answers: Vec<_> = self.stats(keys).map(|found| found.map(|found| found.is_some())).collect().await;
        let found = |answers: &[Result<bool>]| -> Vec<usize> {
            answers.iter().enumerate().filter(|(_, answer)| matches!(answer, Ok(true))).map(|(at, _)| at).collect()
        };
        for part in found(&answers).chunks(BULK) {
            let names: Vec<String> = part.iter().map(|&at| self.names.name(&keys[at]).into_owned()).collect();
            for (&at, deleted) in part.iter().zip(self.delete_all(names).await) {
                answers[at] = deleted.map(|()| true);
            }
        }
        answers
    }

    /// Whether `get` can read the object. Otherwise an engine would find it for ever, and never replace it.
    fn is_chunk(&self, found: Option<&Metadata>) -> bool {
        found.is_some_and(|metadata| self.layout_of(metadata).is_ok())
    }

    /// The metadata of the keys' objects, in order, with many requests at once.
    pub(super) fn stats<'a>(
        self: &'a Arc<Self>,
        keys: &'a [CacheKey],
    ) -> impl Stream<Item = Result<Option<Metadata>>> + Send + Unpin + 'a {
        stream::iter(keys.to_vec()).map(|key| self.stat(key)).buffered(self.settings.connections).boxed()
    }

    /// The metadata of the key's object. `None` if there is none, or if it is another key's.
    async fn stat(self: &Arc<Self>, key: CacheKey) -> Result<Option<Metadata>> {
        let name = self.name(&key)?.into_owned();
        let found = self.stat_name(name).await?;
        Ok(found.filter(|metadata| self.names.is_of(&key, metadata)))
    }

    /// The metadata of an object. `None` if there is none.
    pub(super) async fn stat_name(self: &Arc<Self>, name: String) -> Result<Option<Metadata>> {
        self.request(move |operator| stat(operator, name.clone())).await
    }

    async fn delete(self: &Arc<Self>, name: String) -> Result<()> {
        self.request(move |operator| delete(operator, name.clone())).await
    }

    /// Deletes objects with one request. If the service refuses the request, or a part of it, each object gets its own
    /// request, so that each has its own answer. A service that cannot delete in bulk may say so by 500.
    async fn delete_all(self: &Arc<Self>, names: Vec<String>) -> Vec<Result<()>> {
        let mut lacks_bulk = false;
        if names.len() > 1 && !self.lacks_bulk.load(Relaxed) {
            let all = names.clone();
            let bulk = self.request(move |operator| delete_bulk(operator, all.clone()));
            match bulk.await {
                Ok(()) => return names.iter().map(|_| Ok(())).collect(),
                Err(e) if e.is_temporary() && !is_internal(&e) => {
                    return names.iter().map(|_| Err(e.clone())).collect();
                }
                Err(e) => {
                    tracing::debug!("deletes {} objects one by one: {e}", names.len());
                    lacks_bulk = !e.is_temporary();
                }
            }
        }
        let answers: Vec<_> =
            stream::iter(names).map(|name| self.delete(name)).buffered(self.settings.connections).collect().await;
        if lacks_bulk && answers.iter().all(Result::is_ok) {
            self.lacks_bulk.store(true, Relaxed);
        }
        answers
    }
}

async fn stat(operator: Operator, name: String) -> opendal::Result<Option<Metadata>> {
    let unexplained = match operator.stat(&name).await {
        Ok(metadata) => return Ok(Some(metadata)),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if is_unexplained(&e) => e,
        Err(e) => return Err(e),
    };
    // The response to a GET has a body, which says whether the token has expired, or which region is the right one.
    match ask(&operator, &name).await {
        Ok(()) => Err(unexplained),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Asks for the first byte of an object. Reads no byte of it, because a server without ranges sends the whole object.
async fn ask(operator: &Operator, name: &str) -> opendal::Result<()> {
    operator.reader(name).await?.into_stream(0..1).await?.metadata().await.map(drop)
}

/// A missing object counts as deleted.
async fn delete(operator: Operator, name: String) -> opendal::Result<()> {
    match operator.delete(&name).await {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

async fn delete_bulk(operator: Operator, names: Vec<String>) -> opendal::Result<()> {
    let mut deleter = operator.deleter().await?;
    deleter.delete_iter(names).await?;
    deleter.close().await
}

/// Whether the service failed at the request itself, rather than at its load.
fn is_internal(e: &connector_core::Error) -> bool {
    find::<Refused>(e).is_some_and(|refused| refused.status == StatusCode::INTERNAL_SERVER_ERROR)
}

/// Whether the service knows the credentials, but does not say whether the object exists.
fn is_unsaid(e: &opendal::Error) -> bool {
    find::<Refused>(e).is_some_and(|refused| refused.code.as_deref() == Some("AccessDenied"))
}
