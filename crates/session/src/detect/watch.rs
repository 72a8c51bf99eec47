//! One session, watched.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{EventKind, Finding, Senses, Shared, Thresholds, Verb};
use crate::{Class, Verdict, text::cut};

/// Slow replies of a session that are kept as evidence. Two make a tarpit.
const SLOW_KEPT: usize = 8;
const SLOW_ENOUGH: usize = 2;
/// Longest part of a reply kept as evidence, in bytes.
const REPLY_KEPT: usize = 300;
/// A reply in fewer pieces did not drip, however long it took; neither did one in larger ones.
const DRIPS: u32 = 5;
const DROP_BYTES: u64 = 8;
/// A connect that took longer lost its first packet (RFC 6298 §2): it says nothing of the round trip.
const LONGEST_RTT: Duration = Duration::from_secs(1);
/// Sessions that were taken, and then refused without a reason, from when on that is a throttle.
const TAKEN_FIRST: u32 = 3;
const REFUSED_THEN: u32 = 2;

/// A reply of the MX.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The verb it answers; `.` is the end of data, empty the greeting.
    pub verb: &'a str,
    /// Its code.
    pub code: u16,
    /// Its lines without their codes.
    pub text: &'a str,
    /// What it means; none for a positive reply.
    pub verdict: Option<&'a Verdict>,
    /// Since the command was sent or the previous reply came, whichever was later.
    pub took: Duration,
}

/// How a reply arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pieces {
    count: u32,
    bytes: u64,
    span: Option<(Instant, Instant)>,
}

impl Pieces {
    /// So many bytes more arrived.
    pub fn arrived(&mut self, at: Instant, bytes: usize) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.span = Some((self.span.map_or(at, |(first, _)| first), at));
    }

    /// From the first piece to the last.
    #[must_use]
    pub fn over(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first))
    }

    /// Whether that is how a tarpit writes.
    #[must_use]
    pub fn drip(&self, thresholds: &Thresholds) -> bool {
        self.count >= DRIPS && self.bytes <= u64::from(self.count) * DROP_BYTES && self.over() >= thresholds.drip
    }
}

/// How long a first reply took, to the microsecond and up to an hour: small, because every session keeps six of them.
#[derive(Debug, Clone, Copy)]
struct Took(NonZeroU32);

impl Took {
    fn of(time: Duration) -> Self {
        let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self(NonZeroU32::MIN.saturating_add(us))
    }

    fn time(self) -> Duration {
        Duration::from_micros(u64::from(self.0.get() - 1))
    }
}

/// What is collected of one session until it ends. Thousands wait, and each keeps this: what few have is elsewhere.
#[derive(Debug)]
pub struct Watch {
    operator: Arc<str>,
    egress: Option<IpAddr>,
    /// Of the connect; none if that says nothing.
    rtt: Option<Took>,
    pieces: Pieces,
    /// The first time of each verb: sessions are independent of each other, replies of one session are not.
    first: [Option<Took>; Verb::COUNT],
    taken: bool,
    odd: Option<Box<Odd>>,
}

/// What was out of the ordinary on this leg.
#[derive(Debug, Default)]
struct Odd {
    slow: Vec<serde_json::Value>,
    /// Kinds found: each is told once.
    told: Vec<EventKind>,
}

impl Watch {
    /// Watches a session with an MX of this operator.
    #[must_use]
    pub fn new(operator: Arc<str>) -> Self {
        Self {
            operator,
            egress: None,
            rtt: None,
            pieces: Pieces::default(),
            first: Default::default(),
            taken: false,
            odd: None,
        }
    }

    /// Whose MX it is.
    #[must_use]
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Where the session leaves from now.
    #[must_use]
    pub fn egress(&self) -> Option<IpAddr> {
        self.egress
    }

    /// A connection from `egress` stands, and took so long to make. Settles the one before it first.
    pub fn connected(&mut self, senses: &Shared, egress: IpAddr, took: Duration, now: Instant) -> Vec<Finding> {
        let found = self.settle(senses, now);
        let rtt = (took < LONGEST_RTT).then(|| Took::of(took));
        *self = Self { egress: Some(egress), rtt, ..Self::new(Arc::clone(&self.operator)) };
        senses.lock().dialled(&self.operator, egress, now);
        found
    }

    /// The connection of another session goes on, from `egress`, and took so long to make.
    pub fn taken_over(&mut self, egress: IpAddr, took: Option<Duration>) {
        let rtt = took.filter(|took| *took < LONGEST_RTT).map(Took::of);
        *self = Self { egress: Some(egress), rtt, ..Self::new(Arc::clone(&self.operator)) };
    }

