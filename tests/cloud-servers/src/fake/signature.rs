//! Checks a request's signature as S3 does (Signature Version 4, in headers).

use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha2::{Digest, Sha256};

use super::http::Head;
use super::refusal::Refusal;
use super::state::{Known, State};

const LARGEST_SKEW: SignedDuration = SignedDuration::from_mins(15);
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Every other byte is percent-encoded in the text that is signed.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// # Errors
/// S3's refusal.
pub(super) fn check(state: &State, head: &Head, bucket: &str, body: &[u8]) -> Result<(), Refusal> {
    let Some(authorization) = head.header("authorization") else {
        let open = state.buckets.get(bucket).is_some_and(|bucket| bucket.anonymous);
        return if open { Ok(()) } else { Err(Refusal::denied()) };
    };
    let malformed = |reason: &str| {
        let message = format!("The authorization header is malformed; {reason}");
        Refusal::new(400, "AuthorizationHeaderMalformed", message)
    };
    let mut fields = authorization
        .strip_prefix("AWS4-HMAC-SHA256")
        .ok_or_else(|| Refusal::new(400, "InvalidRequest", "Only AWS4-HMAC-SHA256 is supported."))?
        .split(',')
        .filter_map(|field| field.trim().split_once('='));
    let mut field = |name| fields.find(|(n, _)| *n == name).map(|(_, value)| value);
    let (Some(credential), Some(signed), Some(signature)) =
        (field("Credential"), field("SignedHeaders"), field("Signature"))
    else {
        return Err(malformed("it needs Credential, SignedHeaders and Signature, in this order."));
    };
    let scope: Vec<&str> = credential.split('/').collect();
    let &[access_key, day, region, service, "aws4_request"] = scope.as_slice() else {
        return Err(malformed("the Credential is not KEY/DAY/REGION/SERVICE/aws4_request."));
    };

    let known = state.known.iter().find(|known| known.credentials.access_key_id == access_key);
    let known = known.ok_or_else(|| {
        let message = "The AWS Access Key Id you provided does not exist in our records.";
        Refusal::new(403, "InvalidAccessKeyId", message).element("AWSAccessKeyId", access_key)
    })?;
    if region != state.region {
        let wrong = format!("the region '{region}' is wrong; expecting '{}'", state.region);
        return Err(malformed(&wrong).element("Region", &state.region));
    }
    check_token(known, head)?;
    let date = check_date(state, head, day)?;

    let signed: Vec<&str> = signed.split(';').collect();
    let unsigned = |(name, _): &&(String, String)| {
        (name == "host" || name.starts_with("x-amz-")) && !signed.contains(&name.as_str())
    };
    if let Some((name, _)) = head.headers.iter().find(unsigned) {
        let message = "There were headers present in the request which were not signed";
        return Err(Refusal::new(403, "AccessDenied", message).element("HeadersNotSigned", name));
    }
    let payload = head.header("x-amz-content-sha256").ok_or_else(|| {
        Refusal::new(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    })?;

    let canonical = canonical(head, &signed, payload);
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut key = format!("AWS4{}", known.credentials.secret_access_key).into_bytes();
    for part in [day, region, service, "aws4_request", &text] {
        key = hmac(&key, part.as_bytes());
    }
    if hex(&key) != signature {
        let message = "The request signature we calculated does not match the signature you provided. Check your key and signing \
                       method.";
        let refusal = Refusal::new(403, "SignatureDoesNotMatch", message).element("AWSAccessKeyId", access_key);
        return Err(refusal.element("StringToSign", text).element("CanonicalRequest", canonical));
    }
    if payload != UNSIGNED && payload != hex(&Sha256::digest(body)) {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return Err(Refusal::new(400, "XAmzContentSHA256Mismatch", message));
    }
    Ok(())
}

fn check_token(known: &Known, head: &Head) -> Result<(), Refusal> {
    let token = head.header("x-amz-security-token").or_else(|| head.header("x-amz-s3session-token"));
    if token != known.credentials.session_token.as_deref() {
        return Err(Refusal::new(400, "InvalidToken", "The provided token is malformed or otherwise invalid."));
    }
    if known.expired {
        return Err(Refusal::new(400, "ExpiredToken", "The provided token has expired."));
    }
    Ok(())
}

/// The text of `x-amz-date`.
fn check_date<'a>(state: &State, head: &'a Head, day: &str) -> Result<&'a str, Refusal> {
    let date = head.header("x-amz-date").unwrap_or_default();
    let parsed = DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok();
    let time = parsed.and_then(|time| TimeZone::UTC.to_timestamp(time).ok()).filter(|_| date.starts_with(day));
    let Some(time) = time else {
        let message = "AWS authentication requires a valid Date or x-amz-date header";
        return Err(Refusal::new(403, "AccessDenied", message));
    };
    let now = state.now();
    if now.duration_since(time).abs() > LARGEST_SKEW {
        let message = "The difference between the request time and the current time is too large.";
        return Err(Refusal::new(403, "RequestTimeTooSkewed", message)
            .element("RequestTime", date)
            .element("ServerTime", iso(now))
            .element("MaxAllowedSkewMilliseconds", LARGEST_SKEW.as_millis().to_string()));
    }
    Ok(date)
}

/// The request as S3 signs it. The path and the query are decoded first, so a client that signs one spelling and sends another
/// has the right signature, as on S3.
fn canonical(head: &Head, signed: &[&str], payload: &str) -> String {
    let path: Vec<u8> = percent_decode_str(&head.path).collect();
    let encode = |text: &str| percent_encode(text.as_bytes(), IN_QUERY).to_string();
    let mut query: Vec<_> = head.query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    query.sort();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut canonical = format!("{}\n{}\n{}\n", head.method, percent_encode(&path, IN_PATH), query.join("&"));
    for name in signed {
        let values = head.headers.iter().filter(|(n, _)| n == name);
        let values = values.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "));
        canonical += &format!("{name}:{}\n", values.collect::<Vec<_>>().join(","));
    }
    canonical + &format!("\n{}\n{payload}", signed.join(";"))
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time as XML has it.
pub(super) fn iso(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}
