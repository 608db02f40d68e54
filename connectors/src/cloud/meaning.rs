//! The meaning of each refusal: its kind, whether another try may help, and a hint that says what to change.

use std::borrow::Cow;

use connector_core::ErrorKind;
use http::StatusCode;
use opendal::raw::{Operation, Timestamp};

use super::errors::{Place, Service};
use super::refusal::{Reason, Refused};

/// A refusal as an error for the caller.
pub(super) struct Meaning {
    pub(super) kind: ErrorKind,
    /// Whether the same request may succeed later.
    pub(super) temporary: bool,
    pub(super) hint: Option<Cow<'static, str>>,
}

impl Meaning {
    /// A request that fails until someone changes something.
    fn always(kind: ErrorKind, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, temporary: false, hint: Some(hint.into()) }
    }

    /// A request that may succeed later.
    fn for_now(kind: ErrorKind) -> Self {
        Self { kind, temporary: true, hint: None }
    }

    fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The clocks may differ by this much: S3 and Azure accept 15 minutes.
const SKEW_SECONDS: i64 = 15 * 60;

/// The meaning of the refusal.
pub(super) fn meaning(refused: &Refused, place: &Place) -> Meaning {
    let code = refused.code.as_deref().unwrap_or_default();
    if refused.is_throttled() {
        return Meaning::for_now(ErrorKind::Throttled)
            .with_hint("the service asks for fewer requests; set `retries`, or lower `connections`");
    }
    if let Some(skew) = skew(refused) {
        return Meaning::always(ErrorKind::Denied, skew);
    }
    of_code(code, refused, place).unwrap_or_else(|| of_status(refused, place))
}

