//! Uploads in parts.

use jiff::Timestamp;
use quick_xml::escape::escape;
use serde::Deserialize;

use super::bucket::parse;
use super::http::{Head, Response};
use super::objects::{check_key, metadata, received};
use super::refusal::Refusal;
use super::state::{Bucket, Object, Upload};

/// Each part but the last has at least this number of bytes.
const SMALLEST_PART: usize = 5 << 20;

pub(super) fn create(bucket: &mut Bucket, name: &str, key: &str, id: String, head: &Head) -> Result<Response, Refusal> {
    check_key(key)?;
    let upload = Upload { key: key.to_owned(), metadata: metadata(head)?, parts: Default::default() };
    let xml = format!(
        "<InitiateMultipartUploadResult><Bucket>{name}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>",
        escape(key)
    );
    bucket.uploads.insert(id, upload);
    Ok(Response::xml(xml))
}

fn id(head: &Head) -> &str {
    head.param("uploadId").unwrap_or_default()
}

fn no_such_upload() -> Refusal {
    Refusal::new(404, "NoSuchUpload", "The specified upload does not exist.")
}

pub(super) fn put_part(
    bucket: &mut Bucket,
    key: &str,
    head: &Head,
    body: Vec<u8>,
    now: Timestamp,
) -> Result<Response, Refusal> {
    let number = head.param("partNumber").and_then(|number| number.parse().ok()).filter(|n| (1..=10_000).contains(n));
    let number = number.ok_or_else(|| {
        Refusal::new(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    })?;
    let upload = bucket.uploads.get_mut(id(head)).filter(|upload| upload.key == key).ok_or_else(no_such_upload)?;
    let part = received(head, body, Vec::new(), now)?;
    let response = Response::new(200).header("ETag", &part.etag);
    upload.parts.insert(number, part);
    Ok(response)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Complete {
    #[serde(default)]
    part: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    part_number: u32,
    #[serde(rename = "ETag")]
    etag: String,
}

pub(super) fn complete(
    bucket: &mut Bucket,
    name: &str,
    key: &str,
    head: &Head,
    body: &[u8],
    now: Timestamp,
) -> Result<Response, Refusal> {
    let asked: Complete = parse(body)?;
    let upload = bucket.uploads.get(id(head)).filter(|upload| upload.key == key).ok_or_else(no_such_upload)?;
    let invalid = || {
        let message = "One or more of the specified parts could not be found. The part may not have been uploaded, or the \
                       specified entity tag may not match the part's entity tag.";
        Refusal::new(400, "InvalidPart", message)
    };
    if asked.part.is_empty() {
        return Err(invalid());
    }
    if !asked.part.is_sorted_by(|a, b| a.part_number < b.part_number) {
        let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
        return Err(Refusal::new(400, "InvalidPartOrder", message));
    }
    let mut bytes = Vec::new();
    for (i, Part { part_number, etag }) in asked.part.iter().enumerate() {
        let same = |part: &&Object| part.etag.trim_matches('"') == etag.trim_matches('"');
        let part = upload.parts.get(part_number).filter(same).ok_or_else(invalid)?;
        if part.bytes.len() < SMALLEST_PART && i + 1 < asked.part.len() {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(Refusal::new(400, "EntityTooSmall", message).element("PartNumber", part_number.to_string()));
        }
        bytes.extend_from_slice(&part.bytes);
    }
    let mut object = Object::new(bytes, upload.metadata.clone(), now);
    object.etag = format!("{}-{}\"", object.etag.trim_end_matches('"'), asked.part.len());
    let xml = format!(
        "<CompleteMultipartUploadResult><Bucket>{name}</Bucket><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        escape(key),
        escape(&object.etag)
    );
    bucket.uploads.remove(id(head));
    bucket.objects.insert(key.to_owned(), object);
    Ok(Response::xml(xml))
}

pub(super) fn abort(bucket: &mut Bucket, head: &Head) -> Result<Response, Refusal> {
    bucket.uploads.remove(id(head)).ok_or_else(no_such_upload)?;
    Ok(Response::new(204))
}

pub(super) fn list(bucket: &Bucket, name: &str) -> Response {
    let uploads = bucket
        .uploads
        .iter()
        .map(|(id, upload)| format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", escape(&upload.key)));
    let uploads: String = uploads.collect();
    Response::xml(format!("<ListMultipartUploadsResult><Bucket>{name}</Bucket>{uploads}</ListMultipartUploadsResult>"))
}
