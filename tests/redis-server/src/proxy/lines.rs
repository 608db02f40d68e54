//! Finds the lines between the payloads of a RESP stream, for any split of the stream into pieces.

use std::borrow::Cow;

/// Shorter bulk strings are not chunks but keys or names, such as those in the reply to `HELLO`.
const CHUNK_AT_LEAST: u64 = 256;

/// The replacement of a chunk's first line, `$4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// `$4097`
    OneLonger,
    /// `$4095`
    OneShorter,
    /// `$-5`
    Negative,
    /// `$99999999999999`
    Huge,
    /// `$40x6`
    NoNumber,
    /// `?4096`. No version of the protocol has this type.
    UnknownType,
}

impl Corruption {
    /// All corruptions.
    pub const ALL: [Self; 6] =
        [Self::OneLonger, Self::OneShorter, Self::Negative, Self::Huge, Self::NoNumber, Self::UnknownType];

    fn line(self, len: u64) -> String {
        match self {
            Self::OneLonger => format!("${}\r\n", len + 1),
            Self::OneShorter => format!("${}\r\n", len - 1),
            Self::Negative => "$-5\r\n".into(),
            Self::Huge => "$99999999999999\r\n".into(),
            Self::NoNumber => "$40x6\r\n".into(),
            Self::UnknownType => format!("?{len}\r\n"),
        }
    }
}

/// The position in the stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The missing bytes of the current payload, including its CRLF.
    payload: u64,
    /// The bytes of the current line so far.
    line: Vec<u8>,
    /// The bytes of `line` that have passed already. A line that may have to change is held back until it is whole.
    gone: usize,
}

impl Lines {
    /// Gives the bytes that pass on, and whether a line was changed. Calls `may` before each change.
    pub(super) fn pass<'a>(
        &mut self,
        mut piece: &'a [u8],
        corruption: Option<Corruption>,
        mut may: impl FnMut() -> bool,
    ) -> (Cow<'a, [u8]>, bool) {
        let mut passed = Cow::Borrowed(&piece[..0]);
        let mut changed = false;
        while !piece.is_empty() {
            if self.payload > 0 {
                let len = usize::try_from(self.payload).unwrap_or(usize::MAX).min(piece.len());
                let (payload, rest) = piece.split_at(len);
                self.payload -= len as u64;
                piece = rest;
                // Most pieces are only payload, and need no copy.
                if passed.is_empty() {
                    passed = Cow::Borrowed(payload);
                } else {
                    passed.to_mut().extend_from_slice(payload);
                }
                continue;
            }
            let end = piece.iter().position(|&b| b == b'\n').map_or(piece.len(), |at| at + 1);
            let (line, rest) = piece.split_at(end);
            self.line.extend_from_slice(line);
            piece = rest;
            let whole = self.line.ends_with(b"\n");
            let chunk = bulk(&self.line).filter(|_| whole);
            match (chunk, corruption) {
                (Some(len), Some(corruption)) if len >= CHUNK_AT_LEAST && self.gone == 0 && may() => {
                    passed.to_mut().extend_from_slice(corruption.line(len).as_bytes());
                    changed = true;
                }
                (_, Some(_)) if !whole && self.gone == 0 => {}
                _ => {
                    passed.to_mut().extend_from_slice(&self.line[self.gone..]);
                    self.gone = self.line.len();
                }
            }
            if whole {
                self.payload = chunk.map_or(0, |len| len + 2);
                self.line.clear();
                self.gone = 0;
            }
        }
        (passed, changed)
    }
}

/// The payload's length in this line.
fn bulk(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    // Bulk string, verbatim string, bulk error.
    line.strip_prefix(['$', '=', '!'])?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream whose payload looks like lines.
    fn stream(chunk_line: &str) -> Vec<u8> {
        let mut stream = b"*2\r\n$4\r\n$999\r\n".to_vec();
        stream.extend_from_slice(chunk_line.as_bytes());
        stream.extend(b"$300\r\n".repeat(50));
        stream.extend_from_slice(b"\r\n:1\r\n$-1\r\n$0\r\n\r\n+OK\r\n");
        stream
    }

    fn passed(pieces: usize, corruption: Option<Corruption>) -> (Vec<u8>, usize) {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut changes = 0;
        for piece in stream("$300\r\n").chunks(pieces) {
            let (bytes, changed) = lines.pass(piece, corruption, || true);
            all.extend_from_slice(&bytes);
            changes += usize::from(changed);
        }
        (all, changes)
    }

    #[test]
    fn only_a_chunks_line_is_changed_for_any_split_of_the_stream() {
        for pieces in [1, 2, 3, 7, 1000] {
            assert_eq!(passed(pieces, None), (stream("$300\r\n"), 0), "in pieces of {pieces}");
            assert_eq!(passed(pieces, Some(Corruption::OneLonger)), (stream("$301\r\n"), 1), "in pieces of {pieces}");
        }
    }

    #[test]
    fn a_line_that_has_passed_in_part_is_not_changed() {
        let mut lines = Lines::default();
        assert_eq!(lines.pass(b"$3", None, || true), (b"$3"[..].into(), false));
        let rest = b"00\r\n$400\r\n";
        assert_eq!(lines.pass(rest, Some(Corruption::Huge), || true), (rest[..].into(), false));
    }

    #[test]
    fn a_line_that_may_not_be_changed_passes() {
        let piece = b"$300\r\n";
        assert_eq!(Lines::default().pass(piece, Some(Corruption::Huge), || false), (piece[..].into(), false));
    }

    #[test]
    fn each_corruption_gives_its_line() {
        let lines = ["$301\r\n", "$299\r\n", "$-5\r\n", "$99999999999999\r\n", "$40x6\r\n", "?300\r\n"];
        for (corruption, line) in Corruption::ALL.into_iter().zip(lines) {
            assert_eq!(passed(64, Some(corruption)), (stream(line), 1));
        }
    }
}
