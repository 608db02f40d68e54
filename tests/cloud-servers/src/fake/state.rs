//! The server's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::fault::{Fault, Kind};
use super::http::Response;
use super::operation::Operation;
use super::refusal::Refusal;
use super::signature::iso;
use super::{Credentials, Request};

pub(super) struct State {
    pub buckets: BTreeMap<String, Bucket>,
    pub known: Vec<Known>,
    pub region: String,
    /// The server's clock is this much ahead.
    pub ahead: SignedDuration,
    /// The most keys in one page of a list.
    pub page: usize,
    pub faults: Vec<Fault>,
    pub rng: fastrand::Rng,
    pub requests: Vec<Request>,
    pub keep_bodies: bool,
    pub ids: usize,
}

/// Credentials that the server knows.
pub(super) struct Known {
    pub credentials: Credentials,
    pub expired: bool,
}

#[derive(Default)]
pub(super) struct Bucket {
    pub objects: BTreeMap<String, Object>,
    /// Unfinished uploads by id.
    pub uploads: BTreeMap<String, Upload>,
    /// Serves requests without a signature.
    pub anonymous: bool,
}

pub(super) struct Upload {
    pub key: String,
    pub metadata: Vec<(String, String)>,
    pub parts: BTreeMap<u32, Object>,
}

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    /// The object's bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Names without `x-amz-meta-`, in lower case, and values.
    pub metadata: Vec<(String, String)>,
    /// The version of the object, with quotes. Not the MD5 of its bytes.
    pub etag: String,
    /// The checksum's header and value, as the client sent them.
    pub(super) checksum: Option<(&'static str, String)>,
    pub(super) modified: Timestamp,
}

impl Object {
    pub(super) fn new(bytes: Vec<u8>, metadata: Vec<(String, String)>, modified: Timestamp) -> Self {
        let etag = format!("\"{:032x}\"", fastrand::u128(..));
        Self { bytes: Arc::new(bytes), metadata, etag, checksum: None, modified }
    }
}

impl State {
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead
    }

    pub(super) fn bucket(&mut self, name: &str) -> Result<&mut Bucket, Refusal> {
        self.buckets.get_mut(name).ok_or_else(|| Refusal::no_such_bucket(name))
    }

    /// The first fault that chooses this request.
    pub(super) fn fault(&mut self, operation: Operation, key: &str) -> Option<Kind> {
        let rng = &mut self.rng;
        let at = self.faults.iter_mut().position(|fault| fault.hits(operation, key, rng))?;
        let fault = &mut self.faults[at];
        let kind = fault.kind.clone();
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                self.faults.remove(at);
            }
        }
        Some(kind)
    }

    /// An id that no upload and no session has.
    pub(super) fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("id-{}", self.ids)
    }

    pub(super) fn list_buckets(&self) -> Response {
        let names = self.buckets.keys().map(|name| format!("<Bucket><Name>{name}</Name></Bucket>"));
        let names: String = names.collect();
        Response::xml(format!("<ListAllMyBucketsResult><Buckets>{names}</Buckets></ListAllMyBucketsResult>"))
    }

    pub(super) fn create_bucket(&mut self, name: &str) -> Result<Response, Refusal> {
        if self.buckets.contains_key(name) {
            let message = "Your previous request to create the named bucket succeeded and you already own it.";
            return Err(Refusal::new(409, "BucketAlreadyOwnedByYou", message));
        }
        self.buckets.insert(name.to_owned(), Bucket::default());
        Ok(Response::new(200).header("Location", format!("/{name}")))
    }

    pub(super) fn delete_bucket(&mut self, name: &str) -> Result<Response, Refusal> {
        if !self.bucket(name)?.objects.is_empty() {
            return Err(Refusal::new(409, "BucketNotEmpty", "The bucket you tried to delete is not empty"));
        }
        self.buckets.remove(name);
        Ok(Response::new(204))
    }

    /// Credentials for one directory bucket (S3 Express), for five minutes.
    pub(super) fn create_session(&mut self, name: &str, id: &str) -> Result<Response, Refusal> {
        self.bucket(name)?;
        let credentials =
            Credentials::new(&format!("SESSION-{id}"), &format!("secret-{id}"), Some(&format!("token-{id}")));
        let xml = format!(
            "<CreateSessionResult><Credentials><SessionToken>token-{id}</SessionToken>\
             <SecretAccessKey>secret-{id}</SecretAccessKey><AccessKeyId>SESSION-{id}</AccessKeyId>\
             <Expiration>{}</Expiration></Credentials></CreateSessionResult>",
            iso(self.now() + SignedDuration::from_mins(5))
        );
        self.known.push(Known { credentials, expired: false });
        Ok(Response::xml(xml))
    }
}
