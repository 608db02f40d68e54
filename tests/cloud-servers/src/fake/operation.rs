//! The operation of S3 that a request asks for.

use super::http::{Head, decode};
use super::refusal::Refusal;

/// An operation of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are S3's")]
pub enum Operation {
    AbortUpload,
    CompleteUpload,
    CreateBucket,
    CreateSession,
    CreateUpload,
    Delete,
    DeleteBucket,
    DeleteObjects,
    Get,
    GetBucketLocation,
    Head,
    HeadBucket,
    List,
    ListBuckets,
    ListUploads,
    Put,
    UploadPart,
}

/// The operation, bucket and key of a request.
pub(super) struct Target {
    pub operation: Operation,
    /// Empty for a list of buckets.
    pub bucket: String,
    /// Empty for an operation on a bucket.
    pub key: String,
}

impl Target {
    pub(super) fn of(head: &Head) -> Result<Self, Refusal> {
        let path = head.path.trim_start_matches('/');
        let (bucket, key) = match virtual_bucket(head.header("host").unwrap_or_default()) {
            Some(bucket) => (bucket.to_owned(), head.path.strip_prefix('/').unwrap_or(&head.path)),
            None => path.split_once('/').map_or((path.to_owned(), ""), |(bucket, key)| (bucket.to_owned(), key)),
        };
        let (bucket, key) = (decode(&bucket), decode(key));
        let has = |name| head.param(name).is_some();
        let on = (!bucket.is_empty(), !key.is_empty());
        let operation = match (head.method.as_str(), on) {
            ("GET", (false, _)) => Operation::ListBuckets,
            ("GET", (_, false)) if has("location") => Operation::GetBucketLocation,
            ("GET", (_, false)) if has("session") => Operation::CreateSession,
            ("GET", (_, false)) if has("uploads") => Operation::ListUploads,
            ("GET", (_, false)) if head.param("list-type") == Some("2") => Operation::List,
            ("GET", (_, true)) if !has("uploadId") => Operation::Get,
            ("HEAD", (true, false)) => Operation::HeadBucket,
            ("HEAD", (_, true)) => Operation::Head,
            ("PUT", (true, false)) => Operation::CreateBucket,
            ("PUT", (_, true)) if head.header("x-amz-copy-source").is_some() => return Err(not_implemented(head)),
            ("PUT", (_, true)) if has("uploadId") => Operation::UploadPart,
            ("PUT", (_, true)) => Operation::Put,
            ("POST", (_, false)) if has("delete") => Operation::DeleteObjects,
            ("POST", (_, true)) if has("uploads") => Operation::CreateUpload,
            ("POST", (_, true)) if has("uploadId") => Operation::CompleteUpload,
            ("DELETE", (true, false)) => Operation::DeleteBucket,
            ("DELETE", (_, true)) if has("uploadId") => Operation::AbortUpload,
            ("DELETE", (_, true)) => Operation::Delete,
            _ => return Err(not_implemented(head)),
        };
        Ok(Self { operation, bucket, key })
    }
}

fn not_implemented(head: &Head) -> Refusal {
    let message = format!("{} {}?{} is not implemented", head.method, head.path, head.raw_query);
    Refusal::new(501, "NotImplemented", message)
}

/// The bucket of `kv.localhost:9000` and `kv.s3.us-east-1.amazonaws.com`. An address, `localhost` and `s3.` name no bucket.
fn virtual_bucket(host: &str) -> Option<&str> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let (bucket, rest) = host.split_once('.')?;
    (!host.starts_with("s3.") && !rest.is_empty() && host.parse::<std::net::Ipv4Addr>().is_err()).then_some(bucket)
}
