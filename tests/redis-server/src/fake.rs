//! Servers that are not redis servers, or that give unusual replies.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Listens, calls `serve` on a new thread for each connection, and gives the port. Listens until the process ends.
///
/// # Panics
/// If this machine has no loopback.
pub fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.expect("a connection"));
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Listens, answers each command with the bytes that `answer` gives for its words, and gives the port. `None` sends no
/// reply. The commands must be short text.
///
/// # Panics
/// As [`listen`]. The connection's thread panics if it gets a command that is not text.
pub fn answering(answer: impl Fn(&[String]) -> Option<Vec<u8>> + Clone + Send + 'static) -> u16 {
    listen(move |stream| self::answer(stream, &answer))
}

/// Answers the commands of one connection, as [`answering`] does, until the client hangs up.
///
/// # Panics
/// If a command is not text.
pub fn answer(mut stream: TcpStream, mut answer: impl FnMut(&[String]) -> Option<Vec<u8>>) {
    let mut got = Vec::new();
    let mut some = [0; 4096];
    loop {
        match stream.read(&mut some) {
            Ok(0) | Err(_) => return,
            Ok(n) => got.extend_from_slice(&some[..n]),
        }
        while let Some((words, len)) = command(&got) {
            got.drain(..len);
            if answer(&words).is_some_and(|bytes| stream.write_all(&bytes).is_err()) {
                return;
            }
        }
    }
}

/// The words of the first whole command, and its length in bytes.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let text = str::from_utf8(bytes).expect("these tests send text");
    let (count, _) = text.strip_prefix('*')?.split_once("\r\n")?;
    let count: usize = count.parse().expect("a number of words");
    let lines: Vec<&str> = text.split("\r\n").take(1 + 2 * count).collect();
    // The command is whole only if the last line has its CRLF.
    let len = lines.iter().map(|line| line.len() + 2).sum();
    (lines.len() == 1 + 2 * count && len <= bytes.len())
        .then(|| (lines[1..].chunks(2).map(|word| word[1].to_owned()).collect(), len))
}
