//! Replies of a redis server.

use connectors::__fuzz::reply::{Limits, Reply, ReplyReader, ReplyStart};

/// Small limits, so that the fuzzer reaches them.
const LIMITS: Limits = Limits { payload: 600, reply: 1000, depth: 3 };
/// The size that the reader counts for a value, in addition to its bytes.
const VALUE: usize = 32;

/// The most memory for each byte that came: `_\r\n` becomes a value, in a vector that may have room for as many again.
const MEMORY_A_BYTE: usize = 32;
/// The size of the reader's buffer.
const BUFFER: usize = 64;

/// An output of the reader.
#[derive(Debug, PartialEq)]
enum Event {
    /// The reply as text, because a NaN is not equal to itself.
    Reply(String),
    Payload(Vec<u8>),
    Array(usize),
}

/// The state after the last byte.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// The last value is complete.
    Rest,
    /// A value is incomplete.
    More,
    /// The bytes are invalid.
    Bad,
}

/// Reads replies. The first byte sets the sizes of the pieces, and the second one whether the reader gives payloads apart.
///
/// # Panics
/// If the second parser gives another result, for the bytes at once or in pieces. If the reader or a reply holds more
/// memory than the bytes that came explain.
pub fn resp_reply(data: &[u8]) {
    let [cut, mode, bytes @ ..] = data else { return };
    let heads = mode % 2 == 1;
    let expected = second_reading(bytes, heads);
    let whole = drive(bytes, heads, || usize::MAX);
    assert_eq!(whole, expected, "{} at once", bytes.escape_ascii());
    let mut step = usize::from(*cut);
    let pieces = drive(bytes, heads, || {
        step = (step * 5 + 1) % 61;
        step % 17 + 1
    });
    assert_eq!(pieces, expected, "{} in pieces", bytes.escape_ascii());
}

/// Drives the reader as a connection does. Bytes of a payload go past the buffer, straight to the payload's memory.
fn drive(bytes: &[u8], heads: bool, mut step: impl FnMut() -> usize) -> (Vec<Event>, End) {
    let mut reader = ReplyReader::new(LIMITS, BUFFER);
    let mut events = Vec::new();
    let mut rest = bytes;
    let mut fill = |reader: &mut ReplyReader, to: &mut [u8]| {
        let n = step().min(rest.len());
        let direct = n.min(to.len());
        to[..direct].copy_from_slice(&rest[..direct]);
        let spare = reader.spare();
        let buffered = (n - direct).min(spare.len());
        spare[..buffered].copy_from_slice(&rest[direct..direct + buffered]);
        reader.filled(buffered);
        rest = &rest[direct + buffered..];
        (n > 0).then_some(direct)
    };
    loop {
        let most = 4 * BUFFER + MEMORY_A_BYTE * bytes.len();
        assert!(reader.held() <= most, "{} bytes of memory for {}", reader.held(), bytes.escape_ascii());
        let next = if heads { reader.start() } else { reader.reply().map(|reply| reply.map(ReplyStart::Whole)) };
        let len = match next {
            Err(_) => return (events, End::Bad),
            Ok(Some(ReplyStart::Whole(reply))) => {
                assert!(reply.held() <= most, "{} bytes of memory for {reply:?}", reply.held());
                events.push(Event::Reply(format!("{reply:?}")));
                continue;
            }
            Ok(Some(ReplyStart::Array(n))) => {
                events.push(Event::Array(n));
                continue;
            }
            Ok(Some(ReplyStart::Bulk(len))) => len,
            Ok(None) => match fill(&mut reader, &mut []) {
                Some(_) => continue,
                None => return (events, if reader.is_idle() { End::Rest } else { End::More }),
            },
        };
        let mut payload = vec![0; len];
        let mut done = reader.take_payload(&mut payload);
        while done < len {
            let Some(n) = fill(&mut reader, &mut payload[done..]) else { return (events, End::More) };
            reader.payload_arrived(n);
            done += n;
        }
        loop {
            match reader.end_payload() {
                Err(_) => return (events, End::Bad),
                Ok(Some(())) => break,
                Ok(None) if fill(&mut reader, &mut []).is_none() => return (events, End::More),
                Ok(None) => {}
            }
        }
        events.push(Event::Payload(payload));
    }
}

/// Parses all bytes at once. Written from the protocol's description.
fn second_reading(bytes: &[u8], heads: bool) -> (Vec<Event>, End) {
    let mut second = Second { rest: bytes, counted: 0 };
    let mut events = Vec::new();
    while !second.rest.is_empty() {
        let event = if heads { second.head() } else { second.value(0).map(|v| v.map(Event::reply)) };
        match event {
            // Messages count until a reply comes.
            Ok(None) => {}
            Ok(Some(event)) => {
                second.counted = 0;
                events.push(event);
            }
            Err(end) => return (events, end),
        }
    }
    (events, End::Rest)
}

