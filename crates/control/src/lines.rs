//! Bounded JSON lines: one message, one line, one `\n`.
//!
//! [`Lines`] is sans-io: bytes go in by [`Lines::push`], messages come out by [`Lines::pop`]. [`LineReader`] and
//! [`send`] put it on a tokio stream. A line longer than [`MAX_LINE`] is an error as soon as the limit is passed, so a
//! peer never makes us hold more than that.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest line, terminator included: 1 MiB holds the settings of a tenant with some ten thousand accounts.
pub const MAX_LINE: usize = 1 << 20;

/// A line that could not be read or written. The channel is of no more use after it.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The peer's line, or ours, exceeds [`MAX_LINE`].
    #[error("a control line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not a message that we know.
    #[error("a control line is not understood")]
    Malformed(#[from] serde_json::Error),
    /// The peer went in the middle of a line.
    #[error("the control channel ended in the middle of a line")]
    Truncated,
    /// The socket.
    #[error("the control channel failed")]
    Io(#[from] std::io::Error),
}

/// The line of a message, terminator included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(LineError::TooLong) } else { Ok(line) }
}

/// Splits what arrives into messages.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    /// Bytes at the front of `held` that were given out already.
    taken: usize,
    /// Bytes after `taken` that are known to hold no line end, so that no byte is looked at twice.
    seen: usize,
}

impl Lines {
    /// Takes in bytes from the peer. Call [`Lines::pop`] until it gives `None` before pushing more: that is what bounds
    /// the memory.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub fn pop<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        let rest = &self.held[self.taken..];
        match rest[self.seen..].iter().position(|b| *b == b'\n') {
            Some(at) => {
                let end = self.seen + at;
                if end >= MAX_LINE {
                    return Err(LineError::TooLong);
                }
                self.seen = 0;
                let line = self.taken..self.taken + end;
                self.taken = line.end + 1;
                Ok(Some(serde_json::from_slice(&self.held[line])?))
            }
            None if rest.len() >= MAX_LINE => Err(LineError::TooLong),
            None => {
                self.seen = rest.len();
                Ok(None)
            }
        }
    }

    /// Whether a line has begun and not ended.
    pub fn is_partial(&self) -> bool {
        self.held.len() > self.taken
    }
}

/// Messages from a tokio stream.
#[derive(Debug)]
pub struct LineReader<R> {
    stream: R,
    lines: Lines,
    chunk: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        LineReader { stream, lines: Lines::default(), chunk: vec![0; 4096].into_boxed_slice() }
    }

    /// The stream; what was read and not yet handed out is dropped.
    pub fn into_inner(self) -> R {
        self.stream
    }

    /// The next message; `None` when the peer closed between two lines. Cancel-safe.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        loop {
            if let Some(message) = self.lines.pop()? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut self.chunk).await? {
                0 if self.lines.is_partial() => return Err(LineError::Truncated),
                0 => return Ok(None),
                n => self.lines.push(&self.chunk[..n]),
            }
        }
    }
}

/// Writes one message. Not cancel-safe: a write that is given up leaves half a line, so give up the channel with it.
pub async fn send<W: AsyncWrite + Unpin, T: Serialize>(stream: &mut W, message: &T) -> Result<(), LineError> {
    stream.write_all(&encode(message)?).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn over_long_lines_end_the_channel() {
        let mut lines = Lines::default();
        lines.push(&vec![b' '; MAX_LINE - 1]);
        assert!(matches!(lines.pop::<u8>(), Ok(None)));
        lines.push(b" ");
        assert!(matches!(lines.pop::<u8>(), Err(LineError::TooLong)));
        assert!(matches!(encode(&"x".repeat(MAX_LINE)), Err(LineError::TooLong)));
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut lines = Lines::default();
        lines.push(b"{]\n");
        assert!(matches!(lines.pop::<u8>(), Err(LineError::Malformed(_))));
    }

    #[tokio::test]
    async fn half_a_line_is_not_a_message() {
        let mut reader = LineReader::new(&b"1\n2"[..]);
        assert_eq!(reader.recv::<u8>().await.unwrap(), Some(1));
        assert!(matches!(reader.recv::<u8>().await, Err(LineError::Truncated)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            messages in prop::collection::vec(".{0,40}", 0..20),
            cuts in prop::collection::vec(1usize..30, 1..10),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
            let mut lines = Lines::default();
            let (mut got, mut at, mut cut) = (Vec::new(), 0, cuts.iter().cycle());
            while at < bytes.len() {
                let end = (at + cut.next().unwrap()).min(bytes.len());
                lines.push(&bytes[at..end]);
                at = end;
                while let Some(message) = lines.pop::<String>().unwrap() {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(!lines.is_partial());
        }
    }
}
