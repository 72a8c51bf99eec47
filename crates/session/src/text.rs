//! What peers say, bounded where it is taken.

use serde::{Deserialize, Serialize};

/// Longest text kept of one command or reply, in bytes: a reply that says more is an attack or a poem.
pub const TEXT_LIMIT: usize = 1_000;

/// What a peer said, as it said it (control characters too: they are escaped where they are shown), bounded to
/// [`TEXT_LIMIT`] bytes. Lines of a reply are separated by `\n`. Bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Text(String);

impl Text {
    /// Keeps what fits of what was said.
    #[must_use]
    pub fn new(said: &[u8]) -> Self {
        let head = &said[..said.len().min(TEXT_LIMIT)];
        // A character cut in two by the limit is left out, not made into U+FFFD.
        let head = match std::str::from_utf8(head) {
            Err(error) if said.len() > TEXT_LIMIT && error.error_len().is_none() => &head[..error.valid_up_to()],
            _ => head,
        };
        let mut text = String::from_utf8_lossy(head).into_owned();
        // U+FFFD is longer than the byte it stands for.
        truncate(&mut text, TEXT_LIMIT);
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(mut text: String) -> Self {
        truncate(&mut text, TEXT_LIMIT);
        Self(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

/// Cuts `text` to at most `limit` bytes, between characters.
pub(crate) fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_between_characters() {
        assert_eq!(Text::new(&[b'x'; 5_000]).as_str().len(), TEXT_LIMIT);
        let cut = format!("{}é", "x".repeat(TEXT_LIMIT - 1));
        assert_eq!(Text::new(cut.as_bytes()).as_str(), "x".repeat(TEXT_LIMIT - 1));
        assert!(Text::new(&[0xff; 5_000]).as_str().len() <= TEXT_LIMIT);
        assert_eq!(Text::new(b"a\xffb").as_str(), "a\u{fffd}b");
    }

    #[test]
    fn text_keeps_what_was_said() {
        assert_eq!(Text::new(b"2.0.0 \x1b[31mok\0").as_str(), "2.0.0 \x1b[31mok\0");
    }
}