impl Event {
    fn reply(reply: Reply) -> Self {
        Self::Reply(format!("{reply:?}"))
    }
}

struct Second<'a> {
    rest: &'a [u8],
    counted: usize,
}

impl<'a> Second<'a> {
    fn head(&mut self) -> Result<Option<Event>, End> {
        let before = self.rest;
        let (kind, line) = self.line()?;
        let text = ascii(line);
        match kind {
            b'$' if text != "-1" => {
                let len = number(text).filter(|len| *len <= LIMITS.payload).ok_or(End::Bad)?;
                Ok(Some(Event::Payload(self.string(len)?.to_vec())))
            }
            b'*' | b'~' if text != "-1" => Ok(Some(Event::Array(number(text).ok_or(End::Bad)?))),
            _ => {
                self.rest = before;
                Ok(self.value(0)?.map(Event::reply))
            }
        }
    }

    /// Reads a value. Gives `None` for a push or an attribute.
    fn value(&mut self, depth: usize) -> Result<Option<Reply>, End> {
        let (kind, line) = self.line()?;
        let text = ascii(line);
        let value = match kind {
            b'$' | b'*' if text == "-1" => Reply::Null,
            b'_' if text.is_empty() => Reply::Null,
            b'+' => Reply::Simple(line.to_vec()),
            b'-' => Reply::Error(line.to_vec()),
            b':' => Reply::Int(is_integer(text).then(|| text.parse().ok()).flatten().ok_or(End::Bad)?),
            b'(' if is_integer(text) => Reply::Bulk(text.as_bytes().to_vec()),
            b'#' if text == "t" || text == "f" => Reply::Bool(text == "t"),
            b',' => Reply::Double(text.parse().map_err(|_| End::Bad)?),
            b'$' | b'!' | b'=' => {
                let len = number(text).ok_or(End::Bad)?;
                self.count(VALUE.saturating_add(len))?;
                let bytes = self.string(len)?.to_vec();
                return match kind {
                    b'$' => Ok(Some(Reply::Bulk(bytes))),
                    b'!' => Ok(Some(Reply::Error(bytes))),
                    _ if bytes.get(3) == Some(&b':') => Ok(Some(Reply::Bulk(bytes[4..].to_vec()))),
                    _ => Err(End::Bad),
                };
            }
            b'*' | b'~' | b'%' | b'>' | b'|' => return self.aggregate(kind, text, depth),
            _ => return Err(End::Bad),
        };
        self.count(VALUE)?;
        Ok(Some(value))
    }

    fn aggregate(&mut self, kind: u8, text: &str, depth: usize) -> Result<Option<Reply>, End> {
        let each = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
        let n = number(text).and_then(|n| n.checked_mul(each)).ok_or(End::Bad)?;
        if depth >= LIMITS.depth || (kind == b'>' && depth > 0) {
            return Err(End::Bad);
        }
        self.count(VALUE)?;
        if n.saturating_mul(VALUE) > LIMITS.reply - self.counted {
            return Err(End::Bad);
        }
        let mut items = Vec::new();
        while items.len() < n {
            items.extend(self.value(depth + 1)?);
        }
        Ok(match kind {
            b'*' | b'~' => Some(Reply::Array(items)),
            b'%' => Some(Reply::Map(items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())),
            _ => None,
        })
    }

    fn count(&mut self, bytes: usize) -> Result<(), End> {
        self.counted = self.counted.saturating_add(bytes);
        if self.counted > LIMITS.reply { Err(End::Bad) } else { Ok(()) }
    }

    /// Reads a type and its text up to CR LF. A line has no other CR or LF.
    fn line(&mut self) -> Result<(u8, &'a [u8]), End> {
        let (kind, _) = self.rest.split_first().ok_or(End::More)?;
        if !"+-:$*_#,(!=%~>|".contains(char::from(*kind)) {
            return Err(End::Bad);
        }
        let end = self.rest.iter().position(|b| *b == b'\r' || *b == b'\n').ok_or(End::More)?;
        match &self.rest[end..] {
            [b'\r'] => return Err(End::More),
            [b'\r', b'\n', ..] => {}
            _ => return Err(End::Bad),
        }
        let line = &self.rest[1..end];
        self.rest = &self.rest[end + 2..];
        Ok((*kind, line))
    }

    fn string(&mut self, len: usize) -> Result<&'a [u8], End> {
        let (string, rest) = self.rest.split_at_checked(len).ok_or(End::More)?;
        match rest {
            [b'\r', b'\n', after @ ..] => {
                self.rest = after;
                Ok(string)
            }
            [] | [b'\r'] => Err(End::More),
            _ => Err(End::Bad),
        }
    }
}

/// The line as text, or `?`, which is not a number, if the line is not ASCII.
fn ascii(line: &[u8]) -> &str {
    str::from_utf8(line).ok().filter(|text| text.is_ascii()).unwrap_or("?")
}

fn number(text: &str) -> Option<usize> {
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
}
