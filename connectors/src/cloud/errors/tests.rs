use std::time::Duration;

use connector_core::ErrorKind::{
    Corrupt, Denied, InvalidKey, InvalidOption, InvalidUrl, Other, StoreFull, Throttled, Timeout, TooLarge,
    Unavailable, Unsupported,
};
use http::HeaderValue;
use http::header::HeaderName;
use opendal::raw::{Operation, Timestamp};

use super::super::refusal::refused;
use super::*;

const READ: Operation = Operation::Read;
const SECRETS: [&str; 4] = ["AKIAEXAMPLE", "c0ffee51", "TOKENEXAMPLE", "sig="];

fn place(service: Service) -> Place {
    let (endpoint, region) = ("https://s3.us-east-1.amazonaws.com".to_owned(), Some("us-east-1".to_owned()));
    Place { service, endpoint, bucket: "kv".to_owned(), region, no_credentials: NoCredentials::default() }
}

/// OpenDAL's error for a response, and kvconn's.
fn answer(
    service: Service,
    operation: Operation,
    status: u16,
    headers: &[(&'static str, &str)],
    body: &str,
) -> (opendal::ErrorKind, Error) {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = http::StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        parts.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let e = refused(operation, &parts, body.as_bytes());
    (e.kind(), error(e, &place(service)))
}

fn xml(code: &str, rest: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>{rest}<RequestId>4442587FB7D0A2F9</RequestId><HostId>ab/cd=</HostId></Error>"
    )
}

/// Azure begins with a byte order mark, and repeats the request's id in the message.
fn azure(code: &str, message: &str, rest: &str) -> String {
    format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}\nRequestId:5c2a0d5e\nTime:2026-11-26T22:10:00Z</Message>{rest}</Error>"
    )
}

fn google(code: u16, reason: &str, message: &str) -> String {
    format!(
        "{{\"error\": {{\"code\": {code}, \"message\": \"{message}\", \"errors\": [{{\"message\": \"{message}\", \"domain\": \"global\", \"reason\": \"{reason}\"}}]}}}}"
    )
}

