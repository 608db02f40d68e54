//! A response that refuses its request: the server's status, headers and body.
//!
//! The three services have three forms: S3 and Azure send XML, Google sends JSON, and a response to `HEAD` has only headers.
//! This file reads them into a [`Refused`], without any text that may hold a secret. `meaning.rs` has their meaning.

use std::fmt;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use opendal::ErrorKind;
use opendal::raw::{Operation, Timestamp};
use serde::Deserialize;

/// A server's refusal of a request.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The operation that was refused.
    pub(super) operation: Operation,
    pub(super) status: StatusCode,
    /// The service's code: `NoSuchBucket`, `ContainerNotFound`, `rateLimitExceeded`. A response to `HEAD` has none on S3.
    pub(super) code: Option<String>,
    /// The service's message, on one line and without secrets.
    pub(super) message: Option<String>,
    /// The region where the bucket is.
    pub(super) region: Option<String>,
    /// The shortest time before another try.
    pub(super) retry_after: Option<Duration>,
    /// The server's clock.
    pub(super) date: Option<Timestamp>,
    /// Whether the body has none of the services' forms, so that a proxy or another server may have sent it.
    pub(super) foreign: bool,
    /// Whether an S3 server itself refused the request, and not a proxy before it.
    from_s3: bool,
    /// Why the service did not accept the signature or the token, if it says so.
    pub(super) reason: Option<Reason>,
}

/// Why a service does not accept a signature or a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The token or the shared access signature has expired.
    Expired,
    /// The request's date is too far from the server's.
    Skewed,
    /// The service does not know the key, or the secret is another one. Keys that an operator has replaced look so.
    Unknown,
}

impl Refused {
    /// Reads a response to a request of `operation`.
    fn read(operation: Operation, parts: &Parts, body: &[u8]) -> Self {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        let said = Said::read(text);
        let code = said.as_ref().and_then(|said| said.code.clone()).or_else(|| {
            header("x-ms-error-code").map(str::to_owned) // Also in a response without a body.
        });
        let reason = said.as_ref().and_then(|said| said.reason).or_else(|| {
            // RFC 6750: how Google and Azure refuse an expired token.
            let challenge = header(header::WWW_AUTHENTICATE.as_str()).unwrap_or_default();
            challenge.contains("invalid_token").then_some(Reason::Expired)
        });
        let region = said.as_ref().and_then(|said| said.region.clone());
        let message = match &said {
            Some(said) => said.message.clone(),
            None if text.is_empty() => None,
            None => Some(without_tags(text)),
        };
        let foreign = said.is_none() && is_html(text);
        Self {
            operation,
            status: parts.status,
            code: code.filter(|code| !code.is_empty()).map(|code| shown(&code)),
            message: message.filter(|message| !message.is_empty()).map(|message| shown(&message)),
            region: region.or_else(|| header("x-amz-bucket-region").map(str::to_owned)).map(|region| shown(&region)),
            retry_after: retry_after(&parts.headers),
            date: said
                .and_then(|said| said.server_time)
                .or_else(|| Timestamp::parse_rfc2822(header(header::DATE.as_str())?).ok()),
            foreign,
            from_s3: parts.headers.contains_key("x-amz-request-id"),
            reason,
        }
    }

    /// A refusal of which only the code is known.
    pub(super) fn of_code(code: &str) -> Self {
        Self {
            operation: Operation::Delete,
            status: StatusCode::OK,
            code: Some(shown(code)),
            message: None,
            region: None,
            retry_after: None,
            date: None,
            foreign: false,
            from_s3: true,
            reason: reason(code, ""),
        }
    }

    /// Whether the object that the request asked for is not stored. A missing bucket is not a missing object.
    pub(super) fn is_missing_object(&self) -> bool {
        let of_the_bucket = |code: &str| {
            matches!(
                code,
                "NoSuchBucket" | "NoSuchUpload" | "ContainerNotFound" | "ContainerBeingDeleted" | "bucketNotFound"
            )
        };
        self.status == StatusCode::NOT_FOUND
            && !self.foreign
            && !self.code.as_deref().is_some_and(of_the_bucket)
            && matches!(self.operation, Operation::Read | Operation::Stat | Operation::Delete)
    }

    /// OpenDAL's kind, on which its own steps depend.
    fn kind(&self) -> ErrorKind {
        match self.status {
            _ if self.is_throttled() => ErrorKind::RateLimited,
            StatusCode::NOT_FOUND if self.is_missing_object() => ErrorKind::NotFound,
            StatusCode::NOT_FOUND => ErrorKind::ConfigInvalid,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
            StatusCode::PRECONDITION_FAILED => ErrorKind::ConditionNotMatch,
            StatusCode::RANGE_NOT_SATISFIABLE => ErrorKind::RangeNotSatisfied,
            StatusCode::CONFLICT => ErrorKind::Conflict,
            _ => ErrorKind::Unexpected,
        }
    }

    /// Whether the server asks for fewer requests.
    pub(super) fn is_throttled(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        self.status == StatusCode::TOO_MANY_REQUESTS
            || matches!(
                code,
                "SlowDown"
                    | "SlowDownRead"
                    | "SlowDownWrite"
                    | "TooManyRequests"
                    | "Throttling"
                    | "ThrottlingException"
                    | "RequestLimitExceeded"
                    | "RequestThrottled"
                    | "ServerBusy"
                    | "TooManyRequestsException"
                    | "rateLimitExceeded"
                    | "userRateLimitExceeded"
            )
            // A gateway that knows how long it takes is busy, not broken. S3 answers `HEAD` without a code.
            || self.status == StatusCode::SERVICE_UNAVAILABLE
                && (self.retry_after.is_some() || self.from_s3 && self.code.is_none())
    }
}

