//! Commands in the bytes of the wire. Arguments are any bytes; large ones are not copied.

use std::io::{IoSlice, Write};

/// One part of an argument, or all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The parts of a name: prefix, key and suffix.
    Name([&'a str; 3]),
    /// A number in decimal.
    Int(u64),
    /// A chunk. Sent from its own memory if it is large.
    Payload(&'a [u8]),
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Bytes(text.as_bytes())
    }
}

impl From<u64> for Arg<'_> {
    fn from(n: u64) -> Self {
        Self::Int(n)
    }
}

/// One or more commands that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    /// Everything but the large payloads.
    bytes: Vec<u8>,
    /// Large payloads, each with its place in `bytes`.
    payloads: Vec<(usize, &'a [u8])>,
    commands: usize,
    is_asking: bool,
}

/// A shorter payload is copied, which costs less than a separate slice.
const COPIED: usize = 4 << 10;

/// The most slices in one system call.
const SLICES: usize = 64;

impl<'a> Request<'a> {
    /// A request without commands.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether `ASKING` goes before each further command.
    pub(super) fn set_asking(&mut self, asking: bool) {
        self.is_asking = asking;
    }

    /// Adds a command: its name and its arguments.
    pub(crate) fn command(&mut self, args: &[Arg<'a>]) {
        if self.is_asking {
            // A server forgets it after one command.
            self.one_command(&["ASKING".into()]);
        }
        self.one_command(args);
    }

    fn one_command(&mut self, args: &[Arg<'a>]) {
        self.line(b'*', args.len() as u64);
        for arg in args {
            match *arg {
                Arg::Bytes(bytes) => self.string(&[bytes]),
                Arg::Name(parts) => self.string(&parts.map(str::as_bytes)),
                Arg::Int(n) => self.string(&[n.to_string().as_bytes()]),
                Arg::Payload(bytes) if bytes.len() < COPIED => self.string(&[bytes]),
                Arg::Payload(bytes) => {
                    self.line(b'$', bytes.len() as u64);
                    self.payloads.push((self.bytes.len(), bytes));
                    self.bytes.extend_from_slice(b"\r\n");
                }
            }
        }
        self.commands += 1;
    }

    /// The number of commands, and of replies to come.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.payloads.iter().map(|(_, p)| p.len()).sum::<usize>()
    }

    /// Calls `send` with the slices from byte `sent` on, as many as fit one system call.
    pub(crate) fn with_slices<T>(&self, mut sent: usize, send: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut n = 0;
        let mut from = 0;
        let ends = self.payloads.iter().map(|(at, payload)| (*at, *payload));
        'parts: for (at, payload) in ends.chain([(self.bytes.len(), &[][..])]) {
            for part in [&self.bytes[from..at], payload] {
                let skipped = sent.min(part.len());
                sent -= skipped;
                if skipped < part.len() {
                    slices[n] = IoSlice::new(&part[skipped..]);
                    n += 1;
                    if n == SLICES {
                        break 'parts;
                    }
                }
            }
            from = at;
        }
        send(&slices[..n])
    }

    fn line(&mut self, kind: u8, n: u64) {
        self.bytes.push(kind);
        // A write to a vector does not fail.
        let _ = write!(self.bytes, "{n}\r\n");
    }

    fn string(&mut self, parts: &[&[u8]]) {
        self.line(b'$', parts.iter().map(|p| p.len() as u64).sum());
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: &Request<'_>, mut at_once: impl FnMut() -> usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < request.len() {
            let took = request.with_slices(all.len(), |slices| {
                let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
                bytes[..at_once().clamp(1, bytes.len())].to_vec()
            });
            all.extend(took);
        }
        all
    }

    #[test]
    fn arguments_are_any_bytes_and_numbers() {
        let mut request = Request::new();
        request.command(&["SET".into(), Arg::Name(["a", "\r\n", "\0b"]), Arg::Payload(b"pay")]);
        request.command(&["EXPIRE".into(), "".into(), 0.into(), u64::MAX.into()]);
        let expected = b"*3\r\n$3\r\nSET\r\n$5\r\na\r\n\0b\r\n$3\r\npay\r\n*4\r\n$6\r\nEXPIRE\r\n$0\r\n\r\n$1\r\n0\r\n$20\r\n18446744073709551615\r\n";
        assert_eq!(sent(&request, || usize::MAX), expected);
        assert_eq!((request.commands(), request.len()), (2, expected.len()));
    }

    #[test]
    fn a_large_payload_is_sent_whole_however_little_goes_at_once() {
        let payload: Vec<u8> = (0..COPIED * 3).map(|i| (i % 251) as u8).collect();
        let mut request = Request::new();
        for _ in 0..40 {
            request.command(&["SET".into(), "k".into(), Arg::Payload(&payload), "EX".into(), 7.into()]);
        }
        let mut one = format!("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", payload.len()).into_bytes();
        one.extend_from_slice(&payload);
        one.extend_from_slice(b"\r\n$2\r\nEX\r\n$1\r\n7\r\n");
        let all = one.repeat(40);
        assert_eq!(sent(&request, || usize::MAX), all);
        let mut step = 0;
        let odd = sent(&request, || {
            step += 1;
            step % 5000
        });
        assert_eq!(odd, all);
    }
}
