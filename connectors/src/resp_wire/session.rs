//! A TLS session over a socket.

use std::io::{self, BufRead, IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, IoState, ProtocolVersion};

use super::transport::{Ready, Socket};

/// The session of one connection.
pub(super) struct Session {
    tls: ClientConnection,
    /// Bytes of the socket. The session has not taken those from `start` to `end`.
    received: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The most bytes that one system call receives.
const RECEIVED: usize = 64 << 10;
/// The most bytes that wait encrypted for the socket.
const PENDING: usize = 256 << 10;

impl Session {
    /// A session that has not sent anything.
    pub(super) fn new(
        config: Arc<ClientConfig>,
        server: ServerName<'static>,
    ) -> std::result::Result<Self, rustls::Error> {
        let mut tls = ClientConnection::new(config, server)?;
        tls.set_buffer_limit(Some(PENDING));
        Ok(Self { tls, received: vec![0; RECEIVED].into(), start: 0, end: 0 })
    }

    /// Runs the handshake as far as the socket allows. Returns the readiness that it waits for, or `None` once it is done.
    pub(super) fn shake_hands(&mut self, socket: &Socket) -> io::Result<Option<Ready>> {
        loop {
            while self.has_pending() {
                match self.write(&[], socket) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Ready::Write)),
                    sent => sent?,
                };
            }
            if !self.tls.is_handshaking() {
                return Ok(None);
            }
            match self.advance(|to| socket.receive(&mut [IoSliceMut::new(to)])) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Ready::Read { at_least: 1 })),
                Err(e) => {
                    // An alert tells the server why. The handshake has failed whether it arrives or not.
                    let _ = self.write(&[], socket);
                    return Err(e);
                }
            }
        }
    }

    /// Reads decrypted bytes. Fills the first of several buffers before it reads into the others.
    pub(super) fn read(&mut self, to: &mut [IoSliceMut<'_>], socket: &Socket) -> io::Result<usize> {
        let enough = if to.len() > 1 { to[0].len() } else { 1 };
        let mut read = 0;
        for part in to {
            let mut done = 0;
            while done < part.len() {
                match self.tls.reader().read(&mut part[done..]) {
                    Ok(0) => return Ok(read),
                    Ok(n) => {
                        done += n;
                        read += n;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && read < enough => {
                        match self.advance(|to| socket.receive(&mut [IoSliceMut::new(to)])) {
                            Ok(Some(_)) => {}
                            // The reply's length says whether it is whole, so `close_notify` may be missing.
                            Ok(None) => return Ok(read),
                            // The next read has the error again.
                            Err(_) if read > 0 => return Ok(read),
                            Err(e) => return Err(e),
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(read),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(read)
    }

    /// Encrypts and sends bytes, after those that wait. Gives how many it took. Some of them may then wait for the socket.
    pub(super) fn write(&mut self, from: &[IoSlice<'_>], socket: &Socket) -> io::Result<usize> {
        let (mut taken, mut moved) = (0, false);
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut Sender(socket)) {
                    Ok(_) => moved = true,
                    Err(_) if moved => return Ok(taken),
                    Err(e) => return Err(e),
                }
            }
            if taken > 0 || from.is_empty() {
                return Ok(taken);
            }
            taken = self.tls.writer().write_vectored(from)?;
            moved = true;
        }
    }

    /// Whether encrypted bytes wait for the socket.
    pub(super) fn has_pending(&self) -> bool {
        self.tls.wants_write()
    }

    /// Whether decrypted bytes are there.
    pub(super) fn has_unread(&mut self) -> bool {
        self.tls.reader().fill_buf().is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Whether the server sent neither data nor an end. It may send a ticket for a later session at any time.
    pub(super) fn is_quiet(&mut self, socket: &Socket) -> bool {
        loop {
            if self.has_unread() {
                return false;
            }
            match self.advance(|to| socket.receive_now(to)) {
                Ok(Some(state)) if !state.peer_has_closed() => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
                _ => return false,
            }
        }
    }

    /// The version of TLS.
    pub(super) fn version(&self) -> Option<&'static str> {
        match self.tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLS 1.3"),
            _ => None,
        }
    }

    /// The cipher that both sides agreed on.
    pub(super) fn cipher(&self) -> Option<&'static str> {
        self.tls.negotiated_cipher_suite()?.suite().as_str()
    }

    /// Hands received bytes to the session. `None` at their end.
    fn advance(&mut self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Option<IoState>> {
        if self.start == self.end {
            // A session that failed gives its error again. A wait for more bytes may be in vain.
            self.process()?;
            self.start = 0;
            self.end = 0;
            self.end = receive(&mut self.received)?;
        }
        let mut rest = &self.received[self.start..self.end];
        let taken = self.tls.read_tls(&mut rest)?;
        self.start += taken;
        let state = self.process()?;
        Ok((taken > 0).then_some(state))
    }

    fn process(&mut self) -> io::Result<IoState> {
        self.tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Lets the session write to the socket.
struct Sender<'a>(&'a Socket);

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("version", &self.version()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use connector_core::{Error, ErrorKind};
    use kvconn_redis_server::Certificates;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};
    use tokio::runtime::Handle;

    use super::*;
    use crate::resp_wire::connection::Connection;
    use crate::resp_wire::reply::{Limits, ReplyReader, ReplyStart};
    use crate::resp_wire::tls::TlsSettings;
    use crate::resp_wire::transport::{Address, Timeouts, Transport};

    /// Accepts one connection, calls `serve` with it on a new thread, and gives the port.
    fn accept(certificates: &Certificates, serve: impl FnOnce(ServerConnection, TcpStream) + Send + 'static) -> u16 {
        let local = certificates.local();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = CertificateDer::from_pem_file(local.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(local.key).unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let tcp = listener.accept().unwrap().0;
            serve(ServerConnection::new(Arc::new(config)).unwrap(), tcp);
        });
        port
    }

    /// Sends for each byte: new keys, a byte, and the end of TLS.
    fn serve(mut tls: ServerConnection, mut tcp: TcpStream, done: &mpsc::Sender<()>) {
        for step in 0..3 {
            rustls::Stream::new(&mut tls, &mut tcp).read_exact(&mut [0]).unwrap();
            match step {
                0 => tls.refresh_traffic_keys().unwrap(),
                1 => tls.writer().write_all(b"x").unwrap(),
                _ => tls.send_close_notify(),
            }
            while tls.wants_write() {
                tls.write_tls(&mut tcp).unwrap();
            }
            done.send(()).unwrap();
        }
        // Keeps the socket open.
        let _ = tcp.read(&mut [0]);
    }

    async fn connect(certificates: &Certificates, port: u16) -> (Transport, Address) {
        let address = Address::Tcp { host: "localhost".into(), port };
        let ca = certificates.ca_pem().display().to_string();
        let settings = TlsSettings { tls: Some(true), tls_ca: Some(ca), ..TlsSettings::default() };
        let tls = settings.resolve("redis").unwrap().unwrap();
        let timeouts = Timeouts { connect: Duration::from_secs(20), io: Duration::from_secs(20) };
        let mut transport = Transport::connect(&address, &Handle::current(), timeouts).await.unwrap();
        transport.start_tls(tls.session("localhost").await.unwrap()).await.unwrap();
        (transport, address)
    }

    /// The error of reading a chunk of `len` bytes. The server sends its length, and then the pieces that `pieces` makes
    /// of some records of the chunk, with a pause after each piece.
    async fn error_of(
        len: usize,
        io_timeout: Duration,
        pieces: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Error {
        let certificates = Certificates::new();
        let port = accept(&certificates, move |mut tls, mut tcp| {
            rustls::Stream::new(&mut tls, &mut tcp).read_exact(&mut [0]).unwrap();
            let mut record = |bytes: &[u8]| {
                tls.writer().write_all(bytes).unwrap();
                let mut record = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut record).unwrap();
                }
                record
            };
            tcp.write_all(&record(format!("${len}\r\n").as_bytes())).unwrap();
            for piece in pieces((0..7).map(|_| record(&[0; 10_000])).collect()) {
                if tcp.write_all(&piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            // Keeps the socket open.
            let _ = tcp.read(&mut [0]);
        });
        let (mut transport, address) = connect(&certificates, port).await;
        std::future::poll_fn(|cx| transport.poll_ready(Ready::Write, cx)).await.unwrap();
        assert_eq!(transport.try_write(&[IoSlice::new(b"?")]).unwrap(), 1);
        let reader = ReplyReader::new(Limits::default(), 4096);
        let mut connection = Connection::new(transport, reader, &address, io_timeout);
        assert_eq!(connection.reply_start().await.unwrap(), ReplyStart::Bulk(len));
        let mut to = vec![0; len];
        let reading = tokio::time::timeout(Duration::from_secs(15), connection.payload(&mut to));
        reading.await.expect("the call ends").unwrap_err()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_record_that_drips_is_a_timeout() {
        let drip = |records: Vec<Vec<u8>>| records.concat().into_iter().map(|byte| vec![byte]).collect();
        assert_eq!(error_of(4 << 20, Duration::from_millis(500), drip).await.kind(), ErrorKind::Timeout);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wrong_record_behind_data_ends_the_call_at_once() {
        // The data is more than one system call receives.
        let and_wrong = |mut records: Vec<Vec<u8>>| {
            records.push([[23, 3, 3, 0, 20].as_slice(), &[7; 20]].concat());
            vec![records.concat()]
        };
        assert_eq!(error_of(100_000, Duration::from_secs(60), and_wrong).await.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn messages_of_the_session_leave_a_resting_connection_alive_and_data_does_not() {
        let certificates = Certificates::new();
        let (done, steps) = mpsc::channel();
        let port = accept(&certificates, move |tls, tcp| serve(tls, tcp, &done));
        let (mut transport, _) = connect(&certificates, port).await;
        assert_eq!(transport.tls_version(), Some("TLS 1.3"));
        for step in 0..3 {
            std::future::poll_fn(|cx| transport.poll_ready(Ready::Write, cx)).await.unwrap();
            assert_eq!(transport.try_write(&[IoSlice::new(b"?")]).unwrap(), 1);
            steps.recv().unwrap();
            while !transport.has_input() {
                tokio::task::yield_now().await;
            }
            // The system may deliver the messages of one step one by one.
            let begin = std::time::Instant::now();
            while transport.is_quiet() && step > 0 {
                assert!(begin.elapsed() < Duration::from_secs(20), "step {step}");
                tokio::task::yield_now().await;
            }
            assert!(step > 0 || transport.is_quiet(), "the session's own messages are not data");
            let mut to = [0; 2];
            match (step, transport.try_read(&mut [IoSliceMut::new(&mut to)])) {
                (0, Err(e)) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                (1, Ok(n)) => assert_eq!(&to[..n], b"x"),
                (2, Ok(n)) => assert_eq!(n, 0),
                (_, other) => panic!("step {step}: {other:?}"),
            }
        }
    }
}
