//! The header section of a message, split off the stream that it arrives in.
//!
//! ```text
//!   content bytes ─▶ HeaderReader ─┬─▶ Header (fields, verbatim, bounded)
//!                                  └─▶ the rest: the body, passed on as it comes
//! ```
//!
//! Lenient where mail is lenient (obsolete blanks before the colon, 8-bit bytes), strict where two readers could disagree: the
//! section ends at the first line that is no field. What stood there becomes body, behind an empty line of its own, so that no
//! field can hide where we do not look and another reader does.

use memchr::memchr;
use thiserror::Error;

/// The largest header section that is taken.
pub const MAX_HEADER: usize = 256 * 1024;
/// The longest field name.
const MAX_NAME: usize = 128;

/// Why a header section is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Over [`MAX_HEADER`] bytes without an end.
    #[error("header section over {MAX_HEADER} bytes")]
    TooLarge,
}

/// A field as it stands in the message: name, colon, value, folds and line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    raw: Vec<u8>,
    name_length: usize,
    colon: usize,
}

impl Field {
    /// Whether it has this name, in any case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.raw[..self.name_length].eq_ignore_ascii_case(name.as_bytes())
    }

    /// What follows the colon, folds included.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.raw[self.colon + 1..]
    }

    /// The whole field.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

/// A complete header section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    fields: Vec<Field>,
}

impl Header {
    /// Every field, in order.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The fields of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> + 'a {
        self.fields.iter().filter(move |field| field.is(name))
    }

    /// Is there a field of this name?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Without bytes over 127.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.fields.iter().all(|field| field.raw.is_ascii())
    }

    /// Removes the fields of these names.
    pub fn strip(&mut self, names: &[&str]) {
        self.fields.retain(|field| !names.iter().any(|name| field.is(name)));
    }

    /// The fields as bytes, without the empty line after them.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.fields.iter().flat_map(|field| field.raw.iter().copied()).collect()
    }
}

/// Collects the header section; give it content until it is complete.
#[derive(Debug, Default)]
pub struct HeaderReader {
    held: Vec<u8>,
    /// Whole lines up to here were looked at.
    seen: usize,
    fields: Vec<Field>,
}

/// A complete header section and what of the body came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// The fields.
    pub header: Header,
    /// The start of the body, the empty line that separates it included.
    pub rest: Vec<u8>,
}

