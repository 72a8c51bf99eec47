//! What a submitted message must be, and what is added to it (RFC 6409 §6 and §8). The body is never touched.

use super::author::{AuthorError, authors};
use super::date::rfc5322;
use super::header::Header;
use std::collections::HashSet;
use thiserror::Error;
use warren_smtp::Mailbox;

/// The addresses that an account may write as.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses(HashSet<String>);

impl OwnAddresses {
    /// From the platform's list; what is no address is left out.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Self {
        Self(
            addresses
                .into_iter()
                .filter_map(|address| address.parse::<Mailbox>().ok())
                .map(|mailbox| key(&mailbox))
                .collect(),
        )
    }

    /// May the account write as this address? The case of ASCII letters makes no difference: no two accounts of a tenant differ by that alone. Of others it does
    /// in local parts (RFC 6532 has no folding), where the sign of the kelvin would pass for a `k`.
    #[must_use]
    pub fn has(&self, mailbox: &Mailbox) -> bool {
        self.0.contains(&key(mailbox))
    }
}

fn key(mailbox: &Mailbox) -> String {
    mailbox.to_key().to_ascii_lowercase()
}

/// Why the header of a submitted message is refused: `550 5.7.1`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorRefused {
    /// It cannot be established who wrote it.
    #[error(transparent)]
    Unclear(#[from] AuthorError),
    /// It says that somebody else wrote it.
    #[error("{0} is not an address of this account")]
    Foreign(Mailbox),
}

/// Checks that everybody whom the message names as author or sender is the account itself.
///
/// # Errors
/// The first author that is not.
pub fn check_authors(header: &Header, own: &OwnAddresses) -> Result<(), AuthorRefused> {
    match authors(header)?.into_iter().find(|author| !own.has(author)) {
        Some(foreign) => Err(AuthorRefused::Foreign(foreign)),
        None => Ok(()),
    }
}

/// What is added to a submitted message where it is missing.
#[derive(Debug)]
pub struct Additions<'a> {
    /// The Received field.
    pub received: &'a [u8],
    /// Now (unix milliseconds).
    pub now_ms: u64,
    /// The Message-ID, without brackets.
    pub message_id: &'a str,
    /// Who submits, for a message without From.
    pub author: &'a str,
}

/// The header section of a submitted message as it goes on: fields removed and added, the others verbatim.
#[must_use]
pub fn submitted(mut header: Header, additions: &Additions<'_>) -> Vec<u8> {
    header.strip(&["Bcc", "Resent-Bcc"]);
    let mut out = additions.received.to_vec();
    if !header.has("Message-ID") {
        out.extend_from_slice(format!("Message-ID: <{}>\r\n", additions.message_id).as_bytes());
    }
    if !header.has("Date") {
        out.extend_from_slice(format!("Date: {}\r\n", rfc5322(additions.now_ms)).as_bytes());
    }
    if !header.has("From") {
        out.extend_from_slice(format!("From: {}\r\n", additions.author).as_bytes());
    }
    out.extend_from_slice(&header.bytes());
    out
}

/// The header section of a relayed message: nothing but the Received field is added, so that signatures stay whole.
#[must_use]
pub fn relayed(header: &Header, received: &[u8]) -> Vec<u8> {
    [received, &header.bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::header::HeaderReader;

    fn header(fields: &str) -> Header {
        HeaderReader::default().push(format!("{fields}\r\n").as_bytes()).unwrap().unwrap().header
    }

    const ADDITIONS: Additions<'static> = Additions {
        received: b"Received: x\r\n",
        now_ms: 0,
        message_id: "1@acme.example",
        author: "alice@acme.example",
    };

    #[test]
    fn adds_what_is_missing_and_strips_blind_copies() {
        let out = submitted(
            header("To: bob@x.example\r\nBCC: eve@x.example\r\nresent-bcc: eve@x.example\r\nSubject: hi\r\n"),
            &ADDITIONS,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Received: x\r\nMessage-ID: <1@acme.example>\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\nFrom: alice@acme.example\r\nTo: bob@x.example\r\nSubject: hi\r\n"
        );
    }

    #[test]
    fn leaves_what_is_there() {
        let fields = "from: alice@acme.example\r\ndate: whenever\r\nmessage-id : <x@y>\r\nBcc-like: z\r\n";
        assert_eq!(submitted(header(fields), &ADDITIONS), format!("Received: x\r\n{fields}").into_bytes());
        assert_eq!(relayed(&header("Bcc: kept\r\n"), b"Received: x\r\n"), b"Received: x\r\nBcc: kept\r\n");
    }

    #[test]
    fn only_own_addresses() {
        let own = OwnAddresses::new(&["alice@acme.example".to_owned(), "sales@acme.example".to_owned()]);
        let check = |fields: &str| check_authors(&header(fields), &own);
        assert_eq!(check("From: Alice@ACME.example, sales@acme.example\r\n"), Ok(()));
        let kate = OwnAddresses::new(&["kate@acme.example".to_owned()]);
        let may = |address: &str| kate.has(&address.parse().unwrap());
        assert_eq!(["KATE@Acme.example", "\u{212a}ate@acme.example"].map(may), [true, false]);
        assert_eq!(check("Subject: no author: one is added\r\n"), Ok(()));
        assert!(matches!(
            check("From: alice@acme.example\r\nSender: ceo@acme.example\r\n"),
            Err(AuthorRefused::Foreign(_))
        ));
        assert!(matches!(
            check("From: alice@acme.example\r\nFrom: ceo@acme.example\r\n"),
            Err(AuthorRefused::Foreign(_))
        ));
        assert!(matches!(check("From: alice%acme.example@evil.example\r\n"), Err(AuthorRefused::Foreign(_))));
        assert!(matches!(check("From: alice@acme.example <ceo@acme.example>\r\n"), Err(AuthorRefused::Unclear(_))));
    }
}
