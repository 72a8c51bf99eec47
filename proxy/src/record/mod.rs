//! A session's record, written from what the mediator tells.
//!
//! Exchanges go straight to the log. Transactions are put together here.
//!
//! | file | holds |
//! |---|---|
//! | `hearing` | what the mediator tells |
//! | `asking` | commands, and the replies to them |
//! | `closing` | what became of messages and their recipients |
//! | `moving` | legs that are set aside, and what is asked again |
//! | `paths`, `words` | recipients that are remembered; from the mediator's words to the record's |

mod asking;
mod closing;
mod hearing;
mod moving;
mod paths;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_session::{Class, Dialled, Message, Outcome, SessionId, SessionLog, TlsFacts, Verdict};
use warren_smtp::mediator::Ending;
use warren_smtp::{ForwardPath, Reply};
use warren_wire::client::PolicyFacts;

use crate::detect::{Noticed, Slow, Watch};
use crate::message_id::MessageId;
use asking::Asked;
use closing::tell;
use moving::Aside;
use paths::Paths;
use words::Given;
pub(crate) use words::verdict;

/// Most recipients remembered of a message that is not begun.
const MAX_EARLY: usize = 1_000;

/// The record of one session. Thousands wait, and each keeps this: what few have is elsewhere.
#[derive(Debug)]
pub struct SessionRecord {
    log: SessionLog,
    began: Instant,
    watch: Option<Watch>,
    leg: Option<Leg>,
    legs: u16,
    /// Commands passed and not yet answered.
    asked: VecDeque<Asked>,
    /// The leg that the session may go back to, or just left.
    aside: Option<Box<Aside>>,
    odd: Option<Box<Odd>>,
    /// The reply that comes next came before.
    repeated: bool,
    /// Messages without a final verdict, oldest first.
    open: VecDeque<Open>,
    messages: u32,
    bytes: u64,
    tally: Tally,
    ending: Option<Ending>,
    /// The last refusal seen, by its first digit.
    refused: Option<u16>,
    forbidden: bool,
}

/// What most sessions never have.
#[derive(Debug, Default)]
struct Odd {
    /// What the watch noticed for the egress policy.
    slow: Vec<Slow>,
    /// What was asked on the leg before, and is asked again.
    again: VecDeque<Asked>,
    /// Recipients of a MAIL that the MX has not heard yet: refused here.
    early: Vec<(ForwardPath, Reply)>,
}

/// A dial, as far as the record has to remember it.
#[derive(Debug, Clone, Copy)]
struct Leg {
    /// Counted from 1.
    n: u16,
    egress: IpAddr,
    dialled: Instant,
}

#[derive(Debug, Default)]
struct Tally {
    delivered: u32,
    failed: u32,
}

#[derive(Debug)]
struct Open {
    message: Message,
    /// Beyond what is remembered of them replies are still matched.
    recipients: Paths,
    /// Numbers of the recipients that the MX accepted.
    accepted: Vec<u32>,
    id: MessageId,
}

impl SessionRecord {
    /// A record that begins with a session accepted at `began`.
    pub fn new(log: SessionLog, began: Instant) -> Self {
        Self {
            log,
            began,
            watch: None,
            leg: None,
            legs: 0,
            asked: VecDeque::new(),
            aside: None,
            odd: None,
            repeated: false,
            open: VecDeque::new(),
            messages: 0,
            bytes: 0,
            tally: Tally::default(),
            ending: None,
            refused: None,
            forbidden: false,
        }
    }

    /// Has an eye on how the MX behaves.
    pub fn watched(self, watch: Watch) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// Addresses that were found to be served later than others, since this was asked last.
    pub fn slow(&mut self) -> Vec<Slow> {
        self.odd.as_mut().map(|odd| std::mem::take(&mut odd.slow)).unwrap_or_default()
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.log.id()
    }

    /// Notes that the destination was never dialled, and why.
    pub fn forbidden(&mut self) {
        self.forbidden = true;
    }

    /// Notes that there was no place for the session: its messages are put off.
    pub fn crowded(&mut self) {
        self.refused = Some(451);
    }

    /// A dial begins. `decision` is JSON: why from this address.
    pub fn dialling(&mut self, egress: IpAddr, ehlo_name: &str, decision: &str) {
        let now = Instant::now();
        self.legs = self.legs.saturating_add(1);
        self.leg = Some(Leg { n: self.legs, egress, dialled: now });
        self.log.dialled(self.legs, Dialled { at_us: self.micros(now), egress, ehlo_name, decision });
        self.asked = VecDeque::new();
    }

    /// The connection of the session `before` goes on here; it took so long to make. `decision` is JSON: why from this address.
    pub fn taken_over(
        &mut self,
        before: SessionId,
        (egress, ehlo_name): (IpAddr, &str),
        decision: &str,
        rtt: Option<Duration>,
    ) {
        self.dialling(egress, ehlo_name, decision);
        self.log.taken_over(self.legs, before);
        if let Some(watch) = &mut self.watch {
            watch.taken_over(egress, rtt);
        }
    }

    /// How long the present connection took to make, if that says anything.
    pub fn rtt(&self) -> Option<Duration> {
        self.watch.as_ref()?.rtt()
    }

