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
