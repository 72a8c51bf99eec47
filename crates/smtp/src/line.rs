//! Lines out of a byte stream.
//!
//! A [`LineBuffer`] stands in front of every command parser. It hands out what stands between two
//! CRLFs and nothing else: bare CR, bare LF and NUL make the line an error, and the tail of an
//! over-long line is swallowed up to its CRLF, so that it never runs as a command of its own.

use memchr::memchr;

/// Longest command line taken, CRLF included, where nothing else is said. RFC 5321 asks for 512
/// and more for each extension; SMTPUTF8, DSN and AUTH together stay below this.
pub const MAX_COMMAND_LINE: usize = 2_048;
/// Longest line of an AUTH exchange (RFC 4954 §4).
pub const MAX_AUTH_LINE: usize = 12_288;

/// What is wrong with a line. The line itself is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than the limit.
    #[error("line too long")]
    TooLong,
    /// A CR that no LF follows.
    #[error("bare CR in a line")]
    BareCr,
    /// An LF that no CR precedes.
    #[error("bare LF in a line")]
    BareLf,
    /// A NUL octet.
    #[error("NUL in a line")]
    Nul,
}

/// Collects bytes and hands out lines. Idle, it owns no memory.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Everything before this is handed out.
    start: usize,
    /// No CRLF begins between `start` and here.
    scanned: usize,
    max: usize,
    /// Inside an over-long line that is being swallowed.
    swallowing: bool,
}

impl LineBuffer {
    /// A buffer for lines of at most `max` bytes, CRLF included.
    pub fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, scanned: 0, max: max.max(2), swallowing: false }
    }

    /// Changes the limit from the next line on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max.max(2);
    }

    /// Appends bytes read from the peer. What is held is bounded by what the caller pushes before
    /// it asks for lines.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its CRLF, or its error; `None`: more bytes are needed.
    pub fn next_line(&mut self) -> Option<Result<Vec<u8>, LineError>> {
        let Some(end) = self.find_crlf() else {
            if self.swallowing || self.len() > self.max {
                self.forget_long_line();
            } else {
                self.give_back();
            }
            return None;
        };
        let line = if self.start == 0 && end + 2 == self.bytes.len() {
            // Nothing else is here, as mostly.
            let mut line = std::mem::take(&mut self.bytes);
            line.truncate(end);
            self.scanned = 0;
            line
        } else {
            let line = self.bytes[self.start..end].to_vec();
            self.start = end + 2;
            self.scanned = self.start;
            self.give_back();
            line
        };
        if std::mem::take(&mut self.swallowing) || line.len() + 2 > self.max {
            return Some(Err(LineError::TooLong));
        }
        Some(check(line))
    }

    /// What is buffered and not yet handed out as lines: content, perhaps with commands behind it.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The first `count` bytes of [`rest`](Self::rest) are dealt with.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        self.scanned = self.scanned.max(self.start);
        self.give_back();
    }

    /// Hands out everything that is buffered and not yet a line: content behind a command, or the
    /// rest at the end of a session.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = if self.start == 0 { std::mem::take(&mut self.bytes) } else { self.bytes[self.start..].to_vec() };
        self.clear();
        rest
    }

    /// Throws everything away (behind STARTTLS, CVE-2011-0411) and returns how much it was.
    pub fn clear(&mut self) -> usize {
        let dropped = self.len();
        self.bytes = Vec::new();
        self.start = 0;
        self.scanned = 0;
        self.swallowing = false;
        dropped
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find_crlf(&mut self) -> Option<usize> {
        let mut from = self.scanned.max(self.start);
        while let Some(at) = memchr(b'\r', &self.bytes[from..]).map(|offset| from + offset) {
            match self.bytes.get(at + 1) {
                Some(b'\n') => return Some(at),
                Some(_) => from = at + 1,
                None => {
                    self.scanned = at;
                    return None;
                }
            }
        }
        self.scanned = self.bytes.len();
        None
    }

    /// Keeps only a CR at the end, which may be the first half of the line's CRLF.
    fn forget_long_line(&mut self) {
        let ends_in_cr = self.bytes.last() == Some(&b'\r') && !self.is_empty();
        self.clear();
        self.swallowing = true;
        if ends_in_cr {
            self.bytes.push(b'\r');
        }
    }

    fn give_back(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
            self.start = 0;
            self.scanned = 0;
        } else if self.start > 4_096 {
            self.bytes.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
    }
}

/// A line between two CRLFs may still hold one half of one, or NUL.
fn check(line: Vec<u8>) -> Result<Vec<u8>, LineError> {
    match line.iter().find(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        None => Ok(line),
        Some(b'\r') => Err(LineError::BareCr),
        Some(b'\n') => Err(LineError::BareLf),
        Some(_) => Err(LineError::Nul),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(max: usize, chunks: &[&[u8]]) -> Vec<Result<String, LineError>> {
        let mut buffer = LineBuffer::new(max);
        let mut out = Vec::new();
        for chunk in chunks {
            buffer.push(chunk);
            while let Some(line) = buffer.next_line() {
                out.push(line.map(|line| String::from_utf8(line).unwrap()));
            }
        }
        out
    }

    #[test]
    fn split_at_every_byte() {
        let wire = b"EHLO a\r\nMAIL\nFROM\r\nRCPT\rTO\r\nNO\0OP\r\n0123456789abcdefQUIT\r\n\r\nQUIT\r\n";
        let expected = lines(16, &[wire]);
        assert_eq!(
            expected,
            [
                Ok("EHLO a".into()),
                Err(LineError::BareLf),
                Err(LineError::BareCr),
                Err(LineError::Nul),
                Err(LineError::TooLong),
                Ok(String::new()),
                Ok("QUIT".into())
            ]
        );
        for at in 0..wire.len() {
            assert_eq!(lines(16, &[&wire[..at], &wire[at..]]), expected, "split at {at}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(lines(16, &bytes), expected);
    }

    #[test]
    fn a_20_mb_line_holds_no_memory_and_runs_nothing() {
        let mut buffer = LineBuffer::new(512);
        for _ in 0..20_000 {
            buffer.push(&[b'x'; 1_000]);
            assert_eq!(buffer.next_line(), None);
            assert!(buffer.len() <= 1_512);
        }
        buffer.push(b" QUIT\r\nNOOP\r\n");
        assert_eq!(buffer.next_line(), Some(Err(LineError::TooLong)));
        assert_eq!(buffer.next_line(), Some(Ok(b"NOOP".to_vec())));
        assert_eq!(buffer.bytes.capacity(), 0, "idle buffers own nothing");
    }

    #[test]
    fn a_line_of_exactly_the_limit_passes() {
        assert_eq!(lines(6, &[b"QUIT\r\n"]), [Ok("QUIT".to_owned())]);
        assert_eq!(lines(5, &[b"QUIT\r\n"]), [Err(LineError::TooLong)]);
    }

    proptest! {
        #[test]
        fn chunking_never_matters(wire in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(0u8), Just(b'a')], 0..200), cut in 1usize..9) {
            let whole = lines(12, &[&wire]);
            let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(lines(12, &chunks), whole);
        }
    }
}
