//! Every reply, cut at every byte.

use super::*;

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// Bytes that servers send, and the reply in them.
fn replies() -> Vec<(&'static [u8], Reply)> {
    vec![
        (b"+OK\r\n", Reply::Simple(b"OK".to_vec())),
        (b"-ERR no such thing\r\n", Reply::Error(b"ERR no such thing".to_vec())),
        (b"!3\r\nE\r\n\r\n", Reply::Error(b"E\r\n".to_vec())),
        (b":-12\r\n", Reply::Int(-12)),
        (b":9223372036854775807\r\n", Reply::Int(i64::MAX)),
        (b"$-1\r\n", Reply::Null),
        (b"*-1\r\n", Reply::Null),
        (b"_\r\n", Reply::Null),
        (b"#t\r\n", Reply::Bool(true)),
        (b",-1.5e3\r\n", Reply::Double(-1500.0)),
        (b"(-349999999999999999999999999\r\n", bulk("-349999999999999999999999999")),
        (b"$0\r\n\r\n", bulk("")),
        (b"$7\r\n$5\r\n*1\r\r\n", bulk("$5\r\n*1\r")),
        (b"=8\r\ntxt:text\r\n", bulk("text")),
        (b"*0\r\n", Reply::Array(vec![])),
        (b"~2\r\n:1\r\n_\r\n", Reply::Array(vec![Reply::Int(1), Reply::Null])),
        (
            b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n*0\r\n",
            Reply::Array(vec![bulk("0"), Reply::Array(vec![bulk("a"), Reply::Array(vec![])])]),
        ),
        (
            b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            Reply::Map(vec![
                (Reply::Simple(b"a".to_vec()), Reply::Int(1)),
                (Reply::Simple(b"b".to_vec()), Reply::Array(vec![Reply::Int(2)])),
            ]),
        ),
        // Messages and attributes are dropped.
        (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n:5\r\n", Reply::Int(5)),
        (
            b"|1\r\n+ttl\r\n:3\r\n*2\r\n|0\r\n:1\r\n|1\r\n+a\r\n+b\r\n:2\r\n",
            Reply::Array(vec![Reply::Int(1), Reply::Int(2)]),
        ),
    ]
}

/// Puts all bytes into the buffer, in several pieces if need be.
fn feed(reader: &mut ReplyReader, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let spare = reader.spare();
        let n = spare.len().min(bytes.len());
        spare[..n].copy_from_slice(&bytes[..n]);
        reader.filled(n);
        bytes = &bytes[n..];
    }
}

fn reader() -> ReplyReader {
    ReplyReader::new(Limits { payload: 1 << 20, reply: 4096, depth: 3 }, 64)
}

#[test]
fn every_reply_is_read_wherever_it_is_cut() {
    for (bytes, reply) in replies() {
        for cut in 0..bytes.len() {
            let mut reader = reader();
            feed(&mut reader, &bytes[..cut]);
            assert_eq!(reader.reply(), Ok(None), "{} cut at {cut}", bytes.escape_ascii());
            feed(&mut reader, &bytes[cut..]);
            // The next reply stays unread.
            feed(&mut reader, b":7\r\n");
            assert_eq!(reader.reply(), Ok(Some(reply.clone())), "{} cut at {cut}", bytes.escape_ascii());
            assert!(!reader.is_idle());
            assert_eq!(reader.reply(), Ok(Some(Reply::Int(7))));
            assert!(reader.is_idle());
        }
    }
}

#[test]
fn replies_in_single_bytes_are_read_one_after_the_other() {
    let all: Vec<u8> = replies().iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
    let mut reader = reader();
    let mut read = Vec::new();
    for byte in all {
        feed(&mut reader, &[byte]);
        read.extend(reader.reply().unwrap());
    }
    assert_eq!(read, replies().into_iter().map(|(_, reply)| reply).collect::<Vec<_>>());
}

