//! Messages of many kinds: the real ones that CPython's `email` package is tested with (Debian: libpython3.11-testsuite), read from where
//! Debian puts them, and made ones for what those lack.

use std::path::Path;

use anyhow::{Context, bail};

/// Where Debian 12 keeps CPython's test mails.
pub const REAL_MAIL: &str = "/usr/lib/python3.11/test/test_email/data";

/// One message to send.
#[derive(Clone, Debug)]
pub struct Sample {
    /// For reports.
    pub name: String,
    /// The message: lines end in CRLF, none is longer than 998 bytes, the last one ends.
    pub raw: Vec<u8>,
}

/// All of them, real ones first.
pub fn corpus() -> anyhow::Result<Vec<Sample>> {
    let mut all = real()?;
    all.extend(made());
    Ok(all)
}

/// The real ones that SMTP may carry.
pub fn real() -> anyhow::Result<Vec<Sample>> {
    let entries = std::fs::read_dir(REAL_MAIL)
        .with_context(|| format!("read {REAL_MAIL} (Debian: apt-get install libpython3.11-testsuite)"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context("read the directory of test mails")?.path();
        if path.extension().is_some_and(|e| e == "txt") {
            let raw = wire(&std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
            if sendable(&raw) {
                found.push(Sample { name: stem(&path), raw });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.len() < 30 {
        bail!("{REAL_MAIL} has only {} messages: is it CPython's test data?", found.len());
    }
    Ok(found)
}

/// The made ones.
pub fn made() -> Vec<Sample> {
    vec![
        sample("attachment", attachment(20_000)),
        sample("eight-bit", eight_bit()),
        sample("long-lines", long_lines()),
        sample("utf8-header", utf8_header()),
        sample("dots", dots()),
        sample("empty-body", header("empty body", "") + "\r\n"),
        sample("five-megabytes", attachment(3_700_000)),
    ]
}

/// A message with this subject and a short text.
pub fn short(subject: &str) -> Vec<u8> {
    (header(subject, "") + "\r\nGood morning.\r\n").into_bytes()
}

fn sample(name: &str, raw: String) -> Sample {
    Sample { name: name.to_owned(), raw: raw.into_bytes() }
}

fn header(subject: &str, more: &str) -> String {
    format!("Subject: {subject}\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n{more}")
}

/// multipart/mixed with a base64 part of so many bytes.
fn attachment(bytes: usize) -> String {
    use base64::Engine;
    // Bytes that do not repeat within a line, without a random source: a test that fails must fail again.
    let content: Vec<u8> = (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let encoded = base64::engine::general_purpose::STANDARD.encode(content);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    header("an attachment", "Content-Type: multipart/mixed; boundary=\"=_b\"\r\n")
        + "\r\nThis is a multi-part message.\r\n--=_b\r\nContent-Type: text/plain\r\n\r\nSee the picture.\r\n\r\n--=_b\r\n"
        + "Content-Type: application/octet-stream; name=\"picture.bin\"\r\nContent-Transfer-Encoding: base64\r\n"
        + "Content-Disposition: attachment; filename=\"picture.bin\"\r\n\r\n"
        + &lines.join("\r\n")
        + "\r\n--=_b--\r\n"
}

/// UTF-8 text with characters that careless parsers take for a line end.
fn eight_bit() -> String {
    header("eight bits", "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n")
        + "\r\nBlåbærsyltetøy, ćevapi, 日本語, \u{85}next\u{2028}line\u{2029}paragraph\u{b}\u{c}.\r\n\ttab and blank \r\n"
}

/// Lines of exactly 998 bytes, the longest that RFC 5322 allows.
fn long_lines() -> String {
    header("long lines", "") + "\r\n" + &(0..20).map(|n| format!("{n:04}{}\r\n", "x".repeat(994))).collect::<String>()
}

/// An internationalized header in plain UTF-8 (RFC 6532): needs SMTPUTF8 on the whole way, in strictness.
fn utf8_header() -> String {
    header("Grüße aus Zürich — 你好", "Content-Type: text/plain; charset=utf-8\r\n") + "\r\nGrüße\r\n"
}

/// What transparency is for.
fn dots() -> String {
    header("dots", "") + "\r\n.\r\n..\r\n.hidden\r\n...\r\n \r\n.\r\n"
}

/// Bare LF and CRLF → CRLF, and an end to the last line.
fn wire(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + raw.len() / 40);
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Has a header, keeps to the line length, and has no bare CR or NUL, which no MTA need carry.
fn sendable(raw: &[u8]) -> bool {
    let lines = || raw.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines().next().unwrap_or_default();
    // A field name, and no blank before the colon: not mbox's `From `, not a body without a header.
    let named = first.split(|byte| *byte == b':').next().is_some_and(|name| {
        name.len() < first.len() && !name.is_empty() && name.iter().all(|byte| (33..127).contains(byte))
    });
    named && lines().all(|line| line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0))
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_samples_keep_to_the_rules() {
        for sample in made() {
            assert!(sendable(&sample.raw), "{}", sample.name);
            assert!(sample.raw.ends_with(b"\r\n"), "{}", sample.name);
            assert_eq!(wire(&sample.raw), sample.raw, "{}", sample.name);
        }
        let large = made().pop().unwrap().raw.len();
        assert!((5_000_000..5_200_000).contains(&large), "{large}");
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        assert_eq!(wire(b"A: b\n\nc"), b"A: b\r\n\r\nc\r\n");
        assert!(!sendable(b"From x@y Sat Nov\r\n\r\n"));
        assert!(!sendable(b"A: b\r\n\r\na\rb\r\n"));
        assert!(!sendable(&wire(&[b"A: b\n\n".as_slice(), &[b'x'; 999]].concat())));
    }
}
