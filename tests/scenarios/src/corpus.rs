//! Real mail: the test data of CPython's `email` package, and kinds that it lacks.

use std::path::Path;

/// A message ready to be sent: lines end in CRLF, none is longer than RFC 5321 §4.5.3.1.6 allows.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Where it is from, for reports.
    pub name: String,
    /// Header and body.
    pub raw: Vec<u8>,
}

/// Where Debian's `libpython3.11-testsuite` keeps them.
const CPYTHON: &str = "/usr/lib/python3.11/test/test_email/data";

/// CPython's messages, each under a new header with this author and a subject of its own; the original stands below as it is.
pub fn cpython(author: &str) -> Vec<Letter> {
    let dir = std::fs::read_dir(CPYTHON)
        .unwrap_or_else(|e| panic!("{CPYTHON}: {e}: run deploy/prepare --lab, which installs libpython3.11-testsuite"));
    let mut files: Vec<_> =
        dir.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files.iter().filter_map(|file| real(file, author)).collect()
}

/// The letter in a file; none if it cannot travel by SMTP (lines too long, NUL).
fn real(file: &Path, author: &str) -> Option<Letter> {
    let name = file.file_name()?.to_string_lossy().into_owned();
    let raw = crlf(&std::fs::read(file).ok()?);
    // The author and the subject are what the front door and the test need; fields that would be fixed up are dropped.
    let (header, body) = split(&raw)?;
    let kept: Vec<&[u8]> = fields(header)
        .into_iter()
        .filter(|f| {
            let name = f.split(|b| *b == b':').next().unwrap_or_default().to_ascii_lowercase();
            let gone: [&[u8]; 8] =
                [b"from", b"sender", b"subject", b"bcc", b"resent-from", b"resent-sender", b"resent-bcc", b"received"];
            f.contains(&b':') && !f.starts_with(b"From ") && !gone.contains(&name.as_slice())
        })
        .collect();
    let mut whole = format!("From: <{author}>\r\nSubject: corpus {name}\r\n").into_bytes();
    for field in kept {
        whole.extend_from_slice(field);
    }
    whole.extend_from_slice(b"\r\n");
    whole.extend_from_slice(body);
    let fits = whole.split(|b| *b == b'\n').all(|l| l.len() <= 999) && !whole.contains(&0);
    fits.then_some(Letter { name, raw: whole })
}

/// Kinds of mail that must arrive as they were sent.
pub fn kinds(author: &str) -> Vec<Letter> {
    let letter = |name: &str, rest: String| Letter {
        name: name.into(),
        raw: format!("From: <{author}>\r\nTo: <bob@postfix.example>\r\nSubject: kind {name}\r\n{rest}").into_bytes(),
    };
    let attachment: String = (0..2_000).map(|n| format!("{n:064x}\r\n")).collect();
    vec![
        letter("plain", "\r\nHello.\r\n".into()),
        letter("empty body", "\r\n".into()),
        letter(
            "dots",
            "\r\n.\r\n..\r\n.leading\r\n...\r\nMAIL FROM:<x@y>\r\nQUIT\r\n.\r\n".replace("\r\n.\r\n", "\r\n.x\r\n"),
        ),
        letter("lone dot lines", "\r\nbefore\r\n.\r\nafter\r\n..\r\nend\r\n".into()),
        letter(
            "multipart",
            format!(
                "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b=_1\"\r\n\r\npreamble\r\n--b=_1\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße, 世界\r\n\
                 --b=_1\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"a.bin\"\r\n\
                 Content-Transfer-Encoding: base64\r\n\r\n{attachment}--b=_1--\r\nepilogue without end of line?\r\n"
            ),
        ),
        letter(
            "8-bit",
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nÄÖÜ ßæø €\r\n".into(),
        ),
        letter("long lines", format!("\r\n{}\r\n{}\r\n", "x".repeat(998), "y".repeat(998))),
        letter("encoded words", "X-Name: =?UTF-8?B?R3LDvMOfZQ==?=\r\n\tfolded\r\n\r\nbody\r\n".into()),
        letter("trailing spaces", "\r\nends in spaces   \r\n\t\r\n   \r\n\r\n\r\n".into()),
        letter(
            "5 MB",
            format!("\r\n{}", "0123456789abcdef 0123456789abcdef 0123456789abcdef 0123456789\r\n".repeat(80_000)),
        ),
    ]
}

/// A short letter with a subject to find it by.
pub fn note(author: &str, subject: &str) -> Vec<u8> {
    format!("From: <{author}>\r\nTo: <someone@elsewhere.example>\r\nSubject: {subject}\r\n\r\nThis is {subject}.\r\n")
        .into_bytes()
}

/// LF and lone CR → CRLF.
fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 40);
    let mut bytes = text.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            b => out.push(b),
        }
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn split(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = raw.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((&raw[..at + 2], &raw[at + 4..]))
}

/// Header fields with their continuation lines.
fn fields(header: &[u8]) -> Vec<&[u8]> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in header.split_inclusive(|b| *b == b'\n') {
        if at > 0 && !line.starts_with(b" ") && !line.starts_with(b"\t") {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(header.len());
    starts.windows(2).map(|w| &header[w[0]..w[1]]).filter(|f| !f.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_crlf() {
        assert_eq!(crlf(b"a\nb\r\nc\rd"), b"a\r\nb\r\nc\r\nd\r\n");
    }

    #[test]
    fn corpus_is_sendable_and_of_many_kinds() {
        let letters = cpython("alice@acme.example");
        assert!(letters.len() > 25, "{}", letters.len());
        for letter in letters.iter().chain(&kinds("alice@acme.example")) {
            assert!(
                letter.raw.starts_with(b"From: <alice@acme.example>\r\nTo")
                    || letter.raw.starts_with(b"From: <alice@acme.example>\r\nSubject")
            );
            assert!(letter.raw.ends_with(b"\r\n"), "{}", letter.name);
        }
    }
}
