//! Finds the Message-ID in content that streams by.

use memchr::memchr;

/// Most header bytes looked at: fields of a sane message come sooner.
const MAX_HEADER: usize = 64 * 1024;
/// Longest line kept; RFC 5322 allows 998.
const MAX_LINE: usize = 1000;

/// Looks at the header of one message, keeps at most one line of it, and nothing once it knows.
#[derive(Debug, Default)]
pub struct MessageId {
    line: Vec<u8>,
    /// The field's name was seen, its value is folded into the next line.
    folded: bool,
    seen: usize,
    done: bool,
    found: Option<String>,
}

impl MessageId {
    /// Looks at the next content.
    pub fn look_at(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            let end = memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            self.seen += part.len() + 1;
            if let (Some(end), true) = (end, self.line.is_empty()) {
                // A whole line needs no room.
                bytes = &bytes[end + 1..];
                self.line_done(&part[..part.len().min(MAX_LINE)]);
                continue;
            }
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let Some(end) = end else { break };
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.line_done(&line);
        }
        if self.seen > MAX_HEADER {
            self.stop();
        }
    }

    /// The Message-ID with its angle brackets, if it was seen.
    pub fn take(&mut self) -> Option<String> {
        self.found.take()
    }

    fn line_done(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let value = match line {
            // The header ends.
            [] => return self.stop(),
            [b' ' | b'\t', rest @ ..] if self.folded => rest,
            _ => match line.split_at_checked(11) {
                Some((name, value)) if name.eq_ignore_ascii_case(b"message-id:") => value,
                _ => {
                    self.folded = false;
                    return;
                }
            },
        };
        let value = String::from_utf8_lossy(value).trim().to_owned();
        self.folded = value.is_empty();
        if !self.folded {
            self.found = Some(value);
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.done = true;
        self.line = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str, chunk: usize) -> Option<String> {
        let mut id = MessageId::default();
        for part in content.as_bytes().chunks(chunk) {
            id.look_at(part);
        }
        id.take()
    }

    #[test]
    fn is_found_in_the_header_split_anywhere() {
        for chunk in 1..40 {
            assert_eq!(found("A: b\r\nMessage-ID: <x@y.example>\r\n\r\nbody\r\n", chunk), Some("<x@y.example>".into()));
            assert_eq!(found("message-id:\r\n <x@y.example>\r\n\r\n", chunk), Some("<x@y.example>".into()));
            assert_eq!(found("A: b\r\n\r\nMessage-ID: <x@y.example>\r\n", chunk), None);
            assert_eq!(found("X-Message-ID: <x@y.example>\r\n\r\n", chunk), None);
        }
    }

    #[test]
    fn gives_up_within_bounds() {
        let mut id = MessageId::default();
        for _ in 0..200 {
            id.look_at(&[b'x'; 1000]);
            assert!(id.line.len() <= MAX_LINE);
        }
        id.look_at(b"\r\nMessage-ID: <x@y.example>\r\n");
        assert_eq!(id.take(), None);
    }
}
