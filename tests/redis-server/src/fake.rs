//! What listens on a port and is no redis server, or an odd one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Listens, and hands each connection to `serve` on a thread of its own; gives the port. Ends with the test program.
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

/// A server that answers each command by what `answer` says to its words, or not at all; gives its port. Commands of short
/// words only.
///
/// # Panics
/// As [`listen`]; on a thread of its own if it is sent something else than words.
pub fn answering(answer: impl Fn(&[String]) -> Option<Vec<u8>> + Clone + Send + 'static) -> u16 {
    listen(move |mut stream| {
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
    })
}

/// The first whole command of short words, and how many bytes it is.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let text = str::from_utf8(bytes).expect("these tests send text");
    let (count, _) = text.strip_prefix('*')?.split_once("\r\n")?;
    let count: usize = count.parse().expect("a number of words");
    let lines: Vec<&str> = text.split("\r\n").take(1 + 2 * count).collect();
    // Behind the last line there is an end of it, or it is not whole.
    let len = lines.iter().map(|line| line.len() + 2).sum();
    (lines.len() == 1 + 2 * count && len <= bytes.len())
        .then(|| (lines[1..].chunks(2).map(|word| word[1].to_owned()).collect(), len))
}
