//! Reads replies of RESP2 and RESP3 out of bytes that come in pieces. No socket in here.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Streamed strings and aggregates (`$?`, `*?`)
//! are refused: no server sends them to a client that did not ask.

use std::fmt;

use super::partial::{Open, PartialString, StringKind};
use super::token::{Aggregate, Token, parse};

/// A whole reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing: `_`, `$-1`, `*-1`.
    Null,
    /// `:1`
    Int(i64),
    /// `#t`
    Bool(bool),
    /// `,1.5`
    Double(f64),
    /// `+OK`
    Simple(Vec<u8>),
    /// `$2`, and what is a string with a type: a verbatim one (without its `txt:`), a big number.
    Bulk(Vec<u8>),
    /// `-ERR ..` and `!`: its code and text.
    Error(Vec<u8>),
    /// `*` and `~`.
    Array(Vec<Reply>),
    /// `%`
    Map(Vec<(Reply, Reply)>),
}

/// The beginning of a reply: a string's bytes and an array's elements are still to be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// A string of so many bytes: read them as [payload](ReplyReader::take_payload).
    Bulk(usize),
    /// An array of so many elements: read each of them.
    Array(usize),
    /// Any other reply, whole.
    Reply(Reply),
}

/// What a reply may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a string that is read as payload.
    pub payload: usize,
    /// Bytes that a whole [`Reply`] may take in memory, with 32 for each value in it.
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

/// Bytes that are no reply, or one over the limits. Nothing behind them can be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReply(pub(super) String);

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads replies out of a buffer that its owner fills.
///
/// The buffer stays small, because the bytes of a payload need not come through it: [`take_payload`](Self::take_payload)
/// gives those that did, the rest can be read to where they belong and [counted](Self::payload_arrived).
#[derive(Debug)]
pub struct ReplyReader {
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes behind `start` that hold no end of a line.
    scanned: usize,
    /// Aggregates that are not whole yet, outermost first.
    open: Vec<Open>,
    string: Option<PartialString>,
    payload: Option<usize>,
    /// What the reply that is being read takes in memory so far.
    taken: usize,
}

#[cfg(test)]
mod tests;

/// Longest line: an error's text. Everything else on a line is a number.
const MAX_LINE: usize = 64 << 10;

/// What a value counts for beside its bytes: about what it takes.
const VALUE: usize = 32;

enum Step {
    More,
    Value(Reply),
    /// A push or attributes: nobody asked.
    Dropped,
}

impl ReplyReader {
    /// A reader with room for `room` bytes at a time: what is read ahead of a payload, and then copied, at most.
    pub fn new(limits: Limits, room: usize) -> Self {
        Self {
            limits,
            buffer: vec![0; room.max(64)],
            start: 0,
            end: 0,
            scanned: 0,
            open: Vec::new(),
            string: None,
            payload: None,
            taken: 0,
        }
    }

