//! The policy.

#![allow(clippy::unimplemented, unused_variables)]

use std::time::Instant;

use super::{
    Ask, AtMail, Change, Decision, EgressAddr, Entry, Granted, Lesson, Moment, NoEgress, Operator, Outcome, Rules,
    State, Suspicion, Ticket, View,
};

/// All egress addresses, what is known about them, and everybody who leaves or waits.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
}

impl Policy {
    /// A policy of these rules that remembers what another one knew.
    pub fn new(rules: Rules, state: Option<State>, now: Moment) -> Self {
        Self { rules }
    }

    /// Takes over changed rules. Sessions under way keep their places; sessions that wait, wait by the new rules.
    pub fn reload(&mut self, rules: Rules, now: Moment) {
        unimplemented!()
    }

    /// A session wants to leave. It gets a place, or waits its fair turn, or no address serves it.
    pub fn enter(&mut self, ask: &Ask<'_>, now: Moment) -> Entry {
        unimplemented!()
    }

    /// What became of waiting sessions since the last call. To be called after every other call that changes anything, and at [`due`](Self::due).
    pub fn next(&mut self, now: Moment) -> Vec<Outcome> {
        unimplemented!()
    }

    /// When [`next`](Self::next) may have something to tell though nothing happened. None while nobody waits for time to pass.
    pub fn due(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// A message at MAIL in the session of `ticket`; `ask` has its account and class. Counts it where it stays.
    pub fn mail(&mut self, ticket: Ticket, ask: &Ask<'_>, now: Moment) -> AtMail {
        unimplemented!()
    }

    /// Another address for a session whose own was turned away: at most one for each session, in the same pool, healthy, with a place that is free
    /// now, and only while the sender is not suspect. The ticket moves there; the place at the old address is given up, so the old connection is
    /// to be closed first.
    pub fn failover(&mut self, ticket: Ticket, ask: &Ask<'_>, now: Moment) -> Option<Granted> {
        unimplemented!()
    }

    /// A session is over, or nobody waits for it any more.
    pub fn leave(&mut self, ticket: Ticket, now: Moment) {
        unimplemented!()
    }

    /// Learns from what a session went through.
    pub fn learn(&mut self, lesson: &Lesson<'_>, now: Moment) -> Vec<Change> {
        unimplemented!()
    }

    /// Lets an address rest by hand, towards one operator or all, until [`restore`](Self::restore).
    pub fn rest(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        unimplemented!()
    }

    /// Uses an address again, whoever had it rest: towards one operator, or all.
    pub fn restore(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        unimplemented!()
    }

    /// What [`enter`](Self::enter) would decide if there were places enough. Nothing is changed by asking.
    pub fn explain(&self, ask: &Ask<'_>, now: Moment) -> Result<Decision, NoEgress> {
        unimplemented!()
    }

    /// How suspect a sender is.
    pub fn suspicion(&self, ask: &Ask<'_>, now: Moment) -> Suspicion {
        unimplemented!()
    }

    /// What people are shown.
    pub fn view(&self, now: Moment) -> View {
        unimplemented!()
    }

    /// What to store.
    pub fn state(&self, now: Moment) -> State {
        unimplemented!()
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}
