//! A server that answers a read as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;

/// A GET of an object.
pub(crate) struct Get {
    pub(crate) range: Option<Range<usize>>,
    pub(crate) if_match: Option<String>,
}

/// Status, further header lines, body.
pub(crate) type Answer = (u16, String, Vec<u8>);

const MISSING: &[u8] = b"<Error><Code>NoSuchKey</Code></Error>";

/// Starts the server, which ends with the process, and gives its endpoint. Its other objects are missing.
pub(crate) fn start(answer: impl Fn(Get) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("a connection"), answer.clone());
            std::thread::spawn(move || serve(stream, &*answer));
        }
    });
    endpoint
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(Get) -> Answer) {
    let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
    while let Some(Ok(first)) = lines.next() {
        let mut get = Get { range: None, if_match: None };
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (start, end) = value.trim_start_matches("bytes=").split_once('-').expect("a range");
                    let number = |text: &str| text.parse::<usize>().expect("a number");
                    get.range = Some(number(start)..number(end) + 1);
                }
                "if-match" => get.if_match = Some(value.to_owned()),
                _ => {}
            }
        }
        let is_object = first.starts_with("GET /kvconn/m");
        let (status, headers, body) = if is_object { answer(get) } else { (404, String::new(), MISSING.to_vec()) };
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            break;
        }
    }
}
