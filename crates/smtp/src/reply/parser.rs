//! Replies out of what a peer sends.

use memchr::memchr;

use super::{EnhancedCode, MAX_REPLY_BYTES, MAX_REPLY_LINE, MAX_REPLY_LINES, Reply, WRITTEN_BESIDES, escape};

/// Why what a peer sent is not a reply. The session cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line that does not begin with a code of 200 to 599 and a blank or hyphen.
    #[error("garbage instead of a reply")]
    Garbage,
    /// Lines of one reply with different codes.
    #[error("lines of one reply carry different codes")]
    MixedCodes,
    /// A line, or the whole, beyond the bounds of this module.
    #[error("reply without an end")]
    TooLong,
}

/// Collects bytes and hands out whole replies. Lines may end in a bare LF, as some MXs have it.
#[derive(Debug, Default)]
pub struct ReplyParser {
    bytes: Vec<u8>,
    start: usize,
    code: u16,
    lines: Vec<String>,
    size: usize,
}

impl ReplyParser {
    /// An empty parser.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes read from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole reply; `None`: more bytes are needed. After an error drop the session.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(length) = memchr(b'\n', &self.bytes[self.start..]) {
            let line = &self.bytes[self.start..self.start + length];
            self.size += length + 1;
            if length > MAX_REPLY_LINE || self.size > MAX_REPLY_BYTES || self.lines.len() >= MAX_REPLY_LINES {
                return Err(ReplyError::TooLong);
            }
            let (code, more, text) = split_line(line.strip_suffix(b"\r").unwrap_or(line))?;
            if !self.lines.is_empty() && code != self.code {
                return Err(ReplyError::MixedCodes);
            }
            self.start += length + 1;
            self.code = code;
            self.lines.push(text);
            if !more {
                return self.finish().map(Some);
            }
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        if self.bytes.len() > MAX_REPLY_LINE { Err(ReplyError::TooLong) } else { Ok(None) }
    }

    /// Whether nothing is held: no reply, no part of one.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len() && self.lines.is_empty()
    }

    /// Throws away what is held (behind the MX's `220` to STARTTLS, CVE-2021-38371) and says how
    /// much it was.
    pub fn clear(&mut self) -> usize {
        let dropped = self.bytes.len() - self.start + self.size;
        *self = Self::default();
        dropped
    }

    fn finish(&mut self) -> Result<Reply, ReplyError> {
        let mut lines = std::mem::take(&mut self.lines);
        self.size = 0;
        // What was escaped is longer than it came, and whoever it is passed on to has bounds as well.
        let written: usize = lines.iter().map(|line| line.len() + WRITTEN_BESIDES).sum();
        if written > MAX_REPLY_BYTES {
            return Err(ReplyError::TooLong);
        }
        let code_of = |line: &String| EnhancedCode::first_word(line).map(|(code, _)| code);
        let first = lines.iter().map(code_of).reduce(|a, b| if a == b { a } else { None });
        let enhanced = first.flatten().filter(|code| u16::from(code.class) == self.code / 100);
        if enhanced.is_some() {
            for line in &mut lines {
                let length = EnhancedCode::first_word(line).map_or(0, |(_, length)| length);
                line.drain(..line.len().min(length + 1));
            }
        }
        Ok(Reply { code: self.code, enhanced, lines })
    }
}

fn split_line(line: &[u8]) -> Result<(u16, bool, String), ReplyError> {
    let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(ReplyError::Garbage)?;
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..=599).contains(&code) {
        return Err(ReplyError::Garbage);
    }
    let more = match line.get(3) {
        None | Some(b' ') => false,
        Some(b'-') => true,
        Some(_) => return Err(ReplyError::Garbage),
    };
    let text = line.get(4..).unwrap_or_default();
    let text = match std::str::from_utf8(text) {
        Ok(text) => escape(text),
        Err(_) => escape(&String::from_utf8_lossy(text)),
    };
    Ok((code, more, text))
}