/// The meaning of the service's code.
fn of_code(code: &str, refused: &Refused, place: &Place) -> Option<Meaning> {
    use ErrorKind::{
        Corrupt, Denied, InvalidKey, InvalidUrl, Other, ReadOnly, StoreFull, Timeout, TooLarge, Unavailable,
    };
    let bucket = place.service.bucket();
    Some(match code {
        "NoSuchBucket" | "ContainerNotFound" | "bucketNotFound" => Meaning::always(
            InvalidUrl,
            format!("create the {bucket}, which kvconn does not do, or correct its name in the URL or the endpoint"),
        ),
        "InvalidBucketName" => Meaning::always(InvalidUrl, "correct the bucket's name in the URL"),
        "ContainerBeingDeleted" => Meaning::for_now(Unavailable).with_hint("create the container once it is gone"),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => wrong_region(refused, place),
        "InvalidAccessKeyId" => {
            Meaning::always(Denied, "the server does not know the access key; check `access_key_id` and the endpoint")
        }
        // Some servers say so of a key that they do not know.
        "NotSignedUp" => Meaning::always(
            Denied,
            "the server knows no account with the access key; check `access_key_id`, the endpoint, and the account",
        ),
        "SignatureDoesNotMatch" => Meaning::always(
            Denied,
            "check `secret_access_key`; if it is right, a proxy in between changes the request's path or headers",
        ),
        "AuthenticationFailed" => Meaning::always(Denied, "check the account's name, and its key or SAS token"),
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => Meaning::always(
            Denied,
            "kvconn read the credentials again, and the service refuses these, too; write a fresh token, and set \
             `session_token_file` so that kvconn finds the next one",
        ),
        "InvalidAuthenticationInfo" | "authError" | "required" if refused.status == StatusCode::UNAUTHORIZED => {
            Meaning::always(
                Denied,
                "the service does not accept the token; sign in again, or check the option that names it",
            )
        }
        "AccessDenied"
        | "AllAccessDisabled"
        | "forbidden"
        | "insufficientPermissions"
        | "AuthorizationPermissionMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "InsufficientAccountPermissions" => Meaning::always(Denied, permission(refused.operation, place.service)),
        "AuthorizationFailure" | "AuthorizationSourceIPMismatch" => Meaning::always(
            Denied,
            "check the account's key; if it is right, the account's firewall or the addresses of the SAS token \
             exclude this host, and you allow its network there",
        ),
        "AuthorizationProtocolMismatch" | "AccountRequiresHttps" => {
            Meaning::always(Denied, "the account takes only TLS; write an endpoint that starts with `https://`")
        }
        "KeyBasedAuthenticationNotPermitted" => {
            Meaning::always(Denied, "the account takes no account keys; use a service principal or a managed identity")
        }
        "PublicAccessNotPermitted" | "NoAuthenticationInformation" => {
            Meaning::always(Denied, "the container is not public; remove `anonymous`, and set credentials")
        }
        "ResourceNotFound" => Meaning::always(
            InvalidUrl,
            "the container does not exist, or is not public; correct its name, or set credentials",
        ),
        "AccountIsDisabled" | "AccountProblem" | "UserSuspended" | "accountDisabled" | "UserDisabled" => {
            Meaning::always(Denied, "the account is disabled; see its billing and its administrator")
        }
        "InvalidObjectState" | "BlobArchived" => Meaning::always(
            Other,
            "the object is in an archive; exclude the prefix from the lifecycle rule that archives it",
        ),
        "BlobImmutableDueToPolicy" | "ObjectLocked" | "LeaseIdMissing" | "retentionPolicyNotMet" => Meaning::always(
            ReadOnly,
            format!("the {bucket} protects its objects against changes; use one without a lock"),
        ),
        "QuotaExceeded"
        | "QuotaExceededException"
        | "quotaExceeded"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientCapacity"
        | "InsufficientStorage"
        | "ServiceQuotaExceeded" => Meaning {
            kind: StoreFull,
            temporary: true,
            hint: Some("free space on the server, or raise the quota".into()),
        },
        "EntityTooLarge" | "MaxMessageLengthExceeded" | "RequestBodyTooLarge" | "uploadTooLarge" => Meaning::always(
            TooLarge,
            "the chunk is larger than the server takes in one request; lower `parallel_from_bytes`",
        ),
        "KeyTooLongError"
        | "KeyTooLong"
        | "XMinioInvalidObjectName"
        | "XMinioInvalidResourceName"
        | "InvalidResourceName"
        | "OutOfRangeInput"
        | "InvalidURI"
        | "InvalidUri" => Meaning::always(
            InvalidKey,
            "the server refuses the name of the key; write another prefix, or a shorter model name",
        ),
        "BadDigest"
        | "InvalidDigest"
        | "Md5Mismatch"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "Crc64Mismatch" => Meaning::for_now(Corrupt).with_hint("the chunk's bytes changed on the way to the server"),
        "IncompleteBody"
        | "InternalError"
        | "internalError"
        | "backendError"
        | "ServiceUnavailable"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "XMinioServerNotInitialized"
        | "XMinioBackendDown" => Meaning::for_now(Unavailable),
        "RequestTimeout" | "OperationTimedOut" => Meaning::for_now(Timeout),
        "MethodNotAllowed" | "NotImplemented" | "UnsupportedHttpVerb" | "UnsupportedHeader" => {
            Meaning::always(ErrorKind::Unsupported, "the server does not have this request; check the endpoint")
        }
        _ if code.starts_with("KMS.") => {
            Meaning::always(Denied, format!("the {bucket} encrypts with a key that these credentials may not use"))
        }
        _ if refused.reason == Some(Reason::Expired) => {
            Meaning::always(Denied, "the token has expired; write a fresh one")
        }
        _ => return None,
    })
}

