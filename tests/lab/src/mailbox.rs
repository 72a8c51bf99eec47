//! What arrived: Maildirs of the lab's hosts, read from outside through the lab's root.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a waiting reader looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One user's mailbox at one of the lab's hosts.
#[derive(Clone, Debug)]
pub struct Mailbox {
    new: PathBuf,
    label: String,
}

/// A delivered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The file it was read from.
    pub path: PathBuf,
    /// As the host stored it. Real MTAs store lines ending in LF, personas the bytes of the wire.
    pub raw: Vec<u8>,
}

/// Nothing fitting arrived in time.
#[derive(Debug, thiserror::Error)]
#[error("{mailbox}: no such message within {waited:?}; it holds {held}: {subjects:?}")]
pub struct NotArrived {
    mailbox: String,
    waited: Duration,
    held: usize,
    subjects: Vec<String>,
}

impl Mailbox {
    pub(crate) fn new(mail: &Path, domain: &str, user: &str) -> Self {
        Mailbox { new: mail.join(domain).join(user).join("new"), label: format!("{user}@{domain}") }
    }

    /// All messages, in order of arrival.
    pub fn messages(&self) -> io::Result<Vec<Message>> {
        let entries = match std::fs::read_dir(&self.new) {
            Ok(entries) => entries,
            // The host makes it at the first delivery.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            found.push((entry.metadata()?.modified()?, entry.file_name(), entry.path()));
        }
        found.sort();
        found.into_iter().map(|(_, _, path)| Ok(Message { raw: std::fs::read(&path)?, path })).collect()
    }

    /// The first message that fits, waiting for it no longer than `timeout`.
    pub fn wait_for(&self, fits: impl Fn(&Message) -> bool, timeout: Duration) -> Result<Message, NotArrived> {
        self.wait_for_count(1, fits, timeout).map(|mut found| found.swap_remove(0))
    }

    /// At least `count` messages that fit, waiting no longer than `timeout`.
    pub fn wait_for_count(
        &self,
        count: usize,
        fits: impl Fn(&Message) -> bool,
        timeout: Duration,
    ) -> Result<Vec<Message>, NotArrived> {
        let end = Instant::now() + timeout;
        // Files of a Maildir never change, so each is read and judged once.
        let mut judged: BTreeMap<PathBuf, Option<Message>> = BTreeMap::new();
        loop {
            if let Ok(entries) = std::fs::read_dir(&self.new) {
                for path in entries.flatten().map(|e| e.path()) {
                    if !judged.contains_key(&path)
                        && let Ok(raw) = std::fs::read(&path)
                    {
                        let message = Message { path: path.clone(), raw };
                        judged.insert(path, fits(&message).then_some(message));
                    }
                }
            }
            if judged.values().flatten().count() >= count {
                return Ok(judged.into_values().flatten().collect());
            }
            if Instant::now() >= end {
                let all = self.messages().unwrap_or_default();
                let subjects = all.iter().take(20).map(|m| m.header("Subject").unwrap_or_default()).collect();
                let mailbox = self.label.clone();
                return Err(NotArrived { mailbox, waited: timeout, held: all.len(), subjects });
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }
}

impl Message {
    /// The first header field of this name: unfolded, trimmed, undecoded.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    /// All header fields of this name, from the top.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let (head, _) = split(&self.raw);
        let text = String::from_utf8_lossy(head).replace("\r\n", "\n");
        let mut found: Vec<String> = Vec::new();
        let mut inside = false;
        for line in text.split('\n') {
            if line.starts_with([' ', '\t']) {
                if let (true, Some(last)) = (inside, found.last_mut()) {
                    last.push_str(line);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or_default();
            inside = field.trim_end().eq_ignore_ascii_case(name);
            if inside {
                found.push(value.trim().to_owned());
            }
        }
        found
    }

    /// The bytes after the empty line.
    pub fn body(&self) -> &[u8] {
        split(&self.raw).1
    }

    /// Whether the body is that of `sent`, byte for byte, save that the host may store LF for CRLF.
    pub fn has_body_of(&self, sent: &[u8]) -> bool {
        with_lf(self.body()) == with_lf(split(sent).1)
    }

    /// Whether the whole of `sent`, header included, stands at the end of this message: then only fields at the top were
    /// added on the way.
    pub fn ends_with(&self, sent: &[u8]) -> bool {
        with_lf(&self.raw).ends_with(&with_lf(sent))
    }
}

/// Header (with its last line end) and body.
fn split(raw: &[u8]) -> (&[u8], &[u8]) {
    let crlf = memchr::memmem::find(raw, b"\r\n\r\n").map(|at| (at + 2, at + 4));
    let lf = memchr::memmem::find(raw, b"\n\n").map(|at| (at + 1, at + 2));
    match crlf.into_iter().chain(lf).min() {
        Some((head, body)) => (&raw[..head], &raw[body..]),
        None => (raw, &[]),
    }
}

/// CRLF → LF, nothing else.
fn with_lf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\n');
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(raw: &[u8]) -> Message {
        Message { path: PathBuf::new(), raw: raw.to_vec() }
    }

    #[test]
    fn reads_folded_and_repeated_fields() {
        let m = message(b"Received: a\n\tb\nSubject: one\n two\nreceived : c\n\nReceived: body\n");
        assert_eq!(m.headers("Received"), ["a\tb", "c"]);
        assert_eq!(m.header("subject").as_deref(), Some("one two"));
        assert_eq!(m.body(), b"Received: body\n");
    }

    #[test]
    fn compares_bodies_across_line_ends_only() {
        let m = message(b"Received: x\nA: b\n\n\xff\n\nend\n");
        assert!(m.has_body_of(b"A: b\r\n\r\n\xff\r\n\r\nend\r\n"));
        assert!(m.ends_with(b"A: b\r\n\r\n\xff\r\n\r\nend\r\n"));
        assert!(!m.has_body_of(b"A: b\r\n\r\n\xff\r\nend\r\n"));
        assert!(!m.has_body_of(b"A: b\r\n\r\n\xff\r\n\r\nend \r\n"));
    }
}
