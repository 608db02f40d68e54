use std::io::{Read, Write};
use std::net::TcpListener;

use tokio::runtime::Handle;

use super::*;
use crate::resp_wire::reply::Limits;
use crate::resp_wire::request::Arg;
use crate::resp_wire::transport::Timeouts;

/// The first answer comes while kvconn still sends the rest, and waits in the socket.
#[tokio::test]
async fn requests_that_are_longer_than_a_round_trip_do_not_shorten_it() {
    const DELAY: Duration = Duration::from_millis(50);
    const LEN: usize = 16 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let server = std::thread::spawn(move || {
        let mut tcp = listener.accept().unwrap().0;
        tcp.read_exact(&mut [0; 1000]).unwrap();
        std::thread::sleep(DELAY);
        tcp.write_all(b"+OK\r\n").unwrap();
        std::io::copy(&mut tcp, &mut std::io::sink()).unwrap();
    });
    let limit = Duration::from_secs(20);
    let timeouts = Timeouts { connect: limit, io: limit };
    let transport = Transport::connect(&address, &Handle::current(), timeouts).await.unwrap();
    let reader = ReplyReader::new(Limits::default(), 4096);
    let mut connection = Connection::new(transport, reader, &address, limit);
    let chunk = vec![0; LEN];
    let mut request = Request::new();
    (0..2).for_each(|_| request.command(&["SET".into(), "key".into(), Arg::Payload(&chunk)]));
    connection.send(&request).await.unwrap();
    connection.reply().await.unwrap();
    let measured = connection.round_trip();
    assert!(DELAY <= measured && measured < limit, "{measured:?}");
    drop(connection);
    server.join().unwrap();
}

/// The call is polled late: the others have their answers before it waits.
#[tokio::test]
async fn a_connection_that_stalls_while_others_get_bytes_stalls_alone() {
    for others_get_bytes in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let limit = Duration::from_millis(50);
        let timeouts = Timeouts { connect: Duration::from_secs(20), io: limit };
        let transport = Transport::connect(&address, &Handle::current(), timeouts).await.unwrap();
        let mut connection = Connection::new(transport, ReplyReader::new(Limits::default(), 4096), &address, limit);
        let progress = Arc::default();
        connection.counts_in(&progress);
        progress.reads.fetch_add(7, Ordering::Relaxed);
        let mut request = Request::new();
        request.command(&["PING".into()]);
        connection.send(&request).await.unwrap();
        progress.reads.fetch_add(usize::from(others_get_bytes), Ordering::Relaxed);
        assert_eq!(connection.reply().await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(connection.is_stalled_alone(), others_get_bytes);
    }
}

/// A connection to a server that has these bytes as its answer, and the number of commands that wait for it.
async fn answered(answer: &'static [u8], commands: usize) -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    std::thread::spawn(move || {
        let mut tcp = listener.accept().unwrap().0;
        tcp.write_all(answer).unwrap();
        std::io::copy(&mut tcp, &mut std::io::sink()).unwrap();
    });
    let limit = Duration::from_secs(20);
    let timeouts = Timeouts { connect: limit, io: limit };
    let transport = Transport::connect(&address, &Handle::current(), timeouts).await.unwrap();
    let mut connection = Connection::new(transport, ReplyReader::new(Limits::default(), 4096), &address, limit);
    let mut request = Request::new();
    (0..commands).for_each(|_| request.command(&["PING".into()]));
    connection.send(&request).await.unwrap();
    connection
}

#[tokio::test]
async fn replies_that_an_exchange_leaves_are_dropped_whole() {
    let mut connection = answered(b"-ERR no\r\n*2\r\n$3\r\nabc\r\n:1\r\n$3\r\nabc\r\n+NEXT\r\n", 4).await;
    assert!(connection.answer().await.unwrap().is_err());
    connection.drop_replies(1).await.unwrap();
    assert_eq!(connection.reply().await.unwrap(), Reply::Simple(b"NEXT".to_vec()));
    connection.drop_replies(0).await.unwrap();
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn a_connection_fails_if_an_exchange_reads_a_part_of_a_reply_or_a_reply_of_another() {
    let is_corrupt = async |mut connection: Connection, later| {
        let e = connection.drop_replies(later).await.expect_err("the exchange is wrong");
        assert!(e.kind() == ErrorKind::Corrupt && !connection.is_reusable(), "{e}");
    };
    let mut payload = answered(b"$3\r\nabc\r\n+NEXT\r\n", 2).await;
    assert_eq!(payload.reply_start().await.unwrap(), ReplyStart::Bulk(3));
    is_corrupt(payload, 1).await;
    let mut array = answered(b"*2\r\n:1\r\n:2\r\n+NEXT\r\n", 2).await;
    assert_eq!(array.reply_start().await.unwrap(), ReplyStart::Array(2));
    array.element_start().await.unwrap();
    is_corrupt(array, 1).await;
    let mut both = answered(b"+OK\r\n+NEXT\r\n", 2).await;
    both.reply().await.unwrap();
    both.reply().await.unwrap();
    is_corrupt(both, 1).await;
}
