//! An S3 server in this process, which fails on demand.

mod bucket;
mod fault;
mod http;
mod objects;
mod operation;
mod refusal;
mod serve;
mod signature;
mod state;
mod uploads;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

pub use self::fault::{Fault, Then};
pub use self::operation::Operation;
pub use self::state::Object;

use self::http::{Connection, Head};
use self::operation::Target;
use self::state::{Bucket, Known, State};

/// A test waits at most this long for a request.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// An S3 server in this process, on 127.0.0.1.
///
/// It checks signatures, regions, clocks and checksums as S3 does. It serves objects with metadata, ranges, `If-Match`, uploads in
/// parts, lists in pages, and both styles of addresses: a host name's first label is the bucket's name. It can be an HTTP proxy for
/// any such host name. A [`Fault`] makes requests fail.
pub struct FakeS3 {
    port: u16,
    state: Arc<Mutex<State>>,
    /// `None` while the server is stopped.
    listening: Option<Listening>,
}

struct Listening {
    stopped: Arc<AtomicBool>,
    /// The open connections.
    streams: Arc<Mutex<HashMap<usize, TcpStream>>>,
    thread: JoinHandle<()>,
}

/// An access key with its secret, and a token if they are temporary.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Amazon's")]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl Credentials {
    /// The credentials of each server in this crate.
    pub fn example() -> Self {
        Self::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", None)
    }

    /// Credentials of a test's own.
    pub fn new(access_key_id: &str, secret_access_key: &str, session_token: Option<&str>) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            session_token: session_token.map(str::to_owned),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// A request that the server read.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// The operation of S3.
    pub operation: Operation,
    /// Empty for a list of buckets.
    pub bucket: String,
    /// Decoded. Empty for an operation on a bucket.
    pub key: String,
    /// Decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case, without the headers that have secrets.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body that the server has read.
    pub bytes: usize,
    /// The body that the server has read, after [`FakeS3::keep_bodies`].
    pub body: Vec<u8>,
    /// The status of the answer. `None` before the answer, and where a [`Fault`] gave none.
    pub status: Option<u16>,
}

impl Request {
    fn new(head: &Head, target: &Target) -> Self {
        let secret = ["authorization", "x-amz-security-token", "x-amz-s3session-token"];
        let headers = head.headers.iter().filter(|(name, _)| !secret.contains(&name.as_str()));
        Self {
            method: head.method.clone(),
            operation: target.operation,
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            query: head.query.clone(),
            headers: headers.cloned().collect(),
            bytes: 0,
            body: Vec::new(),
            status: None,
        }
    }

    /// The value of a header. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl FakeS3 {
    /// Starts a server in `us-east-1` without buckets. It knows [`Credentials::example`].
    ///
    /// # Panics
    /// If this machine has no loopback.
    pub fn start() -> Self {
        let state = State {
            buckets: Default::default(),
            known: vec![Known { credentials: Credentials::example(), expired: false }],
            region: "us-east-1".into(),
            ahead: SignedDuration::ZERO,
            page: 1000,
            faults: Vec::new(),
            rng: fastrand::Rng::with_seed(0),
            requests: Vec::new(),
            keep_bodies: false,
            ids: 0,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(Mutex::new(state));
        Self { port, listening: Some(Listening::start(listener, Arc::clone(&state))), state }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The credentials that the server knows from its start.
    pub fn credentials(&self) -> Credentials {
        Credentials::example()
    }

    /// Makes an empty bucket.
    ///
    /// # Panics
    /// If the bucket exists.
    pub fn bucket(&self, name: &str) {
        assert!(self.state().buckets.insert(name.to_owned(), Bucket::default()).is_none(), "a fresh bucket");
    }

    /// The bucket serves requests without a signature.
    ///
    /// # Panics
    /// As [`object`](Self::object).
    pub fn allow_anonymous(&self, bucket: &str) {
        self.in_bucket(bucket, |bucket| bucket.anonymous = true);
    }

    /// The object of a key.
    ///
    /// # Panics
    /// If the bucket does not exist.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.in_bucket(bucket, |bucket| bucket.objects.get(key).cloned())
    }

    /// Writes an object, as another program does.
    ///
    /// # Panics
    /// As [`object`](Self::object).
    pub fn put_object(&self, bucket: &str, key: &str, bytes: Vec<u8>, metadata: &[(&str, &str)]) {
        let metadata = metadata.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let object = Object::new(bytes, metadata, self.state().now());
        self.in_bucket(bucket, |bucket| bucket.objects.insert(key.to_owned(), object));
    }

    /// The keys of a bucket, sorted.
    ///
    /// # Panics
    /// As [`object`](Self::object).
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.in_bucket(bucket, |bucket| bucket.objects.keys().cloned().collect())
    }

