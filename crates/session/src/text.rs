//! What peers say, bounded where it is taken.

use std::borrow::Cow;

/// Longest text kept of one command or reply, in bytes: a reply that says more is an attack or a poem.
pub const TEXT_LIMIT: usize = 1_000;
/// Stands for NUL, which ends a text in some of the programs that read the database.
const NUL: &str = "\u{2400}";

/// What a peer said, as it said it (control characters too: they are escaped where they are shown), bounded to
/// [`TEXT_LIMIT`] bytes. Bytes that are not UTF-8 become U+FFFD, NUL becomes U+2400.
pub(crate) fn said(said: &[u8]) -> Cow<'_, str> {
    let head = &said[..said.len().min(TEXT_LIMIT)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => Cow::Borrowed(text),
        // A character cut in two by the limit is left out, not made into U+FFFD.
        Err(error) if said.len() > TEXT_LIMIT && error.error_len().is_none() => {
            String::from_utf8_lossy(&head[..error.valid_up_to()])
        }
        Err(_) => String::from_utf8_lossy(head),
    };
    match text {
        Cow::Borrowed(text) => shown(text),
        Cow::Owned(text) => Cow::Owned(cut(&shown(&text), TEXT_LIMIT).to_owned()),
    }
}

/// The same of text, which needs no look at whether it is.
pub(crate) fn bounded(text: &str) -> Cow<'_, str> {
    shown(cut(text, TEXT_LIMIT))
}

/// A text of no more than [`TEXT_LIMIT`] bytes without NUL, and no longer than that.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.as_bytes().contains(&0) {
        return Cow::Borrowed(text);
    }
    // What stands for a byte is longer than it.
    let text = text.replace('\0', NUL);
    Cow::Owned(cut(&text, TEXT_LIMIT).to_owned())
}

/// At most `limit` bytes of `text`, cut between characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_between_characters() {
        assert_eq!(said(&[b'x'; 5_000]).len(), TEXT_LIMIT);
        let long = format!("{}é", "x".repeat(TEXT_LIMIT - 1));
        assert_eq!(said(long.as_bytes()), "x".repeat(TEXT_LIMIT - 1));
        assert!(said(&[0xff; 5_000]).len() <= TEXT_LIMIT);
        assert!(said(&[0; 5_000]).len() <= TEXT_LIMIT);
        assert_eq!(said(b"a\xffb"), "a\u{fffd}b");
    }

    #[test]
    fn text_keeps_what_was_said() {
        assert_eq!(said(b"2.0.0 \x1b[31mok\x7f"), "2.0.0 \x1b[31mok\x7f");
        assert_eq!(said(b"ok\0no"), "ok\u{2400}no");
    }
}
