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

mod told;

pub use told::{BY_HAND, tell};

/// The egress addresses as sessions meet them.
#[derive(Debug)]
pub struct Departures {
    inner: Mutex<Inner>,
    /// The policy wants to be asked earlier than it said before.
    earlier: Notify,
    /// Sessions under way.
    inside: watch::Sender<usize>,
    /// Counts what happened, so that nothing is saved twice.
    happened: watch::Sender<u64>,
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

impl Departures {
    /// The machine around `policy`.
    pub fn new(policy: Policy) -> Arc<Self> {
        let inner = Inner { policy, waiting: HashMap::new(), alarm: None };
        Arc::new(Self {
            inner: Mutex::new(inner),
            earlier: Notify::new(),
            inside: watch::Sender::new(0),
            happened: watch::Sender::new(0),
        })
    }

    /// Waits for a place, at most for `patience`. Cancel safe: who is dropped gives up his turn.
    pub async fn enter(self: &Arc<Self>, ask: &Ask<'_>, patience: Duration) -> Turn {
        let mut wait = {
            let mut inner = self.lock();
            let wait = match inner.policy.enter(ask, Moment::current()) {
                Entry::Wait(ticket) => {
                    let (tell, turn) = oneshot::channel();
                    inner.waiting.insert(ticket, tell);
                    Wait { departures: Arc::clone(self), ticket, turn, over: false }
                }
                Entry::Granted(granted) => {
                    self.go_on(inner);
                    return self.turn(granted.ticket, Ok(granted.decision));
                }
                Entry::Refused(none) => return Turn::Refused(none),
            };
            self.go_on(inner);
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
                let (egress, decision) = (decision.egress, Some(Box::new(decision)));
                Turn::Place(Place { departures: Arc::clone(self), ticket, egress, decision, before: None })
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
        let answer = ask(&mut inner.policy, Moment::current());
        self.go_on(inner);
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
            inner.policy.reload(rules, Moment::current());
            self.go_on(inner);
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

    /// Grows whenever something happened that changes [`state`](Self::state).
    pub fn happened(&self) -> watch::Receiver<u64> {
        self.happened.subscribe()
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
                () = alarm => self.go_on(self.lock()),
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
    fn go_on(&self, mut inner: MutexGuard<'_, Inner>) {
        let now = Moment::current();
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
        self.happened.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn leave(&self, ticket: Ticket) {
        self.ask(|policy, now| policy.leave(ticket, now));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The address to dial from.
    pub fn egress(&self) -> EgressAddr {
        self.egress
    }

    /// Why from there. It is told once as it was decided, and not kept: who asks again, to dial again, is told what it looks like by then.
    pub fn decision(&mut self) -> Option<Decision> {
        match self.decision.take() {
            Some(decision) => Some(*decision),
            None => self.departures.look(|policy, now| policy.decided(self.ticket, now)),
        }
    }

    /// The session, for [`Lesson::ticket`].
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Takes a place at another address of the pool, because the present one was turned away; [`egress`](Self::egress) has it then. The present place
    /// is kept until the session has [`moved`](Self::moved) or [`stayed`](Self::stayed). `false`: there is none, or not for this sender.
    pub fn fail_over(&mut self, ask: &Ask<'_>) -> bool {
        let granted = self.departures.ask(|policy, now| policy.failover(self.ticket, ask, now));
        let Some(granted) = granted else { return false };
        self.ticket = granted.ticket;
        self.before = Some(std::mem::replace(&mut self.egress, granted.decision.egress));
        self.decision = Some(Box::new(granted.decision));
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
            inner.policy.leave(self.ticket, Moment::current());
            self.departures.go_on(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Budget, Limits, MailClass};
    use warren_launcher_api::TenantName;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn rules(sessions: u32) -> Rules {
        let budget = Budget { sessions, sessions_per_minute: 1_000 };
        Rules::plain([EgressAddr([192, 0, 2, 1].into())], budget, Limits { sessions: 100, per_tenant: 100 })
    }

    fn departures(sessions: u32) -> Arc<Departures> {
        Departures::new(Policy::new(rules(sessions), None, Moment::current()))
    }

    async fn enter(departures: &Arc<Departures>, patience: Duration) -> Turn {
        let tenant = TenantName::new("acme").unwrap();
        let mx = IpAddr::from([198, 51, 100, 1]);
        let operator = departures.operator(Some("mx.example.org"), mx);
        let ask = Ask { tenant: &tenant, account: None, class: MailClass::Submitted, operator: &operator, mx };
        departures.enter(&ask, patience).await
    }

    fn place(turn: Turn) -> Place {
        match turn {
            Turn::Place(place) => place,
            other => panic!("no place: {other:?}"),
        }
    }

    /// Waits until so many wait.
    async fn waiting(departures: &Departures, count: u32) {
        while departures.view().waiting != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whoever_waits_comes_in_when_somebody_leaves() {
        let departures = departures(1);
        let first = place(enter(&departures, PATIENCE).await);
        assert!(matches!(enter(&departures, Duration::ZERO).await, Turn::Missed), "beyond the budget");
        let second = tokio::spawn({
            let departures = Arc::clone(&departures);
            async move { enter(&departures, PATIENCE).await }
        });
        waiting(&departures, 1).await;
        drop(first);
        let second = place(second.await.unwrap());
        assert_eq!(second.egress(), EgressAddr([192, 0, 2, 1].into()));
        assert_eq!((departures.view().sessions, departures.view().waiting), (1, 0));
        drop(second);
        departures.all_gone().await;
        assert_eq!(departures.view().sessions, 0);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_costs_nothing() {
        let departures = departures(1);
        let first = place(enter(&departures, PATIENCE).await);
        let waits = tokio::spawn({
            let departures = Arc::clone(&departures);
            async move { enter(&departures, PATIENCE).await }
        });
        waiting(&departures, 1).await;
        waits.abort();
        assert!(waits.await.is_err());
        assert_eq!(departures.view().waiting, 0);
        drop(first);
        // Told a place, and gone before it could be taken.
        let first = place(enter(&departures, PATIENCE).await);
        let mut gone = Box::pin(enter(&departures, PATIENCE));
        assert!(still_waits(&mut gone), "it waits");
        drop(first);
        drop(gone);
        assert_eq!(departures.view().sessions, 0);
        place(enter(&departures, Duration::ZERO).await);
    }

    /// Polls once; whether it still waits.
    fn still_waits(future: &mut (impl Future + Unpin)) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_pending()
    }

    #[tokio::test]
    async fn a_reload_lets_in_whom_the_new_rules_have_a_place_for() {
        let departures = departures(1);
        let _first = place(enter(&departures, PATIENCE).await);
        let second = tokio::spawn({
            let departures = Arc::clone(&departures);
            async move { enter(&departures, PATIENCE).await }
        });
        waiting(&departures, 1).await;
        departures.reload(rules(2));
        place(second.await.unwrap());
    }

    #[tokio::test]
    async fn what_is_done_by_hand_wakes_and_turns_away() {
        let departures = departures(1);
        let address = EgressAddr([192, 0, 2, 1].into());
        let mut happened = departures.happened();
        happened.mark_unchanged();
        assert_eq!(departures.rest(address, None).len(), 1);
        assert!(happened.has_changed().unwrap());
        let turned_away = enter(&departures, PATIENCE).await;
        assert!(matches!(turned_away, Turn::Refused(NoEgress::Rested { until: None })), "{turned_away:?}");
        assert_eq!(departures.rest(address, None), []);
        assert_eq!(departures.restore(address, None).len(), 1);
        place(enter(&departures, PATIENCE).await);
    }
}
