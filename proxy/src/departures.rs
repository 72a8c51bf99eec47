//! The machine around the egress policy: looks at the clock, wakes who waits, says what changed.
//!
//! ```text
//!   session ── enter ──▶ Turn::Place ─────────── held while the session goes on; dropped, it is free again
//!                └─ waits ▲ ▲
//!   other session ── drop ┘ └── keep_time: a minute of the budget is over, a rest has ended
//! ```
//!
//! [`Policy`] decides and knows nothing of tasks; this asks it under one lock, which is held for microseconds and never over an `await`. A
//! waiting session that is given up (dropped) costs nothing and takes nobody's turn. Every change is one line in the log, which says what
//! may be done about it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use crate::egress::{
    Ask, AtMail, Change, Decision, EgressAddr, Entry, Lesson, Moment, NoEgress, Operator, Policy, Rules, State, Ticket,
    View,
};

mod place;
mod told;

pub use place::Place;
pub use told::{BY_HAND, tell};

/// The egress addresses as sessions meet them.
#[derive(Debug)]
pub struct Departures {
    inner: Mutex<Inner>,
    /// The policy wants to be asked earlier than it said before.
    earlier: Notify,
    /// Sessions under way.
    inside: watch::Sender<usize>,
    /// Something happened since somebody asked.
    happened: Notify,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    waiting: HashMap<Ticket, oneshot::Sender<Result<Decision, NoEgress>>>,
    /// When [`Departures::keep_time`] looks again.
    alarm: Option<Instant>,
}

/// How coming in ended.
#[derive(Debug)]
pub enum Turn {
    /// The session may go on.
    Place(Place),
    /// No address serves the destination now.
    Refused(NoEgress),
    /// Its turn did not come in time.
    Missed,
}

impl Departures {
    /// The machine around `policy`.
    pub fn new(policy: Policy) -> Arc<Self> {
        let inner = Inner { policy, waiting: HashMap::new(), alarm: None };
        Arc::new(Self {
            inner: Mutex::new(inner),
            earlier: Notify::new(),
            inside: watch::Sender::new(0),
            happened: Notify::new(),
        })
    }

    /// Waits for a place, at most for `patience`. Cancel safe: who is dropped gives up his turn.
    pub async fn enter(self: &Arc<Self>, ask: &Ask<'_>, patience: Duration) -> Turn {
        let mut wait = {
            let mut inner = self.lock();
            let now = Moment::current();
            let wait = match inner.policy.enter(ask, now) {
                Entry::Wait(ticket) => {
                    let (tell, turn) = oneshot::channel();
                    inner.waiting.insert(ticket, tell);
                    Wait { departures: Arc::clone(self), ticket, turn, over: false }
                }
                Entry::Granted(granted) => {
                    self.go_on(inner, now);
                    return self.turn(granted.ticket, Ok(granted.decision));
                }
                Entry::Refused(none) => return Turn::Refused(none),
            };
            self.go_on(inner, now);
            wait
        };
        match tokio::time::timeout(patience, &mut wait.turn).await {
            Ok(Ok(outcome)) => {
                wait.over = true;
                self.turn(wait.ticket, outcome)
            }
            // Late, or the machine is gone.
            _ => Turn::Missed,
        }
    }

    fn turn(self: &Arc<Self>, ticket: Ticket, outcome: Result<Decision, NoEgress>) -> Turn {
        match outcome {
            Ok(decision) => {
                self.inside.send_modify(|inside| *inside += 1);
                Turn::Place(Place::new(Arc::clone(self), ticket, decision))
            }
            Err(none) => Turn::Refused(none),
        }
    }

    /// Who runs an MX; see [`Policy::operator`].
    pub fn operator(&self, mx_name: Option<&str>, mx: IpAddr) -> Operator {
        self.lock().policy.operator(mx_name, mx)
    }

    /// Learns from what a session went through. What changed by it is logged here, and returned for its record.
    pub fn learn(&self, lesson: &Lesson<'_>) -> Vec<Change> {
        self.change(|policy, now| policy.learn(lesson, now))
    }

