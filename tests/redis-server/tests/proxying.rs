//! The proxy in front of an echo server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kvconn_redis_server::{Corruption, Fault, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A timeout that is long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // The peer may close the connection at any time.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

/// A chunk of `len` bytes, as RESP frames it.
fn framed(len: usize) -> Vec<u8> {
    let mut bytes = format!("${len}\r\n").into_bytes();
    bytes.extend((0..len).map(|i| (i % 251) as u8));
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Sends the bytes, and gives all bytes that come back until the connection ends.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = stream.split();
    let mut back = Vec::new();
    let send = async {
        // A cut connection may refuse the remaining bytes.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let receive = async {
        // A reset ends the connection, too.
        let _ = from.read_to_end(&mut back).await;
    };
    timeout(SOON, async { tokio::join!(send, receive) }).await.expect("the connection ends");
    back
}

async fn through(fault: impl FnOnce(&Proxy), bytes: &[u8]) -> (Vec<u8>, usize) {
    let proxy = Proxy::start(echo().await).await;
    fault(&proxy);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let back = exchange(&mut stream, bytes).await;
    (back, proxy.struck())
}

#[tokio::test]
async fn all_bytes_pass_without_a_fault() {
    let bytes = framed(1_000_000);
    assert_eq!(through(|_| {}, &bytes).await, (bytes, 0));
}

#[tokio::test]
async fn a_cut_reply_ends_after_the_exact_byte() {
    let bytes = framed(100_000);
    let (back, struck) = through(|proxy| proxy.replies(Fault::CutAfter(12_345)), &bytes).await;
    assert_eq!((back.as_slice(), struck), (&bytes[..12_345], 1));
}

#[tokio::test]
async fn a_cut_request_never_reaches_the_server_whole() {
    let bytes = framed(100_000);
    let (back, struck) = through(|proxy| proxy.requests(Fault::CutAfter(12_345)), &bytes).await;
    assert!(bytes.starts_with(&back) && back.len() <= 12_345 && struck == 1, "{} bytes, {struck}", back.len());
}

#[tokio::test]
async fn single_bytes_are_the_same_bytes() {
    let bytes = framed(3000);
    let both = |proxy: &Proxy| {
        proxy.requests(Fault::SingleBytes);
        proxy.replies(Fault::SingleBytes);
    };
    assert_eq!(through(both, &bytes).await, (bytes, 0));
}

#[tokio::test]
async fn corruption_changes_the_length_of_a_chunk_but_not_of_a_short_string() {
    let chunk = framed(4096);
    let (back, struck) = through(|proxy| proxy.replies(Fault::Corrupt(Corruption::OneLonger)), &chunk).await;
    assert_eq!((&back[..7], &back[7..], struck), (&b"$4097\r\n"[..], &chunk[7..], 1));
    let short = framed(40);
    assert_eq!(through(|proxy| proxy.replies(Fault::Corrupt(Corruption::Huge)), &short).await, (short, 0));
}

#[tokio::test]
async fn a_stalled_direction_resumes_after_heal() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.replies(Fault::Stall);
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    let early = timeout(Duration::from_millis(50), stream.read_exact(&mut back)).await;
    assert!(early.is_err(), "{early:?}");
    proxy.heal();
    timeout(SOON, stream.read_exact(&mut back)).await.expect("it goes on").unwrap();
    assert_eq!(&back, b"hello");
}

#[tokio::test]
async fn one_connection_stalls_and_the_others_pass() {
    let proxy = Proxy::start(echo().await).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(proxy.address()).await.unwrap());
    }
    proxy.replies(Fault::StallNext);
    streams[0].write_all(b"hello").await.unwrap();
    proxy.strikes(0).await;
    let mut back = [0; 5];
    for stream in &mut streams[1..] {
        stream.write_all(b"hello").await.unwrap();
        timeout(SOON, stream.read_exact(&mut back)).await.expect("it comes back").unwrap();
    }
    let early = timeout(Duration::from_millis(50), streams[0].read_exact(&mut back)).await;
    assert!(early.is_err() && proxy.struck() == 1, "{early:?}");
    proxy.heal();
    timeout(SOON, streams[0].read_exact(&mut back)).await.expect("it goes on").unwrap();
}

#[tokio::test]
async fn a_delayed_direction_passes_all_bytes() {
    let bytes = framed(1000);
    assert_eq!(through(|proxy| proxy.replies(Fault::Delay(Duration::from_millis(5))), &bytes).await, (bytes, 0));
}

/// Every byte is late, and the bytes do not wait for each other: one after the other, the 160 pieces would take 8 s.
#[tokio::test]
async fn a_long_wire_delays_every_byte_and_keeps_the_bandwidth() {
    let latency = Duration::from_millis(50);
    let bytes = framed(10 << 20);
    let begin = Instant::now();
    assert_eq!(through(|proxy| proxy.latency(latency), &bytes).await, (bytes, 0));
    assert!(begin.elapsed() >= 2 * latency, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn round_trips_count_the_turns_of_a_connection() {
    let proxy = Proxy::start(echo().await).await;
    let mut first = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 10];
    for _ in 0..3 {
        first.write_all(b"hello").await.unwrap();
        timeout(SOON, first.read_exact(&mut back[..5])).await.expect("it comes back").unwrap();
    }
    proxy.latency(Duration::from_millis(20));
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    // Both requests leave before an answer comes.
    second.write_all(b"hello").await.unwrap();
    second.write_all(b"again").await.unwrap();
    timeout(SOON, second.read_exact(&mut back)).await.expect("it comes back").unwrap();
    assert_eq!(proxy.round_trips(), [3, 1]);
}

#[tokio::test]
async fn cut_after_counts_the_bytes_since_the_fault_was_set() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 5];
    for _ in 0..2 {
        proxy.replies(Fault::CutAfter(7));
        stream.write_all(b"hello").await.unwrap();
        timeout(SOON, stream.read_exact(&mut back)).await.expect("it comes back").unwrap();
    }
    stream.write_all(b"hello").await.unwrap();
    let mut rest = Vec::new();
    // A reset ends the connection, too.
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection is cut");
    assert_eq!((rest.as_slice(), proxy.struck()), (&b"he"[..], 1));
}

#[tokio::test]
async fn cut_ends_current_connections_and_accepts_new_ones() {
    let proxy = Proxy::start(echo().await).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 5];
    old.write_all(b"hello").await.unwrap();
    timeout(SOON, old.read_exact(&mut back)).await.expect("it comes back").unwrap();
    proxy.cut();
    let ended = timeout(SOON, old.read(&mut back)).await.expect("the connection ends");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(exchange(&mut new, b"hello").await, b"hello");
    assert_eq!(proxy.accepted(), 2);
}
