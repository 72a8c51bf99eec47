//! Replies that the client waits for, in the order of its commands.
//!
//! A reply that is made here takes its place in the queue behind the replies that the server still owes, so that a
//! pipelining client can match them by counting. Commands keep their lines as long as they may have to be played again on another leg.

use std::collections::VecDeque;
use std::time::Instant;

use super::event::Topic;
use super::settings::MAX_REPLAY;
use crate::Reply;

/// A command of which the client, or we, await the reply.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) topic: Topic,
    pub(super) since: Instant,
    pub(super) by: By,
    /// What was asked; `None`: it cannot be asked again.
    pub(super) line: Option<Line>,
}

/// A command, without its CRLF.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) bytes: Box<[u8]>,
    pub(super) turn: Turn,
}

/// Whether a command went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Sent,
    /// Not yet, and never before.
    First,
    /// Not yet on this leg.
    Again,
}

/// Who answers, and who hears it.
#[derive(Debug)]
pub(super) enum By {
    /// The server; the reply goes to the client.
    Server,
    /// The server; the command was ours, or the client has its answer already: the reply ends here.
    ServerForUs,
    /// We; the reply waits for its place.
    Us(Reply),
}

impl Awaited {
    pub(super) fn is_unsent(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.turn != Turn::Sent)
    }
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Awaited>,
    /// Bytes of lines kept.
    kept: usize,
}

impl Waiting {
    pub(super) fn push(&mut self, awaited: Awaited) {
        self.kept += length(&awaited);
        self.queue.push_back(awaited);
    }

    /// What was not answered after all, or comes before everything else.
    pub(super) fn push_front(&mut self, awaited: Awaited) {
        self.kept += length(&awaited);
        self.queue.push_front(awaited);
    }

    /// Whether so many more bytes may be kept.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.kept + bytes <= MAX_REPLAY
    }

    /// Our own reply at the head, whose time has come.
    pub(super) fn next_of_ours(&mut self) -> Option<(Topic, Reply)> {
        let head = self.queue.pop_front_if(|awaited| matches!(awaited.by, By::Us(_)))?;
        self.kept -= length(&head);
        self.give_back();
        match head.by {
            By::Us(reply) => Some((head.topic, reply)),
            By::Server | By::ServerForUs => None,
        }
    }

    /// What the server answers next.
    pub(super) fn answered(&mut self) -> Option<Awaited> {
        let head = self.queue.pop_front()?;
        self.kept -= length(&head);
        self.give_back();
        Some(head)
    }

    /// Idle, it owns no memory.
    fn give_back(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    pub(super) fn head(&self) -> Option<&Awaited> {
        self.queue.front()
    }

    /// Whether something was not sent yet: what the client says next has to wait behind it.
    pub(super) fn holds_back(&self) -> bool {
        // Answers of ours may follow it already.
        let asked = self.queue.iter().rev().find(|awaited| !matches!(awaited.by, By::Us(_)));
        asked.is_some_and(Awaited::is_unsent)
    }

    /// Whether all that the server owes an answer could be asked again.
    pub(super) fn can_be_played_again(&self) -> bool {
        self.queue.iter().all(|awaited| awaited.line.is_some() || matches!(awaited.by, By::Us(_)))
    }

    /// What was asked has to be asked again.
    pub(super) fn unsend(&mut self) {
        for line in self.queue.iter_mut().filter_map(|awaited| awaited.line.as_mut()) {
            line.turn = if line.turn == Turn::First { Turn::First } else { Turn::Again };
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Awaited> {
        self.queue.iter()
    }

    /// Empties the queue.
    pub(super) fn take(&mut self) -> VecDeque<Awaited> {
        self.kept = 0;
        std::mem::take(&mut self.queue)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nobody will answer any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn length(awaited: &Awaited) -> usize {
    awaited.line.as_ref().map_or(0, |line| line.bytes.len())
}
