//! The S3 server of this crate, as Amazon's client and as a socket sees it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use kvconn_cloud_servers::{FakeS3, Fault, Operation, Then, python_with_boto3};

fn fake() -> FakeS3 {
    let fake = FakeS3::start();
    fake.bucket("kv");
    fake.allow_anonymous("kv");
    fake.put_object("kv", "digits", b"0123456789".to_vec(), &[("kvconnkey", "a%2Fb")]);
    fake
}

fn connect(fake: &FakeS3) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", fake.port())).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Reads until the server closes the connection. The request must ask for that.
fn exchange(fake: &FakeS3, request: &str) -> String {
    let mut stream = connect(fake);
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    answer
}

const GET: &str = "GET /kv/digits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn amazons_client_is_served_and_refused_as_by_s3() {
    let fake = FakeS3::start();
    fake.bucket("kv");
    let credentials = fake.credentials();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake.py");
    let output = Command::new(python_with_boto3())
        .args([script, &fake.endpoint(), &credentials.access_key_id, &credentials.secret_access_key])
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fake.unfinished_uploads("kv").is_empty());
    let requests = fake.requests();
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
    let regional =
        requests.iter().filter(|request| (request.method.as_str(), request.key.as_str()) == ("GET", "regional"));
    assert_eq!(regional.map(|request| request.status).collect::<Vec<_>>(), [Some(400), Some(200)]);
}

#[test]
fn a_host_name_begins_with_the_bucket() {
    let fake = fake();
    for request in [
        "GET /digits HTTP/1.1\r\nHost: kv.localhost:9000\r\nConnection: close\r\n\r\n",
        "GET http://kv.s3.us-east-1.amazonaws.com/digits HTTP/1.1\r\nHost: kv.s3.us-east-1.amazonaws.com\r\nConnection: close\r\n\r\n",
        GET,
    ] {
        let answer = exchange(&fake, request);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("0123456789"), "{answer}");
        assert!(answer.contains("x-amz-meta-kvconnkey: a%2Fb\r\n"), "{answer}");
    }
}

#[test]
fn a_request_without_a_signature_is_refused() {
    let fake = FakeS3::start();
    fake.bucket("kv");
    fake.put_object("kv", "digits", Vec::new(), &[]);
    assert!(exchange(&fake, GET).contains("<Code>AccessDenied</Code>"));
}

#[test]
fn a_fault_fails_the_requests_that_it_chooses() {
    let fake = fake();
    fake.next(Fault::slow_down().on([Operation::Put]));
    fake.next(Fault::slow_down().key("other"));
    fake.next(Fault::too_many_requests("3").on([Operation::Get]).key("dig").times(2));
    for _ in 0..2 {
        let answer = exchange(&fake, GET);
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("Retry-After: 3\r\n"), "{answer}");
    }
    assert!(exchange(&fake, GET).starts_with("HTTP/1.1 200 "));
    fake.always(Fault::internal_error().one_in(2));
    let failed = (0..100).filter(|_| exchange(&fake, GET).starts_with("HTTP/1.1 500 ")).count();
    assert!((10..90).contains(&failed), "{failed} of 100");
    fake.clear_faults();
    assert!(exchange(&fake, GET).starts_with("HTTP/1.1 200 "));
    assert_eq!(fake.count(Operation::Get), 104);
}

#[test]
fn the_body_of_an_answer_is_cut_changed_late_or_of_another_length() {
    let fake = fake();
    fake.next(Fault::cut_body(4));
    let mut bytes = Vec::new();
    let mut stream = connect(&fake);
    stream.write_all(GET.as_bytes()).expect("the server reads");
    stream.read_to_end(&mut bytes).expect("the server closes the connection");
    let answer = String::from_utf8_lossy(&bytes);
    assert!(answer.contains("Content-Length: 10\r\n") && answer.ends_with("\r\n\r\n0123"), "{answer}");
    fake.next(Fault::content_length(5));
    let answer = exchange(&fake, GET);
    assert!(answer.contains("Content-Length: 15\r\n") && answer.ends_with("\r\n\r\n0123456789"), "{answer}");
    fake.next(Fault::content_length(-5));
    let answer = exchange(&fake, GET);
    assert!(answer.contains("Content-Length: 5\r\n") && answer.ends_with("\r\n\r\n0123456789"), "{answer}");
    fake.next(Fault::flip_byte(1));
    assert!(exchange(&fake, GET).ends_with("\r\n\r\n0023456789"));
    fake.next(Fault::chunked());
    let answer = exchange(&fake, GET);
    assert!(answer.ends_with("\r\n\r\na\r\n0123456789\r\n0\r\n\r\n") && !answer.contains("Content-Length"), "{answer}");
    fake.next(Fault::delay(Duration::from_millis(200)));
    let start = Instant::now();
    assert!(exchange(&fake, GET).ends_with("0123456789"));
    assert!(start.elapsed() >= Duration::from_millis(200));
    fake.next(Fault::close());
    assert_eq!(exchange(&fake, GET), "");
}

#[test]
fn a_lost_answer_is_of_a_request_that_was_served() {
    let fake = fake();
    let put =
        |key| format!("PUT /kv/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
    fake.next(Fault::lose_answer());
    assert_eq!(exchange(&fake, &put("lost")), "");
    assert!(fake.object("kv", "lost").is_some());
    fake.next(Fault::slow_down());
    assert!(exchange(&fake, &put("refused")).starts_with("HTTP/1.1 503 "));
    assert!(fake.object("kv", "refused").is_none());
}

#[test]
fn an_early_answer_comes_before_the_rest_of_the_request() {
    let fake = fake();
    fake.keep_bodies();
    let head = "PUT /kv/early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234";
    for then in [Then::ReadOn, Then::Stall, Then::Close] {
        fake.forget_requests();
        fake.next(Fault::early(3, then));
        let mut stream = connect(&fake);
        stream.write_all(head.as_bytes()).expect("the server reads");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer before the end of the request");
        assert_eq!(&answer, b"HTTP/1.1 503");
        if then == Then::ReadOn {
            stream.write_all(b"56789").expect("the server reads on");
            stream.write_all(GET.as_bytes()).expect("the server reads on");
            let mut rest = String::new();
            stream.read_to_string(&mut rest).expect("a second answer");
            assert!(rest.ends_with("\r\n\r\n0123456789"), "{rest}");
            assert_eq!(fake.requests()[0].body, b"0123456789");
        } else {
            assert_eq!(fake.requests()[0].body, b"012");
        }
    }
    assert!(fake.object("kv", "early").is_none());
}

#[test]
fn a_stall_ends_when_the_client_or_the_server_disconnects() {
    let mut fake = fake();
    for fault in [Fault::stall(), Fault::stall_in_body(4)] {
        fake.next(fault);
        let mut stream = connect(&fake);
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        stream.write_all(GET.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        let error = stream.read_to_string(&mut answer).expect_err("the server stalls");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
    fake.next(Fault::stall());
    let mut stream = connect(&fake);
    stream.write_all(GET.as_bytes()).expect("the server reads");
    fake.wait_for_requests(|requests| requests.len() == 3);
    fake.stop();
    assert!(matches!(stream.read(&mut [0; 10]), Ok(0) | Err(_)), "the server is stopped");
    fake.resume();
    assert!(exchange(&fake, GET).ends_with("0123456789"));
}
