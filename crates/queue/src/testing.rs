//! What several tests do with a queue.

use crate::{Envelope, MessageId, Queue, envelope};
use std::io::Read;

/// Accepts a message with this content.
pub(crate) fn put(queue: &Queue, now_ms: u64, text: &[u8]) -> Envelope {
    let mut incoming = queue.begin(now_ms).unwrap();
    incoming.write(text).unwrap();
    incoming.commit(envelope::sample(now_ms)).unwrap()
}

/// A message's content.
pub(crate) fn read(queue: &Queue, id: &MessageId) -> Vec<u8> {
    let mut bytes = Vec::new();
    queue.content(id).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}
