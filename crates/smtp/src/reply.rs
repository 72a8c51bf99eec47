//! Replies (RFC 5321 §4.2, RFC 2034, RFC 3463): built, parsed within bounds, written safely.
//!
//! Whatever a peer put into its text, a [`Reply`] is written as well-formed lines: control
//! characters come out as `\xHH`, so that no peer can make a second reply out of one.

mod enhanced;
mod parser;

use std::borrow::Cow;
use std::fmt;

pub use enhanced::{EnhancedCode, NotAnEnhancedCode, WrittenCode};
pub use parser::{ReplyError, ReplyParser};

/// Longest reply line taken (RFC 5321 says 512; some MXs write more).
pub const MAX_REPLY_LINE: usize = 4_096;
/// Most lines in one reply.
pub const MAX_REPLY_LINES: usize = 256;
/// Most bytes in one reply.
pub const MAX_REPLY_BYTES: usize = 65_536;
/// Longest text written on one line; RFC 5321 §4.5.3.1.5 allows 512 with code and CRLF.
const MAX_WRITTEN_TEXT: usize = 480;
/// Code, enhanced status code and line end, mostly.
const WRITTEN_BESIDES: usize = 12;

/// What a reply asks of the client (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// 2yz: done.
    Positive,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: try again later.
    Transient,
    /// 5yz: do not try again.
    Permanent,
}

/// One reply of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status code that every line carries, if every line does.
    pub enhanced: Option<EnhancedCode>,
    /// The text of each line, without codes.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply of one line with an enhanced status code.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<String>) -> Self {
        let (class, subject, detail) = enhanced;
        Self { code, enhanced: Some(EnhancedCode::new(class, subject, detail)), lines: vec![text.into()] }
    }

    /// A reply of one line without an enhanced status code: greetings, EHLO, 354 (RFC 2034 §4).
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, lines: vec![text.into()] }
    }

    /// What the first digit says.
    pub fn severity(&self) -> Severity {
        match self.code / 100 {
            2 => Severity::Positive,
            3 => Severity::Intermediate,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    /// 2yz.
    pub fn is_positive(&self) -> bool {
        self.severity() == Severity::Positive
    }

    /// 4yz.
    pub fn is_transient(&self) -> bool {
        self.severity() == Severity::Transient
    }

    /// 5yz.
    pub fn is_permanent(&self) -> bool {
        self.severity() == Severity::Permanent
    }

    /// The enhanced status code of the reply, or of its first line if the lines differ.
    pub fn status(&self) -> Option<EnhancedCode> {
        self.enhanced.or_else(|| EnhancedCode::first_word(self.lines.first()?).map(|(code, _)| code))
    }

    /// The text of all lines, each with the enhanced status code in front that it came with, separated by `\n`.
    pub fn coded_lines(&self) -> String {
        let enhanced = self.enhanced.map(EnhancedCode::written);
        let enhanced = enhanced.as_deref().unwrap_or_default();
        let length: usize = self.lines.iter().map(|line| enhanced.len() + 1 + line.len() + 1).sum();
        let mut text = String::with_capacity(length);
        for (n, line) in self.lines.iter().enumerate() {
            if n > 0 {
                text.push('\n');
            }
            if !enhanced.is_empty() {
                text.push_str(enhanced);
                text.push(' ');
            }
            text.push_str(line);
        }
        text
    }

    /// All text on one line, escaped: for logs and notices.
    pub fn text(&self) -> String {
        let joined: Vec<String> = self.lines.iter().map(|line| escape(line)).collect();
        joined.join(" ")
    }

    /// The bytes for the wire. Control characters are escaped, over-long lines are cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text: usize = self.lines.iter().map(|line| line.len() + WRITTEN_BESIDES).sum();
        let mut out = Vec::with_capacity(text);
        self.write_to(&mut out);
        out
    }

    /// Appends the bytes for the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let code = digits(self.code.clamp(200, 599));
        let enhanced = self.enhanced.map(EnhancedCode::written);
        let last = self.lines.len().saturating_sub(1);
        for (number, line) in
            self.lines.iter().map(String::as_str).chain(self.lines.is_empty().then_some("")).enumerate()
        {
            out.extend_from_slice(&code);
            out.push(if number < last { b'-' } else { b' ' });
            if let Some(enhanced) = &enhanced {
                out.extend_from_slice(enhanced.as_bytes());
                out.push(b' ');
            }
            let text = escaped(line);
            out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_WRITTEN_TEXT)]);
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for people: `550 5.1.1 no such user`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&self.text())
    }
}

/// The digits of a number below a thousand.
fn digits(number: u16) -> [u8; 3] {
    [number / 100, number / 10, number].map(|digit| b'0' + (digit % 10) as u8)
}

/// Makes a peer's text harmless on one line: control characters and direction marks as `\xHH`.
pub fn escape(text: &str) -> String {
    escaped(text).into_owned()
}

