//! One HTTP request on its own connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A test's server answers at once, unless the machine is busy.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a request to a server on this machine. Gives the status of the answer, and head and body as text.
///
/// # Panics
/// If the server does not answer.
pub fn request(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    request += &format!("Content-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("\r\n{body}");

    let mut answer = Vec::new();
    let sent = TcpStream::connect_timeout(&address, TIMEOUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut answer)
    });
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (sent, status) {
        (Ok(_), Some(status)) => (status, answer),
        (sent, _) => panic!("{method} {target}: {sent:?}, and the answer is {answer:?}"),
    }
}
