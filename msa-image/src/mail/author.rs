//! Who a message says it is from: every address in From, Sender and Resent-From, in every spelling.
//!
//! Strict on purpose: a field that cannot be read completely names nobody, so the message is refused. A reader that skips what
//! it does not understand can be shown one author while the recipient's program shows another.

use super::header::Header;
use thiserror::Error;
use warren_smtp::Mailbox;

/// The fields that say who is responsible for a message.
pub const AUTHOR_FIELDS: [&str; 4] = ["From", "Sender", "Resent-From", "Resent-Sender"];

/// More authors than anybody needs.
const MAX_AUTHORS: usize = 100;
/// Nested comments and groups deeper than this are an attack.
const MAX_DEPTH: usize = 20;

/// Why the authors of a message cannot be established.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorError {
    /// A field is not an address list (RFC 5322 §3.4).
    #[error("{field} is not a list of addresses")]
    Unreadable {
        /// Its name.
        field: &'static str,
    },
    /// A field names nobody (it is empty, or has only empty groups).
    #[error("{field} has no address")]
    Nobody {
        /// Its name.
        field: &'static str,
    },
}

/// Every address that the message gives as author or sender. Empty only when it has none of the fields.
///
/// # Errors
/// When any of the fields cannot be read completely.
pub fn authors(header: &Header) -> Result<Vec<Mailbox>, AuthorError> {
    let mut found = Vec::new();
    for field in AUTHOR_FIELDS {
        for occurrence in header.all(field) {
            let before = found.len();
            let mut reader = Reader { rest: occurrence.value() };
            reader.address_list(&mut found).ok_or(AuthorError::Unreadable { field })?;
            if found.len() == before {
                return Err(AuthorError::Nobody { field });
            }
        }
    }
    Ok(found)
}

/// A reader of RFC 5322 §3.4 and its obsolete forms. `None` anywhere: not readable.
struct Reader<'a> {
    rest: &'a [u8],
}

/// A word of a phrase or local part, by its meaning.
struct Word(String);

impl Reader<'_> {
    fn address_list(&mut self, found: &mut Vec<Mailbox>) -> Option<()> {
        loop {
            self.blank()?;
            match self.rest.first() {
                None => return Some(()),
                // Obsolete: empty list elements.
                Some(b',') => self.skip(1),
                Some(_) => {
                    self.address(found, true)?;
                    self.blank()?;
                    if !matches!(self.rest.first(), None | Some(b',')) {
                        return None;
                    }
                }
            }
            if found.len() > MAX_AUTHORS {
                return None;
            }
        }
    }

    /// `addr-spec`, `phrase <addr-spec>` or `phrase: list;`.
    fn address(&mut self, found: &mut Vec<Mailbox>, group_allowed: bool) -> Option<()> {
        let mut words: Vec<Word> = Vec::new();
        let mut dotted = true; // whether what was read so far could be a local part: words joined by dots
        let mut after_dot = true;
        loop {
            self.blank()?;
            match self.rest.first()? {
                b'<' => {
                    self.skip(1);
                    found.push(self.angle_address()?);
                    return Some(());
                }
                b':' if group_allowed && !words.is_empty() => {
                    self.skip(1);
                    return self.group(found);
                }
                b'@' if dotted && !after_dot && !words.is_empty() => {
                    self.skip(1);
                    found.push(self.domain_of(&words)?);
                    return Some(());
                }
                b'.' => {
                    self.skip(1);
                    dotted &= !after_dot;
                    after_dot = true;
                }
                _ => {
                    dotted &= after_dot;
                    after_dot = false;
                    words.push(self.word()?);
                }
            }
        }
    }

    fn group(&mut self, found: &mut Vec<Mailbox>) -> Option<()> {
        loop {
            self.blank()?;
            match self.rest.first()? {
                b';' => {
                    self.skip(1);
                    return Some(());
                }
                b',' => self.skip(1),
                _ => {
                    self.address(found, false)?;
                    self.blank()?;
                    if !matches!(self.rest.first()?, b',' | b';') {
                        return None;
                    }
                }
            }
        }
    }

    /// After `<`. Source routes and the empty `<>` are refused.
    fn angle_address(&mut self) -> Option<Mailbox> {
        let mut words = Vec::new();
        loop {
            self.blank()?;
            words.push(self.word()?);
            self.blank()?;
            match self.rest.first()? {
                b'.' => self.skip(1),
                b'@' => break,
                _ => return None,
            }
        }
        self.skip(1);
        let mailbox = self.domain_of(&words)?;
        self.blank()?;
        (*self.rest.first()? == b'>').then(|| self.skip(1))?;
        Some(mailbox)
    }

    /// After `@`: the domain; then the whole address, by meaning.
    fn domain_of(&mut self, local: &[Word]) -> Option<Mailbox> {
        self.blank()?;
        let mut domain = String::new();
        if *self.rest.first()? == b'[' {
            let end = self.rest.iter().position(|byte| *byte == b']')?;
            domain.push_str(std::str::from_utf8(&self.rest[..=end]).ok()?);
            self.skip(end + 1);
        } else {
            loop {
                self.blank()?;
                domain.push_str(&self.atom()?);
                let here = self.rest;
                self.blank()?;
                if self.rest.first() != Some(&b'.') {
                    self.rest = here;
                    break;
                }
                self.skip(1);
                domain.push('.');
            }
        }
        let local: Vec<&str> = local.iter().map(|word| word.0.as_str()).collect();
        Mailbox::new(&local.join("."), domain.parse().ok()?).ok()
    }

    fn word(&mut self) -> Option<Word> {
        if self.rest.first() == Some(&b'"') { self.quoted().map(Word) } else { self.atom().map(Word) }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut meaning = Vec::new();
        let mut bytes = self.rest.iter().copied().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.skip(at + 1);
                    return Some(String::from_utf8_lossy(&meaning).into_owned());
                }
                b'\\' => meaning.push(bytes.next().filter(|(_, byte)| !byte.is_ascii_control())?.1),
                b'\r' | b'\n' => {} // a fold inside: the blank after it stays
                b'\t' => meaning.push(b' '),
                byte if byte.is_ascii_control() => return None,
                byte => meaning.push(byte),
            }
        }
        None
    }

    fn atom(&mut self) -> Option<String> {
        let length = self.rest.iter().position(|byte| !is_atom(*byte)).unwrap_or(self.rest.len());
        let text = String::from_utf8_lossy(&self.rest[..length]).into_owned();
        self.skip(length);
        (length > 0).then_some(text)
    }

    /// Skips blanks, folds and comments.
    fn blank(&mut self) -> Option<()> {
        loop {
            match self.rest.first() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.skip(1),
                Some(b'(') => self.comment()?,
                _ => return Some(()),
            }
        }
    }

    fn comment(&mut self) -> Option<()> {
        let mut depth = 0;
        let mut bytes = self.rest.iter().copied().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => drop(bytes.next()?),
                _ => {}
            }
            if depth > MAX_DEPTH {
                return None;
            }
            if depth == 0 {
                self.skip(at + 1);
                return Some(());
            }
        }
        None
    }

    fn skip(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}