    /// Whether an MX refused anything.
    pub fn was_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether there was a leg.
    pub fn was_dialled(&self) -> bool {
        self.legs > 0
    }

    /// Messages that were begun.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// The connection of the dial stands.
    pub fn connected(&mut self) {
        let (Some(leg), now) = (self.leg, Instant::now()) else { return };
        self.log.connected(leg.n, self.micros(now));
        if let Some(watch) = &mut self.watch {
            let noticed = watch.connected(leg.egress, now.saturating_duration_since(leg.dialled), now);
            self.notice(now, noticed);
        }
    }

    /// The dial, or TLS on it, failed.
    pub fn failed(&mut self, error: &str) {
        if let Some(leg) = self.leg {
            self.log.failed(leg.n, error);
        }
    }

    /// Something happened between what was said.
    pub fn noted(&mut self, text: &str) {
        let at_us = self.micros(Instant::now());
        self.log.note(self.leg_number(), at_us, text);
    }

    /// TLS is established.
    pub fn secured(&mut self, facts: &TlsFacts) {
        if let Some(watch) = &self.watch {
            watch.counter().secured(&facts.version);
        }
        if let Some(leg) = self.leg {
            self.log.secured(leg.n, facts);
        }
    }

    /// TLS is there from a session before.
    pub fn secured_before(&mut self, facts: &TlsFacts) {
        if let Some(leg) = self.leg {
            self.log.secured(leg.n, facts);
        }
    }

    /// The connection to the MX is over, and what it took can be learned. [`SessionRecord::slow`] may have something to say.
    pub fn settle(&mut self) {
        let now = Instant::now();
        if let Some(watch) = &mut self.watch {
            let noticed = watch.settle(now);
            self.notice(now, noticed);
        }
    }

    /// The session is over.
    pub fn finish(mut self) {
        self.settle();
        let now = Instant::now();
        while let Some(open) = self.open.pop_front() {
            self.close(now, open, None);
        }
        let outcome = self.outcome();
        if let Some(watch) = &self.watch {
            watch.counter().session(outcome);
        }
        let at_us = self.micros(now);
        self.log.end(at_us, outcome, self.bytes);
    }

    fn notice(&mut self, at: Instant, noticed: Noticed) {
        let (leg, at_us) = (self.leg_number(), self.micros(at));
        let Some(watch) = &self.watch else { return };
        for finding in &noticed.findings {
            self.log.event(leg, at_us, watch.operator(), finding);
        }
        if !noticed.slow.is_empty() {
            self.odd().slow.extend(noticed.slow);
        }
    }

    fn odd(&mut self) -> &mut Odd {
        self.odd.get_or_insert_default()
    }

    fn leg_number(&self) -> u16 {
        self.leg.map_or(0, |leg| leg.n)
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    fn outcome(&self) -> Outcome {
        match (self.tally.delivered, self.tally.failed, self.ending) {
            _ if self.forbidden => Outcome::Forbidden,
            (1.., 0, _) => Outcome::Delivered,
            (1.., 1.., _) => Outcome::Partly,
            (0, _, Some(Ending::Unreachable)) => Outcome::Unreachable,
            (0, _, Some(Ending::TlsFailed)) => Outcome::TlsFailed,
            (0, _, Some(Ending::ServerLost)) => Outcome::MxLost,
            (0, _, Some(Ending::Violation(_) | Ending::TimedOut | Ending::Drained)) => Outcome::Cut,
            (0, _, ending) => match self.refused {
                Some(500..) => Outcome::Refused,
                Some(_) => Outcome::Deferred,
                None if ending.is_none() => Outcome::Cut,
                None if ending == Some(Ending::ClientLost) && self.messages > 0 => Outcome::MsaLost,
                None => Outcome::Unused,
            },
        }
    }

    /// A recipient was refused here, and the MX not asked: its domain wants what this connection is not.
    /// `early`: nor was it told of the MAIL.
    pub fn not_asked(&mut self, to: &ForwardPath, reply: &Reply, early: bool, at: Instant) {
        if early {
            let early = &mut self.odd().early;
            if early.len() < MAX_EARLY {
                early.push((to.clone(), reply.clone()));
            }
            return;
        }
        let at_us = self.micros(at);
        let Some(open) = self.open.back_mut() else { return };
        let Some(n) = open.recipients.push(to.to_text()) else { return };
        let lines = reply.coded_lines();
        let (given, verdict) = (Given::by(Some((reply, &lines)), at_us), Verdict::of(Class::Tls));
        self.tally.failed += 1;
        tell(&mut self.log, self.watch.as_ref(), given.recipient(open, n, &verdict));
    }

    /// What the connection was worth to each recipient domain.
    pub fn judged(&mut self, policies: &[PolicyFacts]) {
        if let (Some(leg), false) = (self.leg, policies.is_empty()) {
            self.log.judged(leg.n, policies);
        }
    }

    fn content(&mut self, at: Instant, bytes: &[u8]) {
        let at_us = self.micros(at);
        let count = bytes.len() as u64;
        self.bytes += count;
        if let Some(open) = self.open.back_mut() {
            open.message.content_us.get_or_insert(at_us);
            open.message.size += count;
            open.id.look_at(bytes);
        }
    }
}
