//! Text of peers made safe to show.
//!
//! A reply, an address or a header may hold terminal escape sequences, line ends that forge a log line, or marks that
//! turn the reading direction around. Whatever came from outside passes here before it reaches a terminal or a log.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// `text` with every character that could act on a terminal or forge a line written as an escape.
///
/// Control characters (C0, DEL, C1), line and paragraph separators and the bidirectional and invisible formatting marks
/// become `\n`, `\r`, `\t` or `\u{..}`. Everything else, UTF-8 included, passes. Nothing is allocated when there is
/// nothing to escape.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().any(acts) { Cow::Owned(Escaped(text).to_string()) } else { Cow::Borrowed(text) }
}

/// Displays text as [`escape`] does.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if acts(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Whether a character does something other than stand on the line.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_is_not_copied() {
        assert!(matches!(escape("250 2.0.0 Grüße, 世界"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_acts_is_spelled_out() {
        assert_eq!(
            escape("a\x1b[31mb\r\nc\0d\u{202e}e\u{85}f\x7f"),
            "a\\u{1b}[31mb\\r\\nc\\u{0}d\\u{202e}e\\u{85}f\\u{7f}"
        );
    }
}