/// RFC 5322 `atext`, and every byte over 127 (RFC 6532, and names in Latin-1 that old programs write bare).
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::header::HeaderReader;
    use proptest::prelude::*;

    fn of(fields: &str) -> Result<Vec<String>, AuthorError> {
        let mut reader = HeaderReader::default();
        let header = reader.push(format!("{fields}\r\n\r\n").as_bytes()).unwrap().unwrap().header;
        authors(&header).map(|found| found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_spelling_names_the_same_author() {
        for value in [
            "alice@acme.example",
            " <alice@acme.example>",
            "Alice Liddell <alice@acme.example>",
            "\"Liddell, Alice (ceo@bank.example)\" <alice@acme.example>",
            "=?utf-8?q?ceo=40bank=2Eexample?= <alice@acme.example>",
            "J. R. (a comment (nested) \\) here) Alice <alice@acme.example> (tail)",
            "alice (x) @ (y) acme . example",
            "\"alice\"@acme.example",
            "\"al\\ice\" @acme.example",
            "Group: alice@acme.example;",
            "Gr\u{fc}n\r\n <alice@acme.example>",
            ", ,alice@acme.example,",
        ] {
            let found = of(&format!("From: {value}")).unwrap();
            assert_eq!(found, ["alice@acme.example"], "{value}");
        }
    }

    #[test]
    fn every_author_is_found() {
        assert_eq!(of("From: a@x.example, B <b@y.example>, g: c@z.example, d@w.example;").unwrap().len(), 4);
        assert_eq!(
            of("From: a@x.example\r\nFROM : b@y.example\r\nSender: c@z.example\r\nResent-From: d@w.example")
                .unwrap()
                .len(),
            4
        );
        assert_eq!(of("Subject: nobody").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for value in [
            "alice",
            "alice@acme.example bob@evil.example",
            "alice@acme.example <bob@evil.example>",
            "<alice@acme.example> <bob@evil.example>",
            "<alice@acme.example>, \"unfinished",
            "<@evil.example:alice@acme.example>",
            "alice@acme.example\0",
            "alice@acme.example\u{b}, bob@evil.example",
            "(unfinished alice@acme.example",
            "alice@acme.example.",
            "alice..b@acme.example",
            "a: b: c@x.example;;",
            "alice@acme.example; bob@evil.example",
            "alice\u{ff20}evil.example",
        ] {
            assert!(
                matches!(of(&format!("From: {value}")), Err(AuthorError::Unreadable { .. })),
                "{value}: {:?}",
                of(&format!("From: {value}"))
            );
        }
        for value in ["", "undisclosed:;", " , "] {
            assert_eq!(of(&format!("From: {value}")), Err(AuthorError::Nobody { field: "From" }), "{value}");
        }
        let deep = format!("From: {}a@x.example", "(".repeat(5_000));
        assert!(of(&deep).is_err());
    }

    proptest! {
        #[test]
        fn no_input_is_too_odd(value in "[a@b.,:;<>()\"\\\\ \\[\\]\t=?é\u{0}]{0,40}") {
            // Whatever is found was written there: nothing is made up.
            for author in of(&format!("From: {value}")).unwrap_or_default() {
                prop_assert!(author.contains('@'));
            }
        }

        #[test]
        fn a_second_author_is_never_overlooked(before in "[ a-z\"<>,:;().]{0,20}", after in "[ a-z\"<>,:;().]{0,20}") {
            // Between two addresses anything may stand: either both are seen, or the field is refused, or one is quoted or commented away.
            let value = format!("alice@acme.example{before}evil@evil.example{after}");
            if let Ok(found) = of(&format!("From: {value}")) {
                let hidden = before.contains(['(', '"']);
                prop_assert!(hidden || found.iter().any(|author| author.to_string().contains("evil@evil.example")), "{value}: {found:?}");
            }
        }
    }
}
