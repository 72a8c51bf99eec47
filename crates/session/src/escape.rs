//! Text of peers, made harmless for terminals, logs and pages.

use std::fmt::{self, Write};

/// Shows text with everything escaped that could move a cursor, change direction, or hide: control characters, escapes,
/// bidirectional marks, zero-width and tag characters, and the backslash itself, so that escapes cannot be feigned.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if (c as u32) < 0x80 && c.is_control() => write!(f, "\\x{:02x}", c as u32)?,
                c if treacherous(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Beyond ASCII: what a terminal or a reader would not show as itself.
fn treacherous(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{00ad}'
                | '\u{034f}'
                | '\u{061c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
                | '\u{e000}'..='\u{f8ff}'
                | '\u{f0000}'..='\u{10ffff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_peer_reaches_the_terminal() {
        for (text, shown) in [
            ("2.0.0 Ok", "2.0.0 Ok"),
            ("\x1b[2J\x07", "\\x1b[2J\\x07"),
            ("a\rb\nc\td\0", "a\\rb\\nc\\td\\x00"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("zero\u{200b}width", "zero\\u{200b}width"),
            ("\\x1b", "\\\\x1b"),
            ("Grüße 你好", "Grüße 你好"),
            ("\x7f", "\\x7f"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }
}
