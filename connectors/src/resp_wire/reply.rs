//! Reads replies of RESP2 and RESP3 from bytes that come in pieces. Knows no socket.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Streamed strings and aggregates (`$?`, `*?`)
//! are an error: no server sends them unasked.

use std::fmt;

use super::line::{Aggregate, Open, PartialString, StringKind, Token, parse};

/// A whole reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `_`, `$-1`, `*-1`
    Null,
    /// `:1`
    Int(i64),
    /// `#t`
    Bool(bool),
    /// `,1.5`
    Double(f64),
    /// `+OK`
    Simple(Vec<u8>),
    /// `$2`; also a verbatim string (without its `txt:`) and a big number.
    Bulk(Vec<u8>),
    /// `-ERR ..` and `!`: code and text.
    Error(Vec<u8>),
    /// `*` and `~`.
    Array(Vec<Reply>),
    /// `%`
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// Bytes of memory that the reply takes.
    #[cfg(any(test, feature = "__fuzz"))]
    pub fn held(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Int(_) | Self::Bool(_) | Self::Double(_) => 0,
                Self::Simple(bytes) | Self::Bulk(bytes) | Self::Error(bytes) => bytes.capacity(),
                Self::Array(items) => {
                    (items.capacity() - items.len()) * size_of::<Self>() + items.iter().map(Self::held).sum::<usize>()
                }
                Self::Map(pairs) => {
                    (pairs.capacity() - pairs.len()) * 2 * size_of::<Self>()
                        + pairs.iter().map(|(name, value)| name.held() + value.held()).sum::<usize>()
                }
            }
    }
}

/// The start of a reply. The bytes of a string and the elements of an array follow.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplyStart {
    /// A string of this number of bytes. Read them as [payload](ReplyReader::take_payload).
    Bulk(usize),
    /// An array of this number of elements. Read each of them.
    Array(usize),
    /// Any other reply, whole.
    Whole(Reply),
}

/// The largest replies that a reader accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a string that is read as payload.
    pub payload: usize,
    /// Bytes of memory for a whole [`Reply`], with 32 for each value in it.
    pub reply: usize,
    /// Aggregates within aggregates.
    pub depth: usize,
}

impl Default for Limits {
    /// 512 MiB of payload (redis' own limit), 16 MiB of any other reply, 8 levels.
    fn default() -> Self {
        Self { payload: 512 << 20, reply: 16 << 20, depth: 8 }
    }
}

/// Bytes that are not a reply, or a reply over the limits. The reader cannot read the bytes behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReply(pub(super) String);

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads replies from a buffer that its owner fills.
///
/// The buffer is small, because most bytes of a payload bypass it. [`take_payload`](Self::take_payload) gives the
/// payload's bytes in the buffer. The owner may read the rest straight into their memory and
/// [count](Self::payload_arrived) them.
#[derive(Debug)]
pub struct ReplyReader {
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes behind `start` without a line end.
    scanned: usize,
    /// Aggregates that are not whole yet, outermost first.
    open: Vec<Open>,
    /// A string that is not whole yet.
    string: Option<PartialString>,
    /// Bytes of a payload that are still to be read.
    payload: Option<usize>,
    /// Memory that the current reply takes so far, with the messages before it: a server may send messages and no
    /// reply.
    memory: usize,
}

#[cfg(test)]
mod tests;

/// The longest line is an error's text. All other lines are short.
const MAX_LINE: usize = 64 << 10;

/// The memory that a value counts for, beside its bytes: about its real size.
const VALUE: usize = 32;

enum Progress {
    /// No reply is whole yet.
    Partial,
    Whole(Reply),
    /// A push message or attributes ended. kvconn asks for neither.
    Dropped,
}

impl ReplyReader {
    /// A reader with a buffer of `buffer_len` bytes, the most of a payload that is copied.
    pub fn new(limits: Limits, buffer_len: usize) -> Self {
        Self {
            limits,
            buffer: vec![0; buffer_len.max(64)],
            start: 0,
            end: 0,
            scanned: 0,
            open: Vec::new(),
            string: None,
            payload: None,
            memory: 0,
        }
    }

