//! How the server fails.

use std::time::Duration;

use super::operation::Operation;
use super::refusal::Refusal;

/// One way to fail, and the requests that fail so. Without [`on`](Self::on) and [`key`](Self::key), all requests do.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) kind: Kind,
    operations: Vec<Operation>,
    key: Option<String>,
    one_in: u32,
    /// This number of requests passes first.
    after: usize,
    /// How many requests fail. `None` is all of them.
    pub(super) times: Option<usize>,
}

/// How the server goes on after it refused a request early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The server reads the rest of the body and serves the next request.
    ReadOn,
    /// The server reads no more. The connection stays open until the client closes it.
    Stall,
    /// The server closes the connection.
    Close,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Refuse(Refusal),
    Early { refusal: Refusal, after: usize, then: Then },
    Answer { status: u16, content_type: String, body: String },
    Stall,
    Close,
    LoseAnswer,
    Delay(Duration),
    BodyStall { after: usize },
    BodyCut { after: usize },
    BodyDrip { bytes: usize, every: Duration },
    Length(isize),
    FlipByte { at: usize },
    Chunked,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, operations: Vec::new(), key: None, one_in: 1, after: 0, times: Some(1) }
    }

    /// A refusal with a status and one of S3's codes. The server does nothing else.
    pub fn refuse(status: u16, code: &'static str, message: &str) -> Self {
        Self::new(Kind::Refuse(Refusal::new(status, code, message)))
    }

    /// An answer that is not S3's: a proxy's page, another server's text.
    pub fn answer(status: u16, content_type: &str, body: &str) -> Self {
        Self::new(Kind::Answer { status, content_type: content_type.to_owned(), body: body.to_owned() })
    }

    /// `503 SlowDown`.
    pub fn slow_down() -> Self {
        Self::refuse(503, "SlowDown", "Please reduce your request rate.")
    }

    /// `429 TooManyRequests` with a `Retry-After` header: seconds, or a date.
    pub fn too_many_requests(retry_after: &str) -> Self {
        let refusal = Refusal::new(429, "TooManyRequests", "Please reduce your request rate.");
        Self::new(Kind::Refuse(refusal.header("Retry-After", retry_after)))
    }

    /// `500 InternalError`.
    pub fn internal_error() -> Self {
        Self::refuse(500, "InternalError", "We encountered an internal error. Please try again.")
    }

    /// `400 ExpiredToken`. [`FakeS3::expire`](super::FakeS3::expire) does it to one pair of keys.
    pub fn expired_token() -> Self {
        Self::refuse(400, "ExpiredToken", "The provided token has expired.")
    }

    /// `403 RequestTimeTooSkewed`. [`FakeS3::set_clock`](super::FakeS3::set_clock) sets the server's clock.
    pub fn skewed_clock() -> Self {
        let message = "The difference between the request time and the current time is too large.";
        Self::refuse(403, "RequestTimeTooSkewed", message)
    }

    /// `301 PermanentRedirect` to another region.
    pub fn moved(region: &str) -> Self {
        let message = "The bucket you are attempting to access must be addressed using the specified endpoint.";
        let refusal = Refusal::new(301, "PermanentRedirect", message);
        let refusal = refusal.element("Endpoint", format!("kv.s3.{region}.amazonaws.com"));
        Self::new(Kind::Refuse(refusal.header("x-amz-bucket-region", region)))
    }

    /// `503 SlowDown` after `bytes` of the request's body. After a shorter body, the connection serves the next request, unless
    /// [`Then::Close`] closes it.
    pub fn early(bytes: usize, then: Then) -> Self {
        let refusal = Refusal::new(503, "SlowDown", "Please reduce your request rate.");
        Self::new(Kind::Early { refusal, after: bytes, then })
    }

    /// The server reads the request, does nothing, and never answers.
    pub fn stall() -> Self {
        Self::new(Kind::Stall)
    }

    /// The server reads the head of the request and closes the connection.
    pub fn close() -> Self {
        Self::new(Kind::Close)
    }

    /// The server does what the request asks, and closes the connection without an answer.
    pub fn lose_answer() -> Self {
        Self::new(Kind::LoseAnswer)
    }

    /// The answer's first byte is late.
    pub fn delay(by: Duration) -> Self {
        Self::new(Kind::Delay(by))
    }

    /// The answer stalls after `bytes` of its body. A shorter answer is whole.
    pub fn stall_in_body(bytes: usize) -> Self {
        Self::new(Kind::BodyStall { after: bytes })
    }

    /// The connection closes after `bytes` of the answer's body.
    pub fn cut_body(bytes: usize) -> Self {
        Self::new(Kind::BodyCut { after: bytes })
    }

    /// The answer's body comes in small parts, with a pause before each.
    pub fn drip(bytes: usize, every: Duration) -> Self {
        Self::new(Kind::BodyDrip { bytes, every })
    }

    /// `Content-Length` is wrong by this number of bytes. If it is too large, the connection closes after the body. If it is too
    /// small, all bytes of the body follow.
    pub fn content_length(difference: isize) -> Self {
        Self::new(Kind::Length(difference))
    }

    /// One byte of the answer's body is another one.
    pub fn flip_byte(at: usize) -> Self {
        Self::new(Kind::FlipByte { at })
    }

    /// The answer has no `Content-Length`: its body is in chunks of HTTP. This is valid HTTP.
    pub fn chunked() -> Self {
        Self::new(Kind::Chunked)
    }

    /// Only these operations fail.
    #[must_use]
    pub fn on(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operations = operations.into_iter().collect();
        self
    }

    /// Only requests whose key contains `part` fail.
    #[must_use]
    pub fn key(mut self, part: &str) -> Self {
        self.key = Some(part.to_owned());
        self
    }

    /// This number of requests fails: 1 unless set. [`FakeS3::always`](super::FakeS3::always) ignores it.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// This number of requests passes first.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.after = requests;
        self
    }

    /// One request of `n` fails, at random.
    #[must_use]
    pub fn one_in(mut self, n: u32) -> Self {
        self.one_in = n;
        self
    }

    pub(super) fn hits(&mut self, operation: Operation, key: &str, rng: &mut fastrand::Rng) -> bool {
        let is_chosen = (self.operations.is_empty() || self.operations.contains(&operation))
            && self.key.as_ref().is_none_or(|part| key.contains(part.as_str()))
            && rng.u32(0..self.one_in) == 0;
        if is_chosen && self.after > 0 {
            self.after -= 1;
            return false;
        }
        is_chosen
    }
}