/// OpenDAL's error for a response that refuses a request of `operation`. Its source is a [`Refused`].
#[cold]
pub(super) fn refused(operation: Operation, parts: &Parts, body: &[u8]) -> opendal::Error {
    let refused = Refused::read(operation, parts, body);
    let later = refused.is_throttled() || refused.status.is_server_error();
    opendal::Error::new(refused.kind(), refused.to_string()).with_temporary(later).set_source(refused)
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server answers")?;
        // In a bulk answer, each object has a code and no status.
        if !self.status.is_success() {
            write!(f, " {}", self.status)?;
        }
        if let Some(code) = &self.code {
            write!(f, " `{code}`")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// The content of a body in one of the services' forms.
#[derive(Default)]
struct Said {
    code: Option<String>,
    message: Option<String>,
    region: Option<String>,
    reason: Option<Reason>,
    server_time: Option<Timestamp>,
}

/// `<Error>` of S3 and Azure. Elements that repeat the signature, the token or the string to sign are left out.
#[derive(Deserialize)]
#[serde(rename = "Error", rename_all = "PascalCase")]
struct XmlError {
    code: String,
    message: Option<String>,
    region: Option<String>,
    /// S3's, in an error about clocks.
    server_time: Option<String>,
    /// Azure's. It may repeat the string to sign, so kvconn never shows it.
    authentication_error_detail: Option<String>,
}

/// `{"error": ..}` of Google.
#[derive(Deserialize)]
struct JsonError {
    error: JsonErrorBody,
}

#[derive(Deserialize)]
struct JsonErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<JsonErrorItem>,
}

#[derive(Deserialize)]
struct JsonErrorItem {
    #[serde(default)]
    reason: String,
}

impl Said {
    fn read(text: &str) -> Option<Self> {
        if text.starts_with('{') {
            let JsonErrorBody { message, errors } = serde_json::from_str::<JsonError>(text).ok()?.error;
            let reason = errors.into_iter().next().map(|item| item.reason);
            // Google has one code for a missing object and for a missing bucket.
            let code =
                if message.contains("bucket does not exist") { Some("bucketNotFound".to_owned()) } else { reason };
            return Some(Self { code, message: Some(message), ..Self::default() });
        }
        let xml: XmlError = quick_xml::de::from_str(text).ok()?;
        let detail = xml.authentication_error_detail.unwrap_or_default();
        // Azure's message continues with the request's id and time, on lines of their own.
        let message = xml.message.map(|m| m.lines().next().unwrap_or_default().to_owned());
        // These repeat a part of the request's credentials.
        let repeats = matches!(xml.code.as_str(), "SignatureDoesNotMatch" | "InvalidAccessKeyId");
        Some(Self {
            reason: reason(&xml.code, &detail),
            code: Some(xml.code),
            message: message.filter(|_| !repeats),
            region: xml.region,
            server_time: xml.server_time.and_then(|time| time.parse().ok()),
        })
    }
}

/// Why a service refuses credentials, by its code and Azure's detail.
fn reason(code: &str, detail: &str) -> Option<Reason> {
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => Some(Reason::Expired),
        "RequestTimeTooSkewed" | "RequestExpired" => Some(Reason::Skewed),
        _ if detail.contains("date header too old") => Some(Reason::Skewed),
        _ if detail.contains("Signature not valid in the specified time frame") => Some(Reason::Expired),
        _ if detail.contains("Lifetime validation failed") => Some(Reason::Expired),
        "InvalidAccessKeyId" | "NotSignedUp" | "SignatureDoesNotMatch" | "AuthenticationFailed" => {
            Some(Reason::Unknown)
        }
        _ => None,
    }
}

/// The time of a `Retry-After` header, which holds seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = |name| headers.get(name)?.to_str().ok()?.trim().parse().ok().map(Duration::from_millis);
    if let Some(wait) = milliseconds("x-ms-retry-after-ms") {
        return Some(wait);
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = Timestamp::parse_rfc2822(value).ok()?.into_inner();
    // A date that has passed asks for no wait.
    Some(at.duration_since(Timestamp::now().into_inner()).try_into().unwrap_or_default())
}

fn is_html(text: &str) -> bool {
    let start = text.get(..64).unwrap_or(text).to_ascii_lowercase();
    start.contains("<html") || start.contains("<!doctype html")
}

/// The words of a page, without its elements.
fn without_tags(text: &str) -> String {
    let mut inside = false;
    let keep = |c: char| {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            _ => return if inside { None } else { Some(c) },
        }
        Some(' ')
    };
    text.chars().filter_map(keep).collect()
}

/// A server's text, made fit for one line: cut, without control characters, and without what may be a secret.
pub(super) fn shown(text: &str) -> String {
    const SHOWN: usize = 200;
    // A server that repeats the request repeats its credentials.
    const CREDENTIALS: [&str; 7] =
        ["AWS4-HMAC", "Bearer ", "SharedKey ", "Credential=", "Signature=", "sig=", "Token="];
    if CREDENTIALS.iter().any(|mark| text.contains(mark)) {
        return "(a text that repeats the request's credentials)".to_owned();
    }
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    // The query of a URL may hold a signature.
    let words =
        words.map(|word| word.split_once('?').filter(|(_, query)| query.contains('=')).map_or(word, |(path, _)| path));
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}