    /// Where the next bytes of the stream belong; never empty. Call [`filled`](Self::filled) afterwards.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                // One line fills the buffer. `token` refuses a line that is too long.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// The owner wrote `n` bytes to the start of [`spare`](Self::spare).
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// Bytes of memory that the reader holds: for a partial reply at most a small multiple of the bytes that came,
    /// however much the server announced.
    #[cfg(any(test, feature = "__fuzz"))]
    pub fn held(&self) -> usize {
        let strings = self.string.as_ref().map_or(0, |string| string.bytes.capacity());
        let values = |open: &Open| {
            let unused = (open.items.capacity() - open.items.len()) * size_of::<Reply>();
            unused + open.items.iter().map(Reply::held).sum::<usize>()
        };
        self.buffer.len() + strings + self.open.iter().map(values).sum::<usize>()
    }

    /// Whether every byte was read, and no reply is partial.
    pub fn is_idle(&self) -> bool {
        self.start == self.end && self.is_between_replies()
    }

    /// Whether no reply is partial. An array that [`ReplyStart::Array`] announced does not count.
    pub fn is_between_replies(&self) -> bool {
        self.open.is_empty() && self.string.is_none() && self.payload.is_none()
    }

    /// Bytes in the buffer that were not read yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next reply, or `None` if more bytes must arrive first.
    ///
    /// # Errors
    /// If the bytes are not a reply, or a reply over the limits.
    pub fn reply(&mut self) -> Result<Option<Reply>, BadReply> {
        if self.payload.is_some() {
            return bad("a payload was left unread");
        }
        loop {
            match self.advance()? {
                Progress::Partial => return Ok(None),
                Progress::Dropped => {}
                Progress::Whole(reply) => return Ok(Some(reply)),
            }
        }
    }