fn escaped(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.push_str(&format!("\\x{:02x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_are_written_in_place() {
        for (class, subject, detail) in [(2, 0, 0), (5, 7, 26), (4, 10, 109), (255, 65_535, 65_535)] {
            let code = EnhancedCode::new(class, subject, detail);
            assert_eq!(code.to_string(), format!("{class}.{subject}.{detail}"));
            let reply = Reply { code: 550, enhanced: Some(code), lines: vec!["a".into(), "b".into()] };
            assert_eq!(reply.coded_lines(), format!("{code} a\n{code} b"));
        }
        assert_eq!(Reply::plain(250, "a").coded_lines(), "a");
    }

    fn parse(chunks: &[&[u8]]) -> Result<Vec<Reply>, ReplyError> {
        let mut parser = ReplyParser::new();
        let mut out = Vec::new();
        for chunk in chunks {
            parser.push(chunk);
            while let Some(reply) = parser.next_reply()? {
                out.push(reply);
            }
        }
        Ok(out)
    }

    #[test]
    fn multi_line_replies_split_anywhere() {
        let wire = b"220 mx ESMTP\r\n550-5.1.1 no such\r\n550 5.1.1 user\n250-a\r\n250\r\n";
        let expected = parse(&[wire]).unwrap();
        assert_eq!(expected.len(), 3);
        assert_eq!(
            expected[1],
            Reply {
                code: 550,
                enhanced: Some(EnhancedCode::new(5, 1, 1)),
                lines: vec!["no such".into(), "user".into()]
            }
        );
        assert_eq!(expected[2].lines, ["a", ""]);
        for at in 0..wire.len() {
            assert_eq!(parse(&[&wire[..at], &wire[at..]]).unwrap(), expected, "split at {at}");
        }
    }

    #[test]
    fn differing_enhanced_codes_stay_in_the_text() {
        let reply = &parse(&[b"451-4.7.1 slow down\r\n451 see http://x\r\n"]).unwrap()[0];
        assert_eq!((reply.enhanced, reply.status()), (None, Some(EnhancedCode::new(4, 7, 1))));
        assert_eq!(reply.to_bytes(), b"451-4.7.1 slow down\r\n451 see http://x\r\n");
    }

    #[test]
    fn hostile_replies_end_within_bounds() {
        assert_eq!(parse(&[b"HTTP/1.1 400\r\n"]), Err(ReplyError::Garbage));
        assert_eq!(parse(&[b"\r\n"]), Err(ReplyError::Garbage));
        assert_eq!(parse(&[b"199 no\r\n"]), Err(ReplyError::Garbage));
        assert_eq!(parse(&[b"600 no\r\n"]), Err(ReplyError::Garbage));
        assert_eq!(parse(&[b"250-a\r\n550 b\r\n"]), Err(ReplyError::MixedCodes));
        assert_eq!(parse(&[&[b'2'; 5_000]]), Err(ReplyError::TooLong));
        let endless = b"250-x\r\n".repeat(300);
        assert_eq!(parse(&[&endless]), Err(ReplyError::TooLong));
        let long = format!("250-{}\r\n", "x".repeat(4_000)).repeat(20);
        assert_eq!(parse(&[long.as_bytes()]), Err(ReplyError::TooLong));
        let escapes = [b"250-".to_vec(), vec![0x1b; 119], b"\r\n".to_vec()].concat().repeat(200);
        assert_eq!(parse(&[&escapes, b"250 ok\r\n"]), Err(ReplyError::TooLong), "longer than it came");
    }

    #[test]
    fn a_reply_never_becomes_two() {
        let mut reply = Reply::new(550, (5, 7, 1), "no\r\n250 yes\u{1b}[2J\u{85}");
        reply.lines.push("\u{202e}x".into());
        assert_eq!(
            String::from_utf8(reply.to_bytes()).unwrap(),
            "550-5.7.1 no\\x0d\\x0a250 yes\\x1b[2J\\x85\r\n550 5.7.1 \\x202ex\r\n"
        );
        assert_eq!(parse(&[b"250 a\rb\0c\r\n"]).unwrap()[0].lines, ["a\\x0db\\x00c"]);
        assert_eq!(Reply { code: 250, enhanced: None, lines: vec![] }.to_bytes(), b"250 \r\n");
        assert!(Reply::plain(250, "ä".repeat(600)).to_bytes().len() <= 512);
    }

    proptest! {
        #[test]
        fn whatever_is_written_parses_as_one_reply(code in 200u16..600, lines in proptest::collection::vec("\\PC{0,50}|[\\x00-\\x7f]{0,50}", 1..5)) {
            let reply = Reply { code, enhanced: None, lines };
            let parsed = parse(&[&reply.to_bytes()]).unwrap();
            prop_assert_eq!(parsed.len(), 1);
            prop_assert_eq!(parsed[0].code, code);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&[&bytes]);
        }
    }
}
