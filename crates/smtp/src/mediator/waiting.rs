//! Replies that the client waits for, in the order of its commands.
//!
//! A reply that is made here takes its place in the queue behind the replies that the server still owes, so that a
//! pipelining client can match them by counting.

use std::collections::VecDeque;
use std::time::Instant;

use super::event::Topic;
use crate::Reply;

/// A command of which the client, or we, await the reply.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) topic: Topic,
    pub(super) since: Instant,
    pub(super) by: By,
}

/// Who answers, and who hears it.
#[derive(Debug)]
pub(super) enum By {
    /// The server; the reply goes to the client.
    Server,
    /// The server; the command was ours, the reply ends here.
    ServerForUs,
    /// We; the reply waits for its place.
    Us(Reply),
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Awaited>,
}

impl Waiting {
    pub(super) fn push(&mut self, awaited: Awaited) {
        self.queue.push_back(awaited);
    }

    /// Our own reply at the head, whose time has come.
    pub(super) fn next_of_ours(&mut self) -> Option<(Topic, Reply)> {
        let head = self.queue.pop_front_if(|awaited| matches!(awaited.by, By::Us(_)))?;
        match head.by {
            By::Us(reply) => Some((head.topic, reply)),
            By::Server | By::ServerForUs => None,
        }
    }

    /// What the server answers next.
    pub(super) fn answered(&mut self) -> Option<Awaited> {
        self.queue.pop_front()
    }

    pub(super) fn head(&self) -> Option<&Awaited> {
        self.queue.front()
    }

    /// Puts back what was not answered after all.
    pub(super) fn push_front(&mut self, awaited: Awaited) {
        self.queue.push_front(awaited);
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nobody will answer any more.
    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
    }
}