impl HeaderReader {
    /// Takes in content. Gives the header once it is complete: from then on content is body, and this reader is done.
    ///
    /// # Errors
    /// [`HeaderError::TooLarge`], for good.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Split>, HeaderError> {
        self.held.extend_from_slice(bytes);
        while let Some(length) = memchr(b'\n', &self.held[self.seen..]) {
            let end = self.seen + length + 1;
            if end > MAX_HEADER {
                return Err(HeaderError::TooLarge);
            }
            let line = self.seen..end;
            if !self.take_line(line.clone()) {
                return Ok(Some(self.split_at(line.start)));
            }
            self.seen = end;
        }
        if self.held.len() > MAX_HEADER { Err(HeaderError::TooLarge) } else { Ok(None) }
    }

    /// The content ended inside the header section: all of it was header (or a last line without an end).
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Split, HeaderError> {
        if self.seen < self.held.len() {
            // Only binary content (BDAT) can end without a line end.
            if let Some(split) = self.push(b"\r\n")? {
                return Ok(split);
            }
        }
        let end = self.held.len();
        Ok(self.split_at(end))
    }

    /// Whether the line belongs to the header section.
    fn take_line(&mut self, line: std::ops::Range<usize>) -> bool {
        let text = &self.held[line];
        if matches!(text.first(), Some(b' ' | b'\t')) {
            // A fold, even an all-blank one (obsolete syntax), unless nothing stands before it.
            return match self.fields.last_mut() {
                Some(field) => {
                    field.raw.extend_from_slice(text);
                    true
                }
                None => false,
            };
        }
        let Some(colon) = memchr(b':', text) else { return false };
        let name_length =
            text[..colon].iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        let legal =
            (1..=MAX_NAME).contains(&name_length) && text[..name_length].iter().all(|byte| (33..=126).contains(byte));
        if legal {
            self.fields.push(Field { raw: text.to_vec(), name_length, colon });
        }
        legal
    }

    fn split_at(&mut self, body: usize) -> Split {
        let mut rest = self.held.split_off(body);
        let separated = rest.is_empty() || rest.starts_with(b"\r\n") || rest.starts_with(b"\n");
        if !separated {
            rest.splice(0..0, *b"\r\n");
        }
        self.held = Vec::new();
        Split { header: Header { fields: std::mem::take(&mut self.fields) }, rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(content: &[u8]) -> Split {
        let mut reader = HeaderReader::default();
        match reader.push(content).unwrap() {
            Some(split) => split,
            None => reader.finish().unwrap(),
        }
    }

    #[test]
    fn fields_folds_and_body() {
        let found = split(b"From: a@b.example\r\nSubject : one\r\n two\r\n\r\nFrom: not a field\r\n");
        assert_eq!(found.rest, b"\r\nFrom: not a field\r\n");
        assert_eq!(found.header.fields().len(), 2);
        assert_eq!(found.header.fields()[1].value(), b" one\r\n two\r\n");
        assert!(found.header.has("SUBJECT") && !found.header.has("Sub"));
    }

    #[test]
    fn the_section_ends_at_the_first_line_that_is_no_field() {
        let found = split(b"A: 1\r\nnot a field\r\nFrom: hidden@evil.example\r\n\r\nbody\r\n");
        assert!(!found.header.has("From"));
        assert_eq!(found.rest, b"\r\nnot a field\r\nFrom: hidden@evil.example\r\n\r\nbody\r\n");
    }

    #[test]
    fn odd_messages() {
        assert_eq!(split(b"\r\nbody\r\n").rest, b"\r\nbody\r\n");
        assert_eq!(split(b"").rest, b"");
        assert_eq!(split(b"A: 1").header.bytes(), b"A: 1\r\n");
        assert_eq!(split(b"A: 1\r\n").rest, b"");
        assert_eq!(split(b" fold of nothing\r\nA: 1\r\n\r\n").rest, b"\r\n fold of nothing\r\nA: 1\r\n\r\n");
        assert_eq!(split(b"no header").rest, b"\r\nno header\r\n");
        assert_eq!(split(b"A\0: 1\r\n\r\n").header, Header::default());
    }

    #[test]
    fn bounded() {
        let mut reader = HeaderReader::default();
        let line = format!("X: {}\r\n", "x".repeat(995));
        let refused = (0..300).find_map(|_| reader.push(line.as_bytes()).err());
        assert_eq!(refused, Some(HeaderError::TooLarge));
        assert_eq!(HeaderReader::default().push(&vec![b'x'; MAX_HEADER + 1]), Err(HeaderError::TooLarge));
    }

    #[test]
    fn strips_by_whole_names_only() {
        let mut header = split(b"Bcc: x\r\nBcc-List: y\r\nRESENT-bcc : z\r\nTo: w\r\n\r\n").header;
        header.strip(&["bcc", "resent-bcc"]);
        assert_eq!(header.bytes(), b"Bcc-List: y\r\nTo: w\r\n");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(content in "([A-Za-z :\t]{0,12}\r\n){0,12}", cuts in proptest::collection::vec(1usize..9, 1..9)) {
            let content = content.as_bytes();
            let (mut reader, mut out, mut body) = (HeaderReader::default(), None, Vec::new());
            let (mut at, mut cut) = (0, cuts.iter().cycle());
            while at < content.len() {
                let end = (at + cut.next().unwrap()).min(content.len());
                match &out {
                    None => out = reader.push(&content[at..end]).unwrap(),
                    Some(_) => body.extend_from_slice(&content[at..end]),
                }
                at = end;
            }
            let found = match out { Some(split) => split, None => std::mem::take(&mut reader).finish().unwrap() };
            let whole = [found.header.bytes(), found.rest, body].concat();
            let expected = split(content);
            prop_assert_eq!(&whole, &[expected.header.bytes(), expected.rest].concat());
            // At most the separating empty line is added.
            prop_assert!(whole.len() == content.len() || whole.len() == content.len() + 2);
        }
    }
}