    /// Where the next bytes of the stream belong; never empty. Say with [`arrived`](Self::arrived) how many came.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                // One line fills it all. `line` refuses a line that is too long.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// `n` bytes were written to the start of [`room`](Self::room).
    pub fn arrived(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// Whether all that arrived was read, and no reply is half read.
    pub fn is_at_rest(&self) -> bool {
        self.start == self.end && self.open.is_empty() && self.string.is_none() && self.payload.is_none()
    }

    /// Bytes that arrived and were not read yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next reply, or `None` if more bytes must arrive first.
    ///
    /// # Errors
    /// If the bytes are no reply, or one over the limits.
    pub fn reply(&mut self) -> Result<Option<Reply>, BadReply> {
        if self.payload.is_some() {
            return bad("a payload was left unread");
        }
        loop {
            match self.step()? {
                Step::More => return Ok(None),
                Step::Dropped => {}
                Step::Value(reply) => return Ok(Some(reply)),
            }
        }
    }

    /// The beginning of the next reply, or `None` if more bytes must arrive first.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn head(&mut self) -> Result<Option<Head>, BadReply> {
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
                        return Ok(Some(Head::Bulk(len)));
                    }
                    Some(Token::Open(Aggregate::Array, n)) => return Ok(Some(Head::Array(n))),
                    Some(other) => match self.take(other)? {
                        Step::More => {}
                        Step::Dropped => continue,
                        Step::Value(reply) => return Ok(Some(Head::Reply(reply))),
                    },
                }
            }
            match self.step()? {
                Step::More => return Ok(None),
                Step::Dropped => {}
                Step::Value(reply) => return Ok(Some(Head::Reply(reply))),
            }
        }
    }

    /// Moves payload that arrived to the start of `to`; says how many bytes. The payload is that of the last
    /// [`Head::Bulk`].
    pub fn take_payload(&mut self, to: &mut [u8]) -> usize {
        let left = self.payload.unwrap_or(0);
        let n = left.min(to.len()).min(self.end - self.start);
        to[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.skip_bytes(n);
        self.payload_arrived(n);
        n
    }

    /// `n` bytes of payload were read past the buffer, which was empty.
    pub fn payload_arrived(&mut self, n: usize) {
        if let Some(left) = &mut self.payload {
            *left = left.saturating_sub(n);
        }
    }

    /// Drops payload that arrived; says how many bytes of it are still to come.
    pub fn drop_payload(&mut self) -> usize {
        let left = self.payload.unwrap_or(0);
        let n = left.min(self.end - self.start);
        self.skip_bytes(n);
        self.payload_arrived(n);
        left - n
    }

    /// Reads the end of a payload that was read whole; `false` if more bytes must arrive first.
    ///
    /// # Errors
    /// If something else stands there: the length was wrong.
    pub fn end_payload(&mut self) -> Result<bool, BadReply> {
        if self.payload != Some(0) {
            return bad("a payload was not read to its end");
        }
        let ended = self.crlf()?;
        if ended {
            self.payload = None;
        }
        Ok(ended)
    }

    /// One token at most, and what becomes whole by it.
    fn step(&mut self) -> Result<Step, BadReply> {
        loop {
            if let Some(string) = &mut self.string {
                let n = string.left.min(self.end - self.start);
                string.bytes.extend_from_slice(&self.buffer[self.start..self.start + n]);
                string.left -= n;
                let whole = string.left == 0;
                self.skip_bytes(n);
                if !whole || !self.crlf()? {
                    return Ok(Step::More);
                }
                let Some(string) = self.string.take() else { return Ok(Step::More) };
                match self.close(string.finish()?) {
                    Step::More => {}
                    done => return Ok(done),
                }
            }
            let Some(token) = self.token()? else { return Ok(Step::More) };
            match self.take(token)? {
                Step::More => {}
                done => return Ok(done),
            }
        }
    }

    /// Begins what the token begins; [`Step::More`] unless a reply is whole by it.
    fn take(&mut self, token: Token) -> Result<Step, BadReply> {
        match token {
            Token::Value(value) => {
                self.charge(VALUE)?;
                Ok(self.close(value))
            }
            Token::String(kind, left) => {
                self.charge(VALUE.saturating_add(left))?;
                self.string = Some(PartialString { bytes: Vec::new(), left, kind });
                Ok(Step::More)
            }
            Token::Open(Aggregate::Push, _) if !self.open.is_empty() => bad("a push message inside a reply"),
            Token::Open(kind, left) => {
                if self.open.len() >= self.limits.depth {
                    return bad(format!("more than {} levels of arrays", self.limits.depth));
                }
                self.charge(VALUE)?;
                // They count when they come, but too many are refused at once.
                if left.saturating_mul(VALUE) > self.limits.reply - self.taken {
                    return bad(format!("a reply of more than {} bytes", self.limits.reply));
                }
                let open = Open { kind, left, items: Vec::new() };
                if left > 0 {
                    self.open.push(open);
                    return Ok(Step::More);
                }
                match open.finish() {
                    Some(value) => Ok(self.close(value)),
                    None if self.open.is_empty() => {
                        self.taken = 0;
                        Ok(Step::Dropped)
                    }
                    None => Ok(Step::More),
                }
            }
        }
    }

    /// Puts a whole value where it belongs.
    fn close(&mut self, mut value: Reply) -> Step {
        loop {
            let Some(open) = self.open.last_mut() else {
                self.taken = 0;
                return Step::Value(value);
            };
            open.items.push(value);
            open.left -= 1;
            if open.left > 0 {
                return Step::More;
            }
            match self.open.pop().and_then(Open::finish) {
                Some(whole) => value = whole,
                None if self.open.is_empty() => {
                    self.taken = 0;
                    return Step::Dropped;
                }
                None => return Step::More,
            }
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), BadReply> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken > self.limits.reply {
            return bad(format!("a reply of more than {} bytes", self.limits.reply));
        }
        Ok(())
    }

    /// The next line as a token.
    fn token(&mut self) -> Result<Option<Token>, BadReply> {
        let unread = &self.buffer[self.start..self.end];
        // The type is checked before the line is whole: what is no server may never send one.
        if let Some(first) = unread.first()
            && !b"+-:$*_#,(!=%~>|".contains(first)
        {
            return bad(format!(
                "`{}`, which is no reply of this protocol",
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
            _ => return bad("a line that ends in something other than CR LF"),
        }
        let token = parse(&unread[..len])?;
        self.skip_bytes(len + 2);
        Ok(Some(token))
    }

    /// CR LF behind a string; `false` if it has not arrived.
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