    /// How long the present connection took to make, if that says anything.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.map(Took::time)
    }

    /// The connection that was tried is of no use, and the session goes on on the one before, from `egress`.
    pub fn back(&mut self, senses: &Shared, egress: IpAddr, now: Instant) -> Vec<Finding> {
        let found = self.settle(senses, now);
        *self = Self { egress: Some(egress), ..Self::new(Arc::clone(&self.operator)) };
        found
    }

    /// The MX sent so many bytes; told before the reply that they end.
    pub fn heard(&mut self, at: Instant, bytes: usize) {
        self.pieces.arrived(at, bytes);
    }

    /// A reply of the MX.
    pub fn replied(&mut self, senses: &Shared, answer: &Answer<'_>, now: Instant) -> Vec<Finding> {
        let pieces = std::mem::take(&mut self.pieces);
        let Some(egress) = self.egress else { return Vec::new() };
        let mut found = Vec::new();
        let took = answer.took.saturating_sub(self.rtt.map_or(Duration::ZERO, Took::time));
        if let Some(verb) = Verb::of(answer.verb) {
            self.first[verb as usize].get_or_insert(Took::of(took));
            // Where the time does not matter nobody is asked.
            if took >= Duration::from_secs(1) {
                found.extend(self.timed(&senses.lock(), egress, verb, answer, took, pieces));
            }
        }
        if answer.verb == "MAIL" && answer.code < 300 && !self.taken {
            self.taken = true;
            senses.lock().taken(&self.operator, egress, now);
        }
        if let Some(verdict) = answer.verdict {
            found.extend(self.refused(&mut senses.lock(), egress, answer, verdict, now));
        }
        found
    }

    /// The connection is over: what was collected is learned, and this address compared with the others.
    pub fn settle(&mut self, senses: &Shared, now: Instant) -> Vec<Finding> {
        let Some(egress) = self.egress.take() else { return Vec::new() };
        let mut senses = senses.lock();
        for verb in [Verb::Greeting, Verb::Ehlo, Verb::Mail, Verb::Rcpt, Verb::Data, Verb::End] {
            if let Some(took) = self.first[verb as usize].take() {
                senses.learn(&self.operator, egress, verb, took.time(), now);
            }
        }
        let Some(compared) = senses.found_slow(&self.operator, egress, now) else { return Vec::new() };
        let evidence = json!({
            "here_us": micros(compared.here),
            "elsewhere_us": micros(compared.elsewhere),
            "times": (compared.times() * 10.0).round() / 10.0,
            "others": compared.others,
        });
        let verb = compared.verb.word().to_owned();
        vec![Finding { kind: EventKind::SlowAddress, egress, verb, code: None, list: None, evidence }]
    }

    fn timed(
        &mut self,
        senses: &Senses,
        egress: IpAddr,
        verb: Verb,
        answer: &Answer<'_>,
        took: Duration,
        pieces: Pieces,
    ) -> Option<Finding> {
        let finding = |evidence| Finding {
            kind: EventKind::Tarpit,
            egress,
            verb: answer.verb.to_owned(),
            code: Some(answer.code),
            list: None,
            evidence,
        };
        if pieces.drip(senses.thresholds()) {
            let evidence = json!({
                "how": "drip",
                "pieces": pieces.count,
                "bytes": pieces.bytes,
                "over_us": micros(pieces.over()),
                "reply": kept(answer.text),
            });
            return self.once(EventKind::Tarpit).then(|| finding(evidence));
        }
        if !senses.is_slow(&self.operator, verb, took) {
            return None;
        }
        let slow = &mut self.odd.get_or_insert_default().slow;
        if slow.len() >= SLOW_KEPT {
            return None;
        }
        let usual = senses.usual(&self.operator, verb).map(micros);
        slow.push(json!({ "verb": answer.verb, "took_us": micros(took), "usual_us": usual }));
        // A slow verdict on a message is no tarpit, and one slow reply is an accident.
        let enough = slow.len() >= SLOW_ENOUGH && verb != Verb::End;
        let evidence = enough.then(|| json!({ "how": "slow", "replies": slow }));
        evidence.filter(|_| self.once(EventKind::Tarpit)).map(finding)
    }

    fn refused(
        &mut self,
        senses: &mut Senses,
        egress: IpAddr,
        answer: &Answer<'_>,
        verdict: &Verdict,
        now: Instant,
    ) -> Option<Finding> {
        let opening = matches!(answer.verb, "" | "EHLO" | "HELO" | "MAIL") || answer.code == 421;
        let temporary = (400..=499).contains(&answer.code);
        let pace = if temporary && (opening || verdict.class == Class::RateLimited) {
            senses.refused(&self.operator, egress, now)
        } else {
            senses.pace(&self.operator, egress, now)
        };
        let kind = match verdict.class {
            Class::RateLimited => EventKind::Throttle,
            Class::BlockListed => EventKind::Listing,
            Class::Greylisted => EventKind::Greylisting,
            Class::Tarpit => EventKind::Tarpit,
            Class::Other if temporary && opening && pace.taken >= TAKEN_FIRST && pace.refused >= REFUSED_THEN => {
                EventKind::Throttle
            }
            _ => return None,
        };
        let how = if verdict.class == Class::Other { "after_sessions" } else { "said_so" };
        let evidence = json!({
            "how": how,
            "reply": kept(answer.text),
            "about": verdict.about,
            "rule": verdict.rule,
            "pace": pace,
        });
        self.once(kind).then(|| Finding {
            kind,
            egress,
            verb: answer.verb.to_owned(),
            code: Some(answer.code),
            list: verdict.list.clone(),
            evidence,
        })
    }

    /// Whether this is the first of its kind on this leg.
    fn once(&mut self, kind: EventKind) -> bool {
        let told = &mut self.odd.get_or_insert_default().told;
        let first = !told.contains(&kind);
        if first {
            told.push(kind);
        }
        first
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn kept(text: &str) -> String {
    cut(text, REPLY_KEPT).to_owned()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
