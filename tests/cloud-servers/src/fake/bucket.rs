//! Operations on a bucket.

use std::ops::Bound;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::escape::escape;
use serde::Deserialize;

use super::http::{Head, Response};
use super::refusal::Refusal;
use super::signature::iso;
use super::state::Bucket;

/// S3 removes at most this number of objects in one request.
const LARGEST_DELETE: usize = 1000;

/// `ListObjectsV2`, with pages of at most `page` keys.
pub(super) fn list(bucket: &Bucket, name: &str, head: &Head, page: usize) -> Result<Response, Refusal> {
    let prefix = head.param("prefix").unwrap_or_default();
    let delimiter = head.param("delimiter").filter(|delimiter| !delimiter.is_empty());
    let asked = head.param("max-keys").map_or(Ok(page), str::parse);
    let most = asked.map_err(|_| Refusal::new(400, "InvalidArgument", "max-keys is not a number"))?.min(page);
    let is_url = head.param("encoding-type") == Some("url");
    let text = |text: &str| match is_url {
        true => utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
        false => escape(text).into_owned(),
    };
    let token = head.param("continuation-token").map(|token| percent_decode_str(token).decode_utf8_lossy());
    let after = token.as_deref().or(head.param("start-after")).filter(|after| *after >= prefix);
    let from = after.map_or(Bound::Included(prefix), Bound::Excluded);

    let (mut entries, mut common) = (String::new(), String::new());
    let (mut count, mut last, mut truncated) = (0, String::new(), false);
    for (key, object) in bucket.objects.range::<str, _>((from, Bound::Unbounded)) {
        if !key.starts_with(prefix) {
            break;
        }
        let folder = delimiter.and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)? + prefix.len() + delimiter.len();
            Some(&key[..end])
        });
        // This answer or the page before already has the folder.
        if folder.is_some_and(|folder| last == folder || after.is_some_and(|after| after.starts_with(folder))) {
            continue;
        }
        if count == most {
            truncated = true;
            break;
        }
        count += 1;
        last = folder.unwrap_or(key).to_owned();
        match folder {
            Some(folder) => common += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", text(folder)),
            None => {
                entries += &format!(
                    "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
                     <StorageClass>STANDARD</StorageClass></Contents>",
                    text(key),
                    iso(object.modified),
                    escape(&object.etag),
                    object.bytes.len()
                );
            }
        }
    }
    let mut xml = format!(
        "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{name}</Name><Prefix>{}</Prefix>\
         <KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{truncated}</IsTruncated>",
        text(prefix)
    );
    if is_url {
        xml += "<EncodingType>url</EncodingType>";
    }
    if truncated {
        let token = utf8_percent_encode(&last, NON_ALPHANUMERIC);
        xml += &format!("<NextContinuationToken>{token}</NextContinuationToken>");
    }
    Ok(Response::xml(format!("{xml}{entries}{common}</ListBucketResult>")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    #[serde(default)]
    object: Vec<Named>,
    #[serde(default)]
    quiet: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    key: String,
}

/// `DeleteObjects`.
pub(super) fn delete_objects(bucket: &mut Bucket, head: &Head, body: &[u8]) -> Result<Response, Refusal> {
    if !head.headers.iter().any(|(name, _)| name == "content-md5" || name.starts_with("x-amz-checksum-")) {
        let message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
        return Err(Refusal::new(400, "InvalidRequest", message));
    }
    let delete: Delete = parse(body)?;
    if delete.object.is_empty() || delete.object.len() > LARGEST_DELETE {
        return Err(malformed());
    }
    let mut deleted = String::new();
    for Named { key } in delete.object {
        bucket.objects.remove(&key);
        if !delete.quiet {
            deleted += &format!("<Deleted><Key>{}</Key></Deleted>", escape(&key));
        }
    }
    Ok(Response::xml(format!("<DeleteResult>{deleted}</DeleteResult>")))
}

/// The XML of a request.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str(text).ok()).ok_or_else(malformed)
}

fn malformed() -> Refusal {
    let message = "The XML you provided was not well-formed or did not validate against our published schema";
    Refusal::new(400, "MalformedXML", message)
}