#[test]
fn the_start_of_a_reply_leaves_payload_and_elements_to_be_read() {
    for (bytes, reply) in replies() {
        for cut in 0..=bytes.len() {
            let mut reader = reader();
            feed(&mut reader, &bytes[..cut]);
            let mut rest = &bytes[cut..];
            let mut more = |reader: &mut ReplyReader| {
                assert!(!rest.is_empty(), "{} needs more", bytes.escape_ascii());
                feed(reader, std::mem::take(&mut rest));
            };
            let start = loop {
                match reader.start().unwrap() {
                    Some(start) => break start,
                    None => more(&mut reader),
                }
            };
            match (start, &reply) {
                (ReplyStart::Bulk(len), Reply::Bulk(expected)) => {
                    assert_eq!(len, expected.len());
                    let (mut to, mut done) = (vec![0; len], 0);
                    while done < len {
                        done += reader.take_payload(&mut to[done..]);
                        if done < len {
                            more(&mut reader);
                        }
                    }
                    assert_eq!(&to, expected);
                    while reader.end_payload().unwrap().is_none() {
                        more(&mut reader);
                    }
                }
                (ReplyStart::Array(n), Reply::Array(expected)) => {
                    let mut elements = Vec::new();
                    while elements.len() < n {
                        match reader.reply().unwrap() {
                            Some(element) => elements.push(element),
                            None => more(&mut reader),
                        }
                    }
                    assert_eq!(&elements, expected);
                }
                (ReplyStart::Whole(read), expected) => assert_eq!(&read, expected),
                (start, expected) => panic!("{start:?} is not the start of {expected:?}"),
            }
            feed(&mut reader, std::mem::take(&mut rest));
            assert!(reader.is_idle(), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_payload_may_bypass_the_buffer() {
    let mut reader = reader();
    feed(&mut reader, b"$100000\r\nstart");
    assert_eq!(reader.start(), Ok(Some(ReplyStart::Bulk(100_000))));
    let mut to = vec![1; 100_000];
    assert_eq!(reader.take_payload(&mut to), 5);
    assert_eq!(&to[..5], b"start");
    assert_eq!(reader.take_payload(&mut to), 0);
    reader.payload_arrived(99_990);
    assert!(reader.end_payload().is_err(), "5 bytes are missing");
    reader.payload_arrived(5);
    assert_eq!(reader.end_payload(), Ok(None));
    feed(&mut reader, b"\r\n:1\r\n");
    assert_eq!(reader.end_payload(), Ok(Some(())));
    assert_eq!(reader.reply(), Ok(Some(Reply::Int(1))));
    assert!(reader.spare().len() <= 128, "the buffer grew for a payload");
}

#[test]
fn a_payload_can_be_dropped() {
    let mut reader = reader();
    feed(&mut reader, b"$100\r\n");
    assert_eq!(reader.start(), Ok(Some(ReplyStart::Bulk(100))));
    for left in (0..100).rev() {
        feed(&mut reader, b"x");
        assert_eq!(reader.drop_payload(), left);
    }
    feed(&mut reader, b"\r\n+\r\n");
    assert_eq!(reader.end_payload(), Ok(Some(())));
    assert_eq!(reader.reply(), Ok(Some(Reply::Simple(vec![]))));
}

#[test]
fn bytes_that_are_not_a_reply_are_an_error_as_soon_as_possible() {
    for (bytes, why) in [
        (&b"HTTP/1.1 400 Bad"[..], "`HTTP/1.1 400 Bad`, which is not a reply"),
        (b"\x15\x03\x03", "`\\x15\\x03\\x03`, which is not a reply"),
        (b"\r\n", "which is not a reply"),
        (b"+OK\n", "ends in something other than CRLF"),
        (b"+O\rK", "ends in something other than CRLF"),
        (b":\r\n", "malformed line `:`"),
        (b":1x\r\n", "malformed line"),
        (b":9223372036854775808\r\n", "malformed line"),
        (b"$\r\n", "malformed line"),
        (b"$-2\r\n", "malformed line"),
        (b"$+1\r\n", "malformed line"),
        (b"$?\r\n", "malformed line"),
        (b"*-2\r\n", "malformed line"),
        (b"%-1\r\n", "malformed line"),
        (b"$18446744073709551616\r\n", "malformed line"),
        (b"%9223372036854775808\r\n", "malformed line"),
        (b"#x\r\n", "malformed line"),
        (b",1.5.\r\n", "malformed line"),
        (b"(1.5\r\n", "malformed line"),
        (b"_x\r\n", "malformed line"),
        (b"=3\r\nabc\r\n", "verbatim string without a type"),
        (b"$1\r\nab\r\n", "longer than its length says"),
        (b"$2\r\na\r\n+OK\r\n", "longer than its length says"),
        (b"*1\r\n>1\r\n:1\r\n:2\r\n", "push message inside"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "more than 3 levels"),
        (b"$5000\r\n", "more than 4096 bytes"),
        (b"*128\r\n", "more than 4096 bytes"),
        (b"*18446744073709551615\r\n", "more than 4096 bytes"),
        (b"*2\r\n$3000\r\n", "a string that is longer"),
    ] {
        let mut reader = reader();
        feed(&mut reader, bytes);
        if bytes == b"*2\r\n$3000\r\n" {
            assert_eq!(reader.reply(), Ok(None), "only bytes that arrived count");
            feed(&mut reader, &[b'x'; 3001]);
        }
        let e = reader.reply().expect_err(why).to_string();
        assert!(e.contains(why), "{}: {e}", bytes.escape_ascii());
    }
}

#[test]
fn limits_count_one_whole_reply() {
    let mut reader = reader();
    for _ in 0..100 {
        feed(&mut reader, b"*2\r\n$1000\r\n");
        feed(&mut reader, &[b'x'; 1000]);
        feed(&mut reader, b"\r\n:1\r\n>1\r\n$2000\r\n");
        feed(&mut reader, &[b'x'; 2000]);
        feed(&mut reader, b"\r\n");
        assert!(reader.reply().unwrap().is_some());
        assert_eq!(reader.reply(), Ok(None));
        assert!(reader.is_idle());
    }
    feed(&mut reader, b":1\r\n");
    assert_eq!(reader.reply(), Ok(Some(Reply::Int(1))));
    feed(&mut reader, b"*5\r\n");
    for _ in 0..3 {
        feed(&mut reader, b"$1000\r\n");
        feed(&mut reader, &[b'x'; 1000]);
        feed(&mut reader, b"\r\n");
        assert_eq!(reader.reply(), Ok(None));
    }
    feed(&mut reader, b"$1000\r\n");
    assert!(reader.reply().is_err());
}

#[test]
fn messages_count_until_a_reply_comes() {
    for message in [&b">0\r\n"[..], b">1\r\n:1\r\n", b"|1\r\n+a\r\n:1\r\n"] {
        let mut reader = reader();
        let wrong = (0..200).find_map(|_| {
            feed(&mut reader, message);
            reader.start().err()
        });
        assert!(wrong.is_some(), "{}", message.escape_ascii());
    }
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_read() {
    let mut reader = reader();
    feed(&mut reader, b"$1048577\r\n");
    let e = reader.start().unwrap_err().to_string();
    assert!(e.contains("1048577") && e.contains("1048576"), "{e}");
}

#[test]
fn a_line_that_does_not_end_is_refused() {
    let mut reader = reader();
    feed(&mut reader, b"-ERR ");
    for _ in 0..MAX_LINE / 1000 {
        feed(&mut reader, &[b'x'; 1000]);
        assert_eq!(reader.reply(), Ok(None));
    }
    feed(&mut reader, &[b'x'; 1000]);
    assert!(reader.reply().is_err());
}

#[test]
fn a_partial_reply_holds_a_small_multiple_of_the_bytes_that_came() {
    let nested = b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*400000\r\n".to_vec();
    let many = |one: &[u8]| [&b"*400000\r\n"[..], &one.repeat(20_000)].concat();
    let inputs = [
        b"*500000\r\n".to_vec(),
        b"%200000\r\n".to_vec(),
        b"$16000000\r\nx".to_vec(),
        b"!16000000\r\n".to_vec(),
        nested,
        many(b"_\r\n"),
        many(b"*1\r\n_\r\n"),
        many(b"%1\r\n_\r\n_\r\n"),
        many(b"|1\r\n_\r\n_\r\n_\r\n"),
        many(b"$1\r\nx\r\n"),
        many(b"=5\r\ntxt:x\r\n"),
    ];
    for input in inputs {
        let mut reader = ReplyReader::new(Limits::default(), 4096);
        let mut rest = &input[..];
        while !rest.is_empty() {
            let spare = reader.spare();
            let n = spare.len().min(rest.len());
            spare[..n].copy_from_slice(&rest[..n]);
            reader.filled(n);
            rest = &rest[n..];
            assert_eq!(reader.reply(), Ok(None));
        }
        let (held, came) = (reader.held(), input.len());
        assert!(held <= 4096 + 32 * came, "{held} bytes for {came} of {}", input[..input.len().min(40)].escape_ascii());
    }
}
