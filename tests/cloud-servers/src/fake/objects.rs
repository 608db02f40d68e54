//! Operations on one object.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crc_fast::{CrcAlgorithm, checksum};
use jiff::Timestamp;

use super::http::{Body, Head, Response};
use super::refusal::Refusal;
use super::state::{Bucket, Object};

/// S3's limit of a key, in bytes.
const LONGEST_KEY: usize = 1024;
/// S3's limit of an object's metadata, in bytes.
const LARGEST_METADATA: usize = 2048;
const METADATA: &str = "x-amz-meta-";
/// A checksum's header, its algorithm, and the bytes of its value.
const CHECKSUMS: [(&str, CrcAlgorithm, usize); 3] = [
    ("x-amz-checksum-crc32", CrcAlgorithm::Crc32IsoHdlc, 4),
    ("x-amz-checksum-crc32c", CrcAlgorithm::Crc32Iscsi, 4),
    ("x-amz-checksum-crc64nvme", CrcAlgorithm::Crc64Nvme, 8),
];

/// `GET` and `HEAD` of an object.
pub(super) fn get(bucket: &Bucket, key: &str, head: &Head) -> Result<Response, Refusal> {
    let object = bucket.objects.get(key).ok_or_else(|| Refusal::no_such_key(key))?;
    let same = |tag: &str| tag == "*" || tag.trim_matches('"') == object.etag.trim_matches('"');
    if head.header("if-match").is_some_and(|tag| !same(tag)) {
        let message = "At least one of the pre-conditions you specified did not hold";
        return Err(Refusal::new(412, "PreconditionFailed", message).element("Condition", "If-Match"));
    }
    if head.header("if-none-match").is_some_and(same) {
        return Err(Refusal::new(304, "NotModified", "Not Modified").header("ETag", &object.etag));
    }

    let len = object.bytes.len();
    let range = head.header("range").and_then(|range| parse_range(range, len)).transpose()?;
    let status = if range.is_some() { 206 } else { 200 };
    let mut response = Response::new(status)
        .header("ETag", &object.etag)
        .header("Last-Modified", http_date(object.modified))
        .header("Content-Type", "application/octet-stream")
        .header("Accept-Ranges", "bytes");
    let is_whole = range.is_none();
    let range = range.unwrap_or(0..len);
    if !is_whole {
        response = response.header("Content-Range", format!("bytes {}-{}/{len}", range.start, range.end - 1));
    }
    if let Some((name, value)) = &object.checksum
        && is_whole
        && head.header("x-amz-checksum-mode").is_some()
    {
        response = response.header(name, value);
    }
    response.metadata.extend(object.metadata.iter().map(|(name, value)| (format!("{METADATA}{name}"), value.clone())));
    response.body = Body::Object(Arc::clone(&object.bytes), range);
    Ok(response)
}

/// `PUT` of an object.
pub(super) fn put(
    bucket: &mut Bucket,
    key: &str,
    head: &Head,
    body: Vec<u8>,
    now: Timestamp,
) -> Result<Response, Refusal> {
    if head.header("if-none-match") == Some("*") && bucket.objects.contains_key(key) {
        let message = "At least one of the pre-conditions you specified did not hold";
        return Err(Refusal::new(412, "PreconditionFailed", message).element("Condition", "If-None-Match"));
    }
    check_key(key)?;
    let object = received(head, body, metadata(head)?, now)?;
    let mut response = Response::new(200).header("ETag", &object.etag);
    if let Some((name, value)) = &object.checksum {
        response = response.header(name, value);
    }
    bucket.objects.insert(key.to_owned(), object);
    Ok(response)
}

pub(super) fn check_key(key: &str) -> Result<(), Refusal> {
    if key.len() <= LONGEST_KEY {
        return Ok(());
    }
    let refusal = Refusal::new(400, "KeyTooLongError", "Your key is too long");
    Err(refusal.element("Size", key.len().to_string()).element("MaxSizeAllowed", LONGEST_KEY.to_string()))
}

/// The metadata that the request's headers give to an object.
pub(super) fn metadata(head: &Head) -> Result<Vec<(String, String)>, Refusal> {
    let named = head.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix(METADATA)?, value)));
    let metadata: Vec<_> = named.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > LARGEST_METADATA {
        let message = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(Refusal::new(400, "MetadataTooLarge", message));
    }
    Ok(metadata)
}

/// An object or a part of one, if the bytes have the checksum that the client sent.
pub(super) fn received(
    head: &Head,
    body: Vec<u8>,
    metadata: Vec<(String, String)>,
    now: Timestamp,
) -> Result<Object, Refusal> {
    let mut sent = None;
    for (name, algorithm, len) in CHECKSUMS {
        let Some(value) = head.header(name) else { continue };
        let computed = checksum(algorithm, &body).to_be_bytes();
        if value != BASE64_STANDARD.encode(&computed[8 - len..]) {
            let message = format!("The {name} you specified did not match the calculated checksum.");
            return Err(Refusal::new(400, "BadDigest", message));
        }
        sent = Some((name, value.to_owned()));
    }
    let mut object = Object::new(body, metadata, now);
    object.checksum = sent;
    Ok(object)
}

/// `None` for a range that S3 ignores.
fn parse_range(text: &str, len: usize) -> Option<Result<Range<usize>, Refusal>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (from.parse::<usize>().ok(), to.parse::<usize>().ok()) {
        (Some(from), Some(to)) => from..len.min(to.saturating_add(1)),
        (Some(from), None) if to.is_empty() => from..len,
        (None, Some(last)) if from.is_empty() => len.saturating_sub(last)..len,
        _ => return None,
    };
    if !range.is_empty() {
        return Some(Ok(range));
    }
    let refusal = Refusal::new(416, "InvalidRange", "The requested range is not satisfiable");
    let refusal = refusal.element("RangeRequested", text).element("ActualObjectSize", len.to_string());
    Some(Err(refusal.header("Content-Range", format!("bytes */{len}"))))
}

/// A time as headers have it.
pub(super) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