    /// The start of the next reply, or `None` if more bytes must arrive first.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn start(&mut self) -> Result<Option<ReplyStart>, BadReply> {
        if self.payload.is_some() {
            return bad("a payload was left unread");
        }
        loop {
            if self.open.is_empty() && self.string.is_none() {
                match self.token()? {
                    None => return Ok(None),
                    Some(Token::String(StringKind::Bulk, len)) => {
                        if len > self.limits.payload {
                            return bad(format!("a value of {len} bytes, over the limit of {}", self.limits.payload));
                        }
                        self.payload = Some(len);
                        self.memory = 0;
                        return Ok(Some(ReplyStart::Bulk(len)));
                    }
                    Some(Token::Open(Aggregate::Array, n)) => {
                        self.memory = 0;
                        return Ok(Some(ReplyStart::Array(n)));
                    }
                    Some(other) => match self.add(other)? {
                        Progress::Partial => {}
                        Progress::Dropped => continue,
                        Progress::Whole(reply) => return Ok(Some(ReplyStart::Whole(reply))),
                    },
                }
            }
            match self.advance()? {
                Progress::Partial => return Ok(None),
                Progress::Dropped => {}
                Progress::Whole(reply) => return Ok(Some(ReplyStart::Whole(reply))),
            }
        }
    }

    /// Copies buffered bytes of the payload that [`ReplyStart::Bulk`] announced to the start of `to`. Returns how many.
    pub fn take_payload(&mut self, to: &mut [u8]) -> usize {
        let left = self.payload.unwrap_or(0);
        let n = left.min(to.len()).min(self.end - self.start);
        to[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.skip_bytes(n);
        self.payload_arrived(n);
        n
    }

    /// The owner read `n` bytes of payload past the buffer, which was empty.
    pub fn payload_arrived(&mut self, n: usize) {
        if let Some(left) = &mut self.payload {
            *left = left.saturating_sub(n);
        }
    }

    /// Drops buffered bytes of the payload. Returns how many bytes are still to come.
    pub fn drop_payload(&mut self) -> usize {
        let left = self.payload.unwrap_or(0);
        let n = left.min(self.end - self.start);
        self.skip_bytes(n);
        self.payload_arrived(n);
        left - n
    }

    /// Consumes the CRLF behind a payload, or gives `None` if more bytes must arrive first.
    ///
    /// # Errors
    /// If other bytes follow: the length was wrong.
    pub fn end_payload(&mut self) -> Result<Option<()>, BadReply> {
        if self.payload != Some(0) {
            return bad("a payload was not read to its end");
        }
        Ok(self.crlf()?.then(|| self.payload = None))
    }

    /// Reads tokens until a reply is whole or the bytes end.
    fn advance(&mut self) -> Result<Progress, BadReply> {
        loop {
            if let Some(string) = &mut self.string {
                let n = string.left.min(self.end - self.start);
                string.bytes.extend_from_slice(&self.buffer[self.start..self.start + n]);
                string.left -= n;
                let whole = string.left == 0;
                self.skip_bytes(n);
                if !whole || !self.crlf()? {
                    return Ok(Progress::Partial);
                }
                let Some(string) = self.string.take() else { return Ok(Progress::Partial) };
                match self.place(string.finish()?) {
                    Progress::Partial => {}
                    done => return Ok(done),
                }
            }
            let Some(token) = self.token()? else { return Ok(Progress::Partial) };
            match self.add(token)? {
                Progress::Partial => {}
                done => return Ok(done),
            }
        }
    }

    /// Adds a token to the current reply.
    fn add(&mut self, token: Token) -> Result<Progress, BadReply> {
        match token {
            Token::Value(value) => {
                self.charge(VALUE)?;
                Ok(self.place(value))
            }
            Token::String(kind, left) => {
                self.charge(VALUE.saturating_add(left))?;
                self.string = Some(PartialString { bytes: Vec::new(), left, kind });
                Ok(Progress::Partial)
            }
            Token::Open(Aggregate::Push, _) if !self.open.is_empty() => bad("a push message inside a reply"),
            Token::Open(kind, left) => {
                if self.open.len() >= self.limits.depth {
                    return bad(format!("more than {} levels of arrays", self.limits.depth));
                }
                self.charge(VALUE)?;
                // Each element counts when it arrives, but too many are an error at once.
                if left.saturating_mul(VALUE) > self.limits.reply - self.memory {
                    return bad(format!("a reply of more than {} bytes", self.limits.reply));
                }
                // An announced length takes no memory, but a short array takes no more than its elements.
                let open = Open { kind, left, items: Vec::with_capacity(left.min(4)) };
                if left > 0 {
                    self.open.push(open);
                    return Ok(Progress::Partial);
                }
                match open.finish() {
                    Some(value) => Ok(self.place(value)),
                    None if self.open.is_empty() => Ok(Progress::Dropped),
                    None => Ok(Progress::Partial),
                }
            }
        }
    }

    /// Puts a whole value into the aggregate that it belongs to.
    fn place(&mut self, mut value: Reply) -> Progress {
        loop {
            let Some(open) = self.open.last_mut() else {
                self.memory = 0;
                return Progress::Whole(value);
            };
            open.items.push(value);
            open.left -= 1;
            if open.left > 0 {
                return Progress::Partial;
            }
            match self.open.pop().and_then(Open::finish) {
                Some(whole) => value = whole,
                None if self.open.is_empty() => return Progress::Dropped,
                None => return Progress::Partial,
            }
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), BadReply> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.reply {
            return bad(format!("a reply of more than {} bytes", self.limits.reply));
        }
        Ok(())
    }

    /// The next line as a token.
    fn token(&mut self) -> Result<Option<Token>, BadReply> {
        let unread = &self.buffer[self.start..self.end];
        // Checks the type before the line is whole: another protocol's server may never send a line end.
        if let Some(first) = unread.first()
            && !b"+-:$*_#,(!=%~>|".contains(first)
        {
            return bad(format!(
                "`{}`, which is not a reply of this protocol",
                unread[..unread.len().min(64)].escape_ascii()
            ));
        }
        let Some(at) = unread[self.scanned..].iter().position(|b| matches!(b, b'\r' | b'\n')) else {
            self.scanned = unread.len();
            return if unread.len() > MAX_LINE { bad("a line that does not end") } else { Ok(None) };
        };
        let len = self.scanned + at;
        self.scanned = len;
        match unread[len..] {
            [b'\r', b'\n', ..] => {}
            [b'\r'] => return Ok(None),
            _ => return bad("a line that ends in something other than CRLF"),
        }
        let token = parse(&unread[..len])?;
        self.skip_bytes(len + 2);
        Ok(Some(token))
    }

    /// Consumes the CRLF behind a string; `false` if it has not arrived.
    fn crlf(&mut self) -> Result<bool, BadReply> {
        match self.unread() {
            [b'\r', b'\n', ..] => {
                self.skip_bytes(2);
                Ok(true)
            }
            [] | [b'\r'] => Ok(false),
            _ => bad("a string that is longer than its length says"),
        }
    }

    fn skip_bytes(&mut self, n: usize) {
        self.start += n;
        self.scanned = 0;
    }
}

pub(super) fn bad<T>(why: impl Into<String>) -> Result<T, BadReply> {
    Err(BadReply(why.into()))
}
