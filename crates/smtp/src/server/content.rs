//! Content: DATA up to its dot, BDAT up to its last chunk.

use super::{Abort, Event, Pending, Phase, Server};
use crate::body::{BareLineEnd, BdatCounter, DataDecoder, LineEndCheck};
use crate::reply::Reply;

/// A message that is being transferred.
#[derive(Debug, Clone)]
pub(super) struct Content {
    transfer: Framing,
    /// Bytes of content: what SIZE is about, which does not count stuffed dots and the end (RFC 1870 §6.4).
    size: u64,
    /// Bytes that came for it.
    wire: u64,
    /// Why the rest is only swallowed.
    abort: Option<Abort>,
}

#[derive(Debug, Clone)]
enum Framing {
    Data(DataDecoder),
    Bdat { chunk: Option<(BdatCounter, u64, bool)>, check: LineEndCheck },
}

// Phases are compared by kind only.
impl PartialEq for Content {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Content {}

impl Content {
    pub(super) fn new(chunk: Option<(u64, bool)>) -> Self {
        let transfer = match chunk {
            None => Framing::Data(DataDecoder::new()),
            Some((size, last)) => {
                Framing::Bdat { chunk: Some((BdatCounter::new(size), size, last)), check: LineEndCheck::new() }
            }
        };
        Self { transfer, size: 0, wire: 0, abort: None }
    }

    pub(super) fn start_chunk(&mut self, size: u64, last: bool) {
        if let Framing::Bdat { chunk, .. } = &mut self.transfer {
            *chunk = Some((BdatCounter::new(size), size, last));
        }
    }

    /// Whether the next bytes are content and not a command.
    pub(super) fn wants_bytes(&self) -> bool {
        matches!(self.transfer, Framing::Data(_) | Framing::Bdat { chunk: Some(_), .. })
    }

    /// Takes what belongs to the content.
    fn take(&mut self, input: &[u8]) -> Taken {
        match &mut self.transfer {
            Framing::Data(decoder) => {
                let mut content = Vec::new();
                let (bytes, end) = decoder.decode(input, &mut content);
                Taken { bytes, content, done: end.then_some((0, true)), fault: decoder.fault() }
            }
            Framing::Bdat { chunk, check } => {
                let Some((counter, size, last)) = chunk else { return Taken::default() };
                let bytes = counter.take(input.len());
                let done = counter.is_done().then_some((*size, *last));
                let mut fault = check.check(&input[..bytes]).err();
                if done.is_some() {
                    *chunk = None;
                }
                if matches!(done, Some((_, true))) {
                    fault = fault.or(check.finish().err());
                }
                Taken { bytes, content: input[..bytes].to_vec(), done, fault }
            }
        }
    }
}

/// What was taken of the input.
#[derive(Default)]
struct Taken {
    /// How much of the input it is.
    bytes: usize,
    content: Vec<u8>,
    /// The message or chunk ended here: its size as announced, and whether it is the last.
    done: Option<(u64, bool)>,
    fault: Option<BareLineEnd>,
}

impl Server {
    /// Moves content from the input to the program; false: more bytes are needed.
    pub(super) fn content(&mut self) -> bool {
        let Phase::Content(content) = &mut self.phase else { return false };
        let Taken { bytes: taken, content: out, done, fault } = content.take(self.input.rest());
        self.input.consume(taken);
        content.wire += taken as u64;
        content.size += out.len() as u64;
        let (size, wire) = (content.size, content.wire);
        let binary_ok = self.config.extensions.binarymime && matches!(content.transfer, Framing::Bdat { .. });
        let fault = fault.filter(|_| !binary_ok).map(Abort::LineEnd);
        let too_large = self.config.extensions.size.is_some_and(|max| max > 0 && size > max).then_some(Abort::TooLarge);
        let before = content.abort;
        content.abort = before.or(fault).or(too_large);
        let abort = content.abort;
        match (before, abort) {
            (None, Some(why)) => self.events.push_back(Event::ContentAborted(why)),
            (None, None) if !out.is_empty() => self.events.push_back(Event::Content(out)),
            _ => {}
        }
        if abort.is_some() && self.is_flood(wire) {
            self.write(&Reply::new(552, (5, 3, 4), "message too large"));
            self.end(super::Close::Flood);
            return true;
        }
        match (done, abort) {
            (None, _) => return taken > 0,
            (Some((_, _)), Some(why)) => self.finish_aborted(why),
            (Some((_, true)), None) => self.ask(Event::ContentEnd, Pending::ContentEnd),
            (Some((size, false)), None) => {
                // A chunk that brings something is no idle command; SIZE bounds how many there can be.
                self.idle_commands = self.idle_commands.saturating_sub(u32::from(size > 0));
                self.write(&Reply::new(250, (2, 0, 0), format!("{size} octets taken")));
            }
        }
        true
    }

    /// The swallowed message, or its first bad chunk, is through: say why it was refused. Chunks that
    /// follow find no transaction and are swallowed as well.
    fn finish_aborted(&mut self, why: Abort) {
        self.phase = Phase::Ready;
        self.refuse(match why {
            Abort::LineEnd(fault) => Reply::new(550, (5, 6, 11), fault.to_string()),
            Abort::TooLarge => Reply::new(552, (5, 3, 4), "message too large"),
            Abort::Reset => Reply::new(451, (4, 3, 0), "aborted"),
        });
    }
}
