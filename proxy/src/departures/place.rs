//! A place that a session has: the address that it goes out from, and another one when that was turned away.

use std::sync::Arc;

use super::Departures;
use crate::egress::{Ask, Decision, EgressAddr, Ticket};

/// A session may go on, from this address, while this is held.
#[derive(Debug)]
pub struct Place {
    departures: Arc<Departures>,
    ticket: Ticket,
    egress: EgressAddr,
    /// Why from there, until somebody asks.
    decision: Option<Box<Decision>>,
    /// The address of the place before, while it is not certain that the session goes on from this one.
    before: Option<EgressAddr>,
}

impl Place {
    pub(super) fn new(departures: Arc<Departures>, ticket: Ticket, decision: Decision) -> Self {
        Self { departures, ticket, egress: decision.egress, decision: Some(Box::new(decision)), before: None }
    }

    /// The address to dial from.
    pub fn egress(&self) -> EgressAddr {
        self.egress
    }

    /// Why from there. It is told once as it was decided, and not kept: who asks again, to dial again, is told what it looks like by then.
    pub fn decision(&mut self, ask: &Ask<'_>) -> Decision {
        match self.decision.take() {
            Some(decision) => *decision,
            None => self.departures.look(|policy, now| policy.decided(self.ticket, ask, self.egress, now)),
        }
    }

    /// The session, for [`Lesson::ticket`](crate::egress::Lesson::ticket).
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Takes a place at another address of the pool, because the present one was turned away; [`egress`](Self::egress) has it then. The present place
    /// is kept until the session has [`moved`](Self::moved) or [`stayed`](Self::stayed). `false`: there is none, or not for these messages.
    pub fn fail_over(&mut self, asks: &[Ask<'_>]) -> bool {
        let granted = self.departures.ask(|policy, now| policy.failover(self.ticket, asks, now));
        let Some(granted) = granted else { return false };
        self.ticket = granted.ticket;
        self.before = Some(std::mem::replace(&mut self.egress, granted.decision.egress));
        self.decision = Some(Box::new(granted.decision));
        true
    }

    /// The session goes on from here, and with it the messages of `asks`: each is counted.
    pub fn moved(&mut self, asks: &[Ask<'_>]) {
        self.before = None;
        self.departures.ask(|policy, now| policy.moved(self.ticket, asks, now));
    }

    /// The session goes on from the place that it had before it failed over.
    pub fn stayed(&mut self) {
        if let Some(before) = self.before.take() {
            self.egress = before;
            self.decision = None;
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