    /// What to do with a message at MAIL, in a session that has this place, or none any more. Who has to move enters again with the same `ask`, and says
    /// [`Place::moved`] then.
    pub fn mail(&self, place: Option<&Place>, ask: &Ask<'_>) -> AtMail {
        self.ask(|policy, now| policy.mail(place.map(Place::ticket), ask, now))
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Policy, Moment) -> T) -> T {
        let mut inner = self.lock();
        let now = Moment::current();
        let answer = ask(&mut inner.policy, now);
        self.go_on(inner, now);
        answer
    }

    /// Lets an address rest by hand, towards one operator or all.
    pub fn rest(&self, address: EgressAddr, operator: Option<&Operator>) -> Vec<Change> {
        self.change(|policy, now| policy.rest(address, operator, now))
    }

    /// Uses an address again, towards one operator or all.
    pub fn restore(&self, address: EgressAddr, operator: Option<&Operator>) -> Vec<Change> {
        self.change(|policy, now| policy.restore(address, operator, now))
    }

    fn change(&self, act: impl FnOnce(&mut Policy, Moment) -> Vec<Change>) -> Vec<Change> {
        let changes = self.ask(act);
        changes.iter().for_each(tell);
        changes
    }

    /// Takes over changed rules.
    pub fn reload(&self, rules: Rules) {
        let mut inner = self.lock();
        if *inner.policy.rules() != rules {
            let now = Moment::current();
            inner.policy.reload(rules, now);
            self.go_on(inner, now);
        }
    }

    /// What would be decided now.
    pub fn explain(&self, ask: &Ask<'_>) -> Result<Decision, NoEgress> {
        self.lock().policy.explain(ask, Moment::current())
    }

    /// What people are shown.
    pub fn view(&self) -> View {
        self.lock().policy.view(Moment::current())
    }

    /// Asks the policy itself, changing nothing.
    pub fn look<T>(&self, at: impl FnOnce(&Policy, Moment) -> T) -> T {
        at(&self.lock().policy, Moment::current())
    }

    /// What to store.
    pub fn state(&self) -> State {
        self.lock().policy.state(Moment::current())
    }

    /// Resolves once something happened that changes [`state`](Self::state), since it resolved last. For one to ask: every reply is something that happened,
    /// and telling one costs least.
    pub async fn happened(&self) {
        self.happened.notified().await;
    }

    /// Wakes sessions whose turn comes with time, for ever.
    pub async fn keep_time(&self) {
        loop {
            let earlier = self.earlier.notified();
            let due = {
                let mut inner = self.lock();
                inner.alarm = inner.policy.due();
                inner.alarm
            };
            let alarm = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => self.go_on(self.lock(), Moment::current()),
                () = earlier => {}
            }
        }
    }

    /// Waits until no session goes on.
    pub async fn all_gone(&self) {
        // An error would mean that the sender is gone, which is ours.
        let _ = self.inside.subscribe().wait_for(|inside| *inside == 0).await;
    }

    /// To be done behind whatever changes something: whoever's turn has come is told.
    fn go_on(&self, mut inner: MutexGuard<'_, Inner>, now: Moment) {
        let mut given_up = true;
        while given_up {
            given_up = false;
            for outcome in inner.policy.next(now) {
                let told = inner.waiting.remove(&outcome.ticket).map(|tell| tell.send(outcome.result));
                if matches!(told, None | Some(Err(Ok(_)))) {
                    // Gone at this moment: its place is the next one's.
                    inner.policy.leave(outcome.ticket, now);
                    given_up = true;
                }
            }
        }
        let due = inner.policy.due();
        if due.is_some_and(|due| inner.alarm.is_none_or(|alarm| due < alarm)) {
            self.earlier.notify_one();
        }
        drop(inner);
        self.happened.notify_one();
    }

    fn leave(&self, ticket: Ticket) {
        self.ask(|policy, now| policy.leave(ticket, now));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that waits.
struct Wait {
    departures: Arc<Departures>,
    ticket: Ticket,
    turn: oneshot::Receiver<Result<Decision, NoEgress>>,
    /// It was told, and has taken note of it.
    over: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut inner = self.departures.lock();
        let waits = inner.waiting.remove(&self.ticket).is_some();
        // Told a place at the last moment, and not there any more to take it.
        if waits || matches!(self.turn.try_recv(), Ok(Ok(_))) {
            let now = Moment::current();
            inner.policy.leave(self.ticket, now);
            self.departures.go_on(inner, now);
        }
    }
}

#[cfg(test)]
mod tests;