    /// The keys of the uploads that are neither complete nor aborted.
    ///
    /// # Panics
    /// As [`object`](Self::object).
    pub fn unfinished_uploads(&self, bucket: &str) -> Vec<String> {
        self.in_bucket(bucket, |bucket| bucket.uploads.values().map(|upload| upload.key.clone()).collect())
    }

    /// The server is in another region.
    pub fn set_region(&self, region: &str) {
        region.clone_into(&mut self.state().region);
    }

    /// The server's clock is this much ahead of the machine's. Negative is behind.
    pub fn set_clock(&self, ahead: SignedDuration) {
        self.state().ahead = ahead;
    }

    /// The most keys in one page of a list: 1000 unless set.
    pub fn set_page(&self, keys: usize) {
        self.state().page = keys;
    }

    /// The server knows further credentials.
    pub fn accept(&self, credentials: Credentials) {
        self.state().known.push(Known { credentials, expired: false });
    }

    /// The server does not know an access key any more.
    pub fn forget(&self, access_key_id: &str) {
        self.state().known.retain(|known| known.credentials.access_key_id != access_key_id);
    }

    /// The token of an access key has expired.
    ///
    /// # Panics
    /// If the server does not know the access key.
    pub fn expire(&self, access_key_id: &str) {
        let mut state = self.state();
        let known = state.known.iter_mut().find(|known| known.credentials.access_key_id == access_key_id);
        known.expect("a known access key").expired = true;
    }

    /// The next request that the fault chooses fails; with [`Fault::times`], that number of requests. Earlier faults win.
    pub fn next(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// All requests that the fault chooses fail, until [`clear_faults`](Self::clear_faults).
    pub fn always(&self, mut fault: Fault) {
        fault.times = None;
        self.state().faults.push(fault);
    }

    /// Removes all faults. A request that stalls does not recover.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// The next [`Fault::one_in`] choose other requests.
    pub fn seed(&self, seed: u64) {
        self.state().rng.seed(seed);
    }

    /// The requests since the start or the last [`forget_requests`](Self::forget_requests).
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The number of requests of an operation.
    pub fn count(&self, operation: Operation) -> usize {
        self.state().requests.iter().filter(|request| request.operation == operation).count()
    }

    /// Waits until the requests are as `done` says, and gives them.
    ///
    /// # Panics
    /// If `done` is not true in time.
    pub fn wait_for_requests(&self, done: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let deadline = Instant::now() + ARRIVES_WITHIN;
        loop {
            let requests = self.requests();
            if done(&requests) {
                return requests;
            }
            assert!(Instant::now() < deadline, "timeout; the server has {requests:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Empties [`requests`](Self::requests).
    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    /// [`Request::body`] has the bodies of the next requests.
    pub fn keep_bodies(&self) {
        self.state().keep_bodies = true;
    }

    /// Closes all connections and accepts no more, until [`resume`](Self::resume). The objects stay.
    pub fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.stop(self.port);
        }
    }

    /// Closes all connections. The server accepts new ones.
    pub fn disconnect(&self) {
        if let Some(listening) = &self.listening {
            listening.disconnect();
        }
    }

    /// Accepts connections again on the same port.
    ///
    /// # Panics
    /// If another process took the port.
    pub fn resume(&mut self) {
        if self.listening.is_none() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("the same port");
            self.listening = Some(Listening::start(listener, Arc::clone(&self.state)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_bucket<T>(&self, name: &str, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut state = self.state();
        act(state.buckets.get_mut(name).unwrap_or_else(|| panic!("bucket {name:?} does not exist")))
    }
}

impl fmt::Debug for FakeS3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeS3").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Listening {
    fn start(listener: TcpListener, state: Arc<Mutex<State>>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(HashMap::new()));
        let (stop, open) = (Arc::clone(&stopped), Arc::clone(&streams));
        let thread = thread::spawn(move || {
            for (id, stream) in listener.incoming().enumerate() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state, open) = (stream, Arc::clone(&state), Arc::clone(&open)) else { continue };
                let Ok(clone) = stream.try_clone() else { continue };
                open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, clone);
                thread::spawn(move || {
                    // Tests disconnect clients on purpose.
                    let _ = serve::serve(&state, &mut Connection::new(stream));
                    let stream = open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    let _ = stream.map(|stream| stream.shutdown(Shutdown::Both));
                });
            }
        });
        Self { stopped, streams, thread }
    }

    fn disconnect(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // Fails if the client has closed the connection.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn stop(self, port: u16) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let streams = Arc::clone(&self.streams);
        let _ = self.thread.join();
        for stream in streams.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
