//! Bytes on their way out.

use crate::Reply;

/// Room for what is mostly said at once, which is the envelope of a mail, or the replies to it.
const ROOM: usize = 160;

/// Bytes on their way out. Empty, it owns no memory.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    /// What is to be written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The first `count` bytes were written.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count).min(self.bytes.len());
        if self.written == self.bytes.len() {
            self.clear();
        }
    }

    /// Takes all that is to be written.
    pub fn take(&mut self) -> Vec<u8> {
        let Self { mut bytes, written } = std::mem::take(self);
        bytes.drain(..written);
        bytes
    }

    /// How much is to be written.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These are to be written, too.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.make_room(bytes.len());
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// This reply is to be written, too.
    pub(super) fn push_reply(&mut self, reply: &Reply) {
        self.make_room(ROOM);
        reply.write_to(&mut self.bytes);
    }

    /// At once, where there is none.
    fn make_room(&mut self, length: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(length.max(ROOM));
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