#[test]
fn a_refusal_of_s3_has_the_kind_that_fits_and_says_what_to_change() {
    let s = |code, message: &str| xml(code, &format!("<Message>{message}</Message>"));
    let malformed = xml(
        "AuthorizationHeaderMalformed",
        "<Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region>",
    );
    let redirect = xml(
        "PermanentRedirect",
        "<Message>The bucket you are attempting to access must be addressed using the specified endpoint.</Message><Endpoint>kv.s3.eu-central-1.amazonaws.com</Endpoint><Bucket>kv</Bucket>",
    );
    let unsigned = xml(
        "SignatureDoesNotMatch",
        "<Message>The request signature we calculated does not match the signature you provided.</Message><AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256\n20261126T221000Z</StringToSign><SignatureProvided>c0ffee51</SignatureProvided>",
    );
    let expired =
        xml("ExpiredToken", "<Message>The provided token has expired.</Message><Token-0>TOKENEXAMPLE</Token-0>");
    let (write, delete, stat) = (Operation::Write, Operation::Delete, Operation::Stat);
    let region = ("x-amz-bucket-region", "eu-central-1");
    for (operation, status, headers, body, kind, temporary, wanted) in [
        (
            READ,
            404,
            &[][..],
            s("NoSuchBucket", "The specified bucket does not exist"),
            InvalidUrl,
            false,
            "create the bucket",
        ),
        (READ, 301, &[region], redirect, InvalidOption, false, "`region=eu-central-1`"),
        (READ, 400, &[], malformed, InvalidOption, false, "`region=eu-central-1`"),
        (stat, 301, &[region], String::new(), InvalidOption, false, "`region=eu-central-1`"),
        (stat, 400, &[region], String::new(), InvalidOption, false, "`region=eu-central-1`"),
        (READ, 403, &[], s("InvalidAccessKeyId", "no AKIAEXAMPLE"), Denied, false, "`access_key_id`"),
        (READ, 403, &[], s("NotSignedUp", "not signed up"), Denied, false, "`access_key_id`"),
        (READ, 403, &[], unsigned, Denied, false, "`secret_access_key`"),
        (READ, 403, &[], s("AccessDenied", "Access Denied"), Denied, false, "`s3:ListBucket`"),
        (write, 403, &[], s("AccessDenied", "Access Denied"), Denied, false, "`s3:PutObject`"),
        (delete, 403, &[], s("AccessDenied", "Access Denied"), Denied, false, "`s3:DeleteObject`"),
        (stat, 403, &[], String::new(), Denied, false, "`s3:ListBucket`"),
        (READ, 400, &[], expired, Denied, false, "`session_token_file`"),
        (READ, 503, &[], s("SlowDown", "Please reduce your request rate."), Throttled, true, "lower `connections`"),
        (READ, 429, &[], String::new(), Throttled, true, "lower `connections`"),
        (stat, 503, &[("retry-after", "3")], String::new(), Throttled, true, "lower `connections`"),
        (stat, 503, &[("x-amz-request-id", "4442")], String::new(), Throttled, true, "lower `connections`"),
        (stat, 503, &[], String::new(), Unavailable, true, "503"),
        (READ, 500, &[], s("InternalError", "We encountered an internal error."), Unavailable, true, "internal error"),
        (READ, 400, &[], s("RequestTimeout", "not read from or written to"), Timeout, true, "written to"),
        (READ, 504, &[], "<html>gateway</html>".to_owned(), Timeout, true, "504"),
        (write, 507, &[], s("XMinioStorageFull", "Storage backend is full"), StoreFull, true, "free space"),
        (write, 403, &[], s("QuotaExceeded", ""), StoreFull, true, "raise the quota"),
        (write, 400, &[], s("EntityTooLarge", "exceeds the maximum"), TooLarge, false, "`parallel_from_bytes`"),
        (write, 400, &[], s("KeyTooLongError", "Your key is too long"), InvalidKey, false, "name of the key"),
        (write, 400, &[], s("BadDigest", "did not match"), Corrupt, true, "changed on the way"),
        (READ, 405, &[], s("MethodNotAllowed", "not allowed"), Unsupported, false, "endpoint"),
        (READ, 501, &[], s("NotImplemented", "A header you provided"), Unsupported, false, "endpoint"),
        (READ, 404, &[], "<!DOCTYPE html><title>404</title>nginx".to_owned(), Other, false, "not come from S3"),
        (READ, 302, &[], "<html>Sign in</html>".to_owned(), Other, false, "not come from S3"),
        (write, 404, &[], String::new(), InvalidUrl, false, "endpoint"),
        (READ, 412, &[], s("PreconditionFailed", "At least one"), Corrupt, true, "changed while"),
    ] {
        let (_, e) = answer(Service::S3, operation, status, headers, &body);
        assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{status} {body}: {e}");
        let text = format!("{e} {e:?}");
        assert!(text.contains(wanted) && text.contains("bucket `kv` at https://s3."), "{wanted}: {text}");
        assert!(e.to_string().lines().count() == 1, "{e}");
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[test]
fn a_refusal_of_azure_has_the_kind_that_fits() {
    let unsigned = azure(
        "AuthenticationFailed",
        "Server failed to authenticate the request.",
        "<AuthenticationErrorDetail>The MAC signature found in the HTTP request 'c0ffee51' is not the same as any computed signature.</AuthenticationErrorDetail>",
    );
    let (code, write) = ("x-ms-error-code", Operation::Write);
    for (operation, status, headers, body, kind, temporary, wanted) in [
        (
            READ,
            404,
            &[][..],
            azure("ContainerNotFound", "The specified container does not exist.", ""),
            InvalidUrl,
            false,
            "create the container",
        ),
        (
            Operation::Stat,
            404,
            &[(code, "ContainerNotFound")],
            String::new(),
            InvalidUrl,
            false,
            "create the container",
        ),
        (READ, 409, &[], azure("ContainerBeingDeleted", "is being deleted", ""), Unavailable, true, "once it is gone"),
        (READ, 403, &[], unsigned, Denied, false, "its key or SAS token"),
        (READ, 403, &[], azure("AuthorizationFailure", "not authorized", ""), Denied, false, "firewall"),
        (READ, 403, &[], azure("AuthorizationFailure", "the signature", ""), Denied, false, "the account's key"),
        (write, 403, &[], azure("AuthorizationPermissionMismatch", "not authorized", ""), Denied, false, "Contributor"),
        (
            READ,
            503,
            &[(code, "ServerBusy")],
            azure("ServerBusy", "The server is busy.", ""),
            Throttled,
            true,
            "retries",
        ),
        (READ, 500, &[], azure("OperationTimedOut", "within the permitted time", ""), Timeout, true, "permitted"),
        (write, 400, &[], azure("InvalidResourceName", "invalid characters", ""), InvalidKey, false, "name of the key"),
        (write, 413, &[], azure("RequestBodyTooLarge", "too large", ""), TooLarge, false, "`parallel_from_bytes`"),
    ] {
        let (_, e) = answer(Service::Azure, operation, status, headers, &body);
        assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{status} {body}: {e}");
        let text = format!("{e} {e:?}");
        assert!(text.contains(wanted) && text.contains("container `kv`") && !text.contains("RequestId"), "{text}");
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[test]
fn a_refusal_of_google_has_the_kind_that_fits() {
    for (operation, status, body, kind, temporary, wanted) in [
        (
            READ,
            404,
            google(404, "notFound", "The specified bucket does not exist."),
            InvalidUrl,
            false,
            "create the bucket",
        ),
        (READ, 401, google(401, "authError", "Invalid Credentials"), Denied, false, "sign in again"),
        (
            READ,
            403,
            google(403, "forbidden", "x does not have storage.objects.get access"),
            Denied,
            false,
            "`storage.objects.get`",
        ),
        (READ, 429, google(429, "rateLimitExceeded", "The rate of requests is too high"), Throttled, true, "retries"),
        (READ, 503, google(503, "backendError", "Backend Error"), Unavailable, true, "Backend Error"),
        (
            Operation::Write,
            403,
            google(403, "accountDisabled", "The billing account is disabled"),
            Denied,
            false,
            "billing",
        ),
    ] {
        let (_, e) = answer(Service::Gcs, operation, status, &[], &body);
        assert_eq!((e.kind(), e.is_temporary()), (kind, temporary), "{status} {body}: {e}");
        assert!(e.to_string().contains(wanted), "{wanted}: {e}");
    }
}

#[test]
fn only_a_missing_object_is_a_miss() {
    let missing = xml("NoSuchKey", "<Message>The specified key does not exist.</Message><Key>m</Key>");
    let (s3, azures, gcs) = (Service::S3, Service::Azure, Service::Gcs);
    for (service, operation, body) in [
        (s3, READ, missing.clone()),
        (s3, Operation::Stat, String::new()),
        (s3, Operation::Delete, String::new()),
        (azures, READ, azure("BlobNotFound", "The specified blob does not exist.", "")),
        (gcs, READ, "No such object: kv/m".to_owned()),
        (gcs, Operation::Stat, google(404, "notFound", "No such object: kv/m")),
    ] {
        assert_eq!(answer(service, operation, 404, &[], &body).0, opendal::ErrorKind::NotFound, "{body}");
    }
    for (service, operation, body) in [
        (s3, READ, xml("NoSuchBucket", "")),
        (s3, Operation::Write, missing),
        (s3, Operation::List, String::new()),
        (s3, READ, "<html><body>404 Not Found</body></html>".to_owned()),
        (azures, READ, azure("ContainerNotFound", "", "")),
        (gcs, READ, google(404, "notFound", "The specified bucket does not exist.")),
    ] {
        assert_ne!(answer(service, operation, 404, &[], &body).0, opendal::ErrorKind::NotFound, "{body}");
    }
}

#[test]
fn opendal_gets_the_kinds_that_its_own_steps_need() {
    use opendal::ErrorKind::{ConditionNotMatch, RangeNotSatisfied, RateLimited};
    for (status, kind) in [(412, ConditionNotMatch), (416, RangeNotSatisfied), (429, RateLimited)] {
        assert_eq!(answer(Service::S3, READ, status, &[], "").0, kind);
    }
}

#[test]
fn clocks_that_differ_are_shown_with_their_difference() {
    let now = Timestamp::now();
    let date = (now - Duration::from_secs(25 * 60 + 5)).format_http_date();
    let skewed = xml("RequestTimeTooSkewed", "<Message>The difference is too large.</Message>");
    // A response to `HEAD` has no body that says why.
    for (operation, body) in [(READ, skewed.as_str()), (Operation::Stat, "")] {
        let (_, e) = answer(Service::S3, operation, 403, &[("date", &date)], body);
        let hint = e.hint().unwrap_or_default();
        assert!(e.kind() == Denied && hint.contains("25 min") && hint.contains("ahead of the server's"), "{e}");
    }
    // The body wins over the header, which a proxy may have written.
    let said = format!("<ServerTime>{}</ServerTime>", now + Duration::from_secs(45 * 60));
    let (_, e) = answer(Service::S3, READ, 403, &[("date", &date)], &xml("RequestTimeTooSkewed", &said));
    assert!(e.hint().is_some_and(|hint| hint.contains("min") && hint.contains("behind the server's")), "{e}");
    let near = now.format_http_date();
    let (_, e) = answer(Service::S3, Operation::Stat, 403, &[("date", &near)], "");
    assert!(e.hint().is_some_and(|hint| hint.contains("s3:ListBucket")), "{e}");
}

#[test]
fn a_server_says_how_long_to_wait_in_seconds_milliseconds_or_by_a_date() {
    let wait = |headers: &[(&'static str, &str)]| answer(Service::S3, READ, 503, headers, "").1.retry_after();
    assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
    assert_eq!(wait(&[("x-ms-retry-after-ms", "250")]), Some(Duration::from_millis(250)));
    let date = (Timestamp::now() + Duration::from_secs(60)).format_http_date();
    let until = wait(&[("retry-after", &date)]).unwrap();
    assert!((50..=60).contains(&until.as_secs()), "{until:?}");
    assert_eq!((wait(&[]), wait(&[("retry-after", "soon")])), (None, None));
    // A date that has passed.
    assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), Some(Duration::ZERO));
}

#[test]
fn refused_credentials_differ_from_missing_rights() {
    let late = "<AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [x] - Expiry [y] - Current [z]</AuthenticationErrorDetail>";
    let challenge = ("www-authenticate", "Bearer error=\"invalid_token\"");
    for (service, status, headers, body, renewable) in [
        (Service::S3, 400, &[][..], xml("ExpiredToken", ""), true),
        (Service::S3, 403, &[], xml("InvalidToken", ""), true),
        (Service::S3, 403, &[], xml("InvalidAccessKeyId", ""), true),
        (Service::S3, 403, &[], xml("SignatureDoesNotMatch", ""), true),
        (Service::S3, 403, &[], xml("RequestTimeTooSkewed", ""), false),
        (Service::S3, 403, &[], xml("AccessDenied", ""), false),
        (Service::Azure, 403, &[], azure("AuthenticationFailed", "", late), true),
        (Service::Azure, 403, &[], azure("AuthenticationFailed", "", ""), true),
        (Service::Gcs, 401, &[challenge], google(401, "authError", "Invalid Credentials"), true),
        (Service::Gcs, 403, &[], google(403, "forbidden", ""), false),
    ] {
        let (_, e) = answer(service, READ, status, headers, &body);
        assert_eq!(is_renewable(&e), renewable, "{body}: {e}");
    }
}

#[test]
fn a_text_of_another_server_is_cut_to_a_line_without_credentials() {
    let page = format!("<html><body>\r\n<h1>Blocked</h1>\u{1b}[2J{}</body></html>", "x".repeat(5000));
    let text = answer(Service::S3, READ, 403, &[], &page).1.to_string();
    assert!(text.contains("Blocked [2Jxx") && text.contains("x..") && text.len() < 700, "{text}");
    for echo in [
        "<html>GET /kv/m?sv=2024&sig=c0ffee51 was blocked</html>",
        "<html>Authorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/2026</html>",
        "<html>Authorization: Bearer TOKENEXAMPLE</html>",
    ] {
        let e = answer(Service::Azure, READ, 403, &[], echo).1;
        assert!(!SECRETS.iter().any(|secret| format!("{e:?}").contains(secret)), "{e:?}");
    }
}

#[test]
fn an_object_that_a_bulk_request_does_not_remove_has_an_error_of_its_own() {
    let message =
        "DeleteObjectsResultError { code: \"AccessDenied\", key: \"m\", message: \"Access Denied\", version_id: None }";
    let e = error(opendal::Error::new(opendal::ErrorKind::Unexpected, message), &place(Service::S3));
    assert!(e.kind() == Denied && e.to_string().contains("`s3:DeleteObject`"), "{e}");
}

#[test]
fn an_error_of_the_transport_stays_as_it_is() {
    let own = Error::new(Timeout, "no byte for 30 s").temporary(true).with_hint("check the firewall");
    let e = opendal::Error::new(opendal::ErrorKind::Unexpected, "x").set_source(own.clone());
    assert_eq!(error(e, &place(Service::S3)).to_string(), own.to_string());
}

#[test]
fn missing_credentials_are_an_error_that_says_where_kvconn_looked() {
    let of = |service, cause: opendal::Error| {
        let e = opendal::Error::new(opendal::ErrorKind::Unexpected, "signing http request").set_source(cause);
        error(e, &place(service))
    };
    let nothing = || opendal::Error::new(opendal::ErrorKind::Unexpected, "failed to load signing credential");
    for (service, wanted) in [
        (Service::S3, "AWS_ACCESS_KEY_ID"),
        (Service::Gcs, "GOOGLE_APPLICATION_CREDENTIALS"),
        (Service::Azure, "AZURE_STORAGE_ACCOUNT_KEY"),
    ] {
        let e = of(service, nothing());
        assert!(e.kind() == Denied && e.to_string().contains(wanted) && e.message().contains("failed to load"), "{e}");
    }
    let away = Error::new(Unavailable, "cannot connect to `169.254.169.254`").temporary(true);
    let e = of(Service::S3, nothing().set_source(away));
    assert!(e.kind() == Unavailable && e.is_temporary() && e.message().contains("169.254.169.254"), "{e}");
}
