//! Enhanced status codes (RFC 3463).

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// An enhanced status code such as `5.1.1` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedCode {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// Which condition exactly.
    pub detail: u16,
}

impl EnhancedCode {
    /// `class.subject.detail`.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Its text, in place.
    pub fn written(self) -> WrittenCode {
        let mut written = WrittenCode { bytes: [0; _], length: 0 };
        for (before, number) in [("", self.class.into()), (".", self.subject), (".", self.detail)] {
            written.push(before, number);
        }
        written
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written())
    }
}

/// The text of an enhanced status code: every reply is written, most of them more than once, and none needs memory for that.
#[derive(Debug, Clone, Copy)]
pub struct WrittenCode {
    bytes: [u8; "255.65535.65535".len()],
    length: usize,
}

impl WrittenCode {
    fn push(&mut self, before: &str, mut number: u16) {
        let mut digits = [0; 5];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        for byte in before.bytes().chain(digits[first..].iter().copied()) {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }
}

impl Deref for WrittenCode {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// A text that is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct NotAnEnhancedCode;

impl FromStr for EnhancedCode {
    type Err = NotAnEnhancedCode;

    fn from_str(text: &str) -> Result<Self, NotAnEnhancedCode> {
        match read(text.as_bytes()) {
            Some((code, [])) => Ok(code),
            _ => Err(NotAnEnhancedCode),
        }
    }
}

impl EnhancedCode {
    /// The code that is the first word of `text`, and how many bytes it has.
    pub(super) fn first_word(text: &str) -> Option<(Self, usize)> {
        let (code, behind) = read(text.as_bytes())?;
        matches!(behind, [] | [b' ', ..]).then(|| (code, text.len() - behind.len()))
    }
}

/// The code that `text` begins with, and what is behind it.
fn read(text: &[u8]) -> Option<(EnhancedCode, &[u8])> {
    let [class @ (b'2' | b'4' | b'5'), b'.', behind @ ..] = text else { return None };
    let (subject, behind) = number(behind)?;
    let (detail, behind) = number(behind.strip_prefix(b".")?)?;
    Some((EnhancedCode::new(class - b'0', subject, detail), behind))
}

/// A number of one to three digits, and what is behind it.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, behind) = text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let value = || digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    (1..=3).contains(&digits.len()).then(|| (value(), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_are_written() {
        for text in ["2.0.0", "5.7.26", "4.10.109", "5.999.999"] {
            assert_eq!(text.parse::<EnhancedCode>().unwrap().to_string(), text);
            let words = format!("{text} and more");
            assert_eq!(EnhancedCode::first_word(&words), Some((text.parse().unwrap(), text.len())));
        }
        for text in [
            "", "2", "2.", "2.0", "2.0.", "2..0", "2.0.0.", "2.0.0.0", "3.0.0", "5.1000.0", "5.0.1000", " 2.0.0",
            "2.0.0x", "2.-1.0",
        ] {
            assert_eq!(text.parse::<EnhancedCode>(), Err(NotAnEnhancedCode), "{text:?}");
            assert_eq!(EnhancedCode::first_word(text), None, "{text:?}");
        }
        assert_eq!("2.0.0 ".parse::<EnhancedCode>(), Err(NotAnEnhancedCode));
    }
}