/// The meaning of a status whose code says nothing more, as in a response to `HEAD`.
fn of_status(refused: &Refused, place: &Place) -> Meaning {
    let not_this_service = || {
        let service = match place.service {
            Service::S3 => "S3",
            Service::Gcs => "Google Cloud Storage",
            Service::Azure => "Azure Blob Storage",
        };
        format!(
            "the answer does not come from {service}; check host, port and path of the endpoint, and proxies in between"
        )
    };
    match refused.status.as_u16() {
        407 => Meaning::always(
            ErrorKind::Denied,
            "the proxy asks for a login; write the right `http://USER:PASSWORD@HOST:PORT` in `HTTP_PROXY`",
        ),
        408 | 504 => Meaning::for_now(ErrorKind::Timeout),
        413 => Meaning::always(ErrorKind::TooLarge, "the server, or a proxy in between, takes no body of this length"),
        414 => Meaning::always(ErrorKind::InvalidKey, "the server takes no name of this length"),
        507 => Meaning::for_now(ErrorKind::StoreFull).with_hint("free space on the server, or raise the quota"),
        // Proxies answer 499 and 520 to 530 if they lost the server behind them.
        499..=599 if refused.status != StatusCode::NOT_IMPLEMENTED => Meaning::for_now(ErrorKind::Unavailable),
        _ if refused.foreign => Meaning::always(ErrorKind::Other, not_this_service()),
        300..=399 => wrong_region(refused, place),
        400 if refused.region.is_some() && refused.region != place.region => wrong_region(refused, place),
        401 => Meaning::always(ErrorKind::Denied, "check the credentials"),
        403 => Meaning::always(ErrorKind::Denied, permission(refused.operation, place.service)),
        404 => Meaning::always(ErrorKind::InvalidUrl, not_this_service()),
        405 | 501 => Meaning::always(ErrorKind::Unsupported, not_this_service()),
        409 | 423 => Meaning::for_now(ErrorKind::Unavailable).with_hint("another request changes the object"),
        412 | 416 => Meaning::for_now(ErrorKind::Corrupt).with_hint("the object changed while kvconn read it"),
        _ => Meaning { kind: ErrorKind::Other, temporary: false, hint: None },
    }
}

/// The bucket is in another region, or behind another endpoint.
fn wrong_region(refused: &Refused, place: &Place) -> Meaning {
    let hint = match &refused.region {
        Some(region) if place.region.as_ref() != Some(region) => {
            format!("write `region={region}`, and the endpoint of that region if the URL names one")
        }
        _ => "write the `region` of the bucket, or the endpoint that serves it".to_owned(),
    };
    Meaning::always(ErrorKind::InvalidOption, hint)
}

/// The permission that a request needs.
fn permission(operation: Operation, service: Service) -> &'static str {
    match (service, operation) {
        (Service::S3, Operation::Write) => "grant `s3:PutObject` on the objects to these credentials",
        (Service::S3, Operation::Delete) => "grant `s3:DeleteObject` on the objects to these credentials",
        (Service::S3, Operation::List) => "grant `s3:ListBucket` on the bucket to these credentials",
        (Service::S3, _) => {
            "grant `s3:GetObject` on the objects and `s3:ListBucket` on the bucket to these credentials; without \
             `s3:ListBucket`, S3 refuses a request for an object that does not exist"
        }
        (Service::Gcs, Operation::Write) => "grant `storage.objects.create` and `storage.objects.delete` on the bucket",
        (Service::Gcs, Operation::Delete) => "grant `storage.objects.delete` on the bucket",
        (Service::Gcs, Operation::List) => "grant `storage.objects.list` on the bucket",
        (Service::Gcs, _) => "grant `storage.objects.get` and `storage.objects.list` on the bucket",
        (Service::Azure, Operation::Read | Operation::Stat | Operation::List) => {
            "grant the role `Storage Blob Data Reader`, or a SAS token with `rl`"
        }
        (Service::Azure, _) => "grant the role `Storage Blob Data Contributor`, or a SAS token with `racwdl`",
    }
}

/// A hint if the refusal comes from clocks that differ.
fn skew(refused: &Refused) -> Option<String> {
    let now = Timestamp::now().into_inner();
    let apart = refused.date.map(|date| (date, now.as_second() - date.into_inner().as_second()));
    // A response to `HEAD` says only 403.
    let by_itself = refused.code.is_none() && refused.status == StatusCode::FORBIDDEN;
    match (refused.reason, apart) {
        (Some(Reason::Skewed), None) => Some("set this host's clock; it differs from the server's".to_owned()),
        (reason, Some((date, seconds)))
            if reason == Some(Reason::Skewed) || by_itself && seconds.abs() > SKEW_SECONDS =>
        {
            let way = if seconds < 0 { "behind" } else { "ahead of" };
            let (minutes, seconds) = (seconds.abs() / 60, seconds.abs() % 60);
            Some(format!(
                "set this host's clock: it says {} and is {minutes} min {seconds} s {way} the server's, {}",
                whole_seconds(now.as_second()),
                whole_seconds(date.into_inner().as_second()),
            ))
        }
        _ => None,
    }
}

fn whole_seconds(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| second.to_string(), |time| time.to_string())
}
