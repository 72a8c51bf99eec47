//! A place that a session has: the address that it goes out from, and another one when that was turned away.

use std::sync::Arc;

use super::Departures;
use crate::egress::{Ask, Decision, Ticket};

/// A session may go on, from this address, while this is held.
#[derive(Debug)]
pub struct Place {
    departures: Arc<Departures>,
    ticket: Ticket,
    decision: Decision,
    /// That of the place before, while it is not certain that the session goes on from this one.
    before: Option<Box<Decision>>,
}

impl Place {
    pub(super) fn new(departures: Arc<Departures>, ticket: Ticket, decision: Decision) -> Self {
        Self { departures, ticket, decision, before: None }
    }

    /// The address to dial from, and why.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The session, for [`Lesson::ticket`](crate::egress::Lesson::ticket).
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Takes a place at another address of the pool, because the present one was turned away; [`decision`](Self::decision) has it then. The present place
    /// is kept until the session has [`moved`](Self::moved) or [`stayed`](Self::stayed). `false`: there is none, or not for this sender.
    pub fn fail_over(&mut self, ask: &Ask<'_>) -> bool {
        let granted = self.departures.ask(|policy, now| policy.failover(self.ticket, ask, now));
        let Some(granted) = granted else { return false };
        self.ticket = granted.ticket;
        self.before = Some(Box::new(std::mem::replace(&mut self.decision, granted.decision)));
        true
    }

    /// The session goes on from here, and with it the message of `ask`, if there is one: it is counted.
    pub fn moved(&mut self, ask: &Ask<'_>) {
        self.before = None;
        self.departures.ask(|policy, now| policy.moved(self.ticket, ask, now));
    }

    /// The session goes on from the place that it had before it failed over.
    pub fn stayed(&mut self) {
        if let Some(before) = self.before.take() {
            self.decision = *before;
            self.departures.ask(|policy, now| policy.stayed(self.ticket, now));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.departures.leave(self.ticket);
        self.departures.inside.send_modify(|inside| *inside -= 1);
    }
}
