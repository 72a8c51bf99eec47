//! What replies and people say about addresses and senders, and what changes by it.

use super::clock::{Now, ticks};
use super::health::{self, Condition, Healths, Rested, Turn};
use super::policy::Policy;
use super::room::RoomKey;
use super::sender;
use super::{Change, EgressAddr, Evidence, Lesson, Moment, Operator, Stage, UNBOUND, What};

impl Policy {
    /// Learns from what a session went through.
    pub fn learn(&mut self, lesson: &Lesson<'_>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        match lesson.what {
            What::NotBound => self.not_bound(lesson.egress, now),
            What::Slow { evidence } => {
                let evidence = || health::evidence("slow", None, evidence, now);
                self.heard(lesson, health::Word::Slower, evidence, now)
            }
            What::Reply { stage, verdict, code, text } => {
                let said = || format!("{code} {text}");
                let evidence = || health::evidence(verdict.class.name(), verdict.list.as_deref(), &said(), now);
                let mut changes = self.heard(lesson, health::Word::of(stage, verdict), evidence, now);
                changes.extend(self.heard_of_sender(lesson, sender::Word::of(stage, verdict), now));
                changes
            }
        }
    }

    fn not_bound(&mut self, address: EgressAddr, now: Now) -> Vec<Change> {
        let Some(member) = self.addresses.get_mut(&address) else { return Vec::new() };
        let news = member.unbound_until.is_none_or(|until| until <= now.tick);
        member.unbound_until = Some(now.tick + ticks(UNBOUND));
        if news { vec![Change::Unbound { address }] } else { Vec::new() }
    }

    fn heard(
        &mut self,
        lesson: &Lesson<'_>,
        word: health::Word,
        evidence: impl FnOnce() -> Evidence,
        now: Now,
    ) -> Vec<Change> {
        let (address, operator) = (lesson.egress, lesson.operator.clone());
        if word == health::Word::Silent || !self.addresses.contains_key(&address) {
            return Vec::new();
        }
        let turn = self.healths.hear((address, &operator), lesson.ticket, word, evidence, self.rules.rest, now.tick);
        if turn != Turn::Same {
            for ipv6 in [false, true] {
                self.pump(&RoomKey { operator: operator.clone(), ipv6 }, now);
            }
        }
        let mark = Healths::mark(self.healths.at(&operator), address);
        let change = match (turn, mark) {
            (Turn::Readmitted, _) => Change::Readmitted { address, operator: Some(operator), by_hand: false },
            (Turn::Recovered, _) => Change::Recovered { address, operator },
            (Turn::Rested, Some(mark)) => {
                let Condition::Rested(Rested { until, .. }) = mark.condition else { return Vec::new() };
                let evidence = mark.evidence[0].clone();
                Change::Rested {
                    address,
                    operator: Some(operator),
                    evidence,
                    until: until.map(|until| now.calendar(until)),
                }
            }
            (Turn::Throttled, Some(mark)) => {
                let budget = mark.budget(self.rules.budget(&operator));
                let evidence = mark.evidence[0].clone();
                let (sessions, sessions_per_minute) = (budget.sessions, budget.sessions_per_minute);
                Change::Throttled { address, operator, evidence, sessions, sessions_per_minute }
            }
            _ => return Vec::new(),
        };
        vec![change]
    }

    fn heard_of_sender(&mut self, lesson: &Lesson<'_>, word: Option<sender::Word>, now: Now) -> Vec<Change> {
        let Some(word) = word else { return Vec::new() };
        let shifts = self.senders.hear(lesson.tenant, lesson.account, lesson.class, (lesson.operator, word), now.tick);
        let change = |shift: sender::Shift| Change::Suspicion {
            tenant: lesson.tenant.clone(),
            account: shift.account,
            class: lesson.class,
            from: shift.from,
            to: shift.to,
            why: shift.why,
        };
        shifts.into_iter().map(change).collect()
    }

    /// Lets an address rest by hand, towards one operator or all, until [`restore`](Self::restore).
    pub fn rest(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        let evidence = health::evidence("by hand", None, "", now);
        let Some(member) = self.addresses.get_mut(&address) else { return Vec::new() };
        let news = match operator {
            None => member.by_hand.replace(evidence.clone()).is_none(),
            Some(operator) => self.healths.rest_by_hand(address, operator, evidence.clone(), now.tick),
        };
        if !news {
            return Vec::new();
        }
        self.pump_all(operator, now);
        vec![Change::Rested { address, operator: operator.cloned(), evidence, until: None }]
    }

    /// Uses an address again, whoever had it rest: towards one operator, or all.
    pub fn restore(&mut self, address: EgressAddr, operator: Option<&Operator>, now: Moment) -> Vec<Change> {
        let now = self.clock.now(now);
        let mut news = false;
        match operator {
            Some(operator) => news |= self.healths.forget(address, operator),
            None => {
                if let Some(member) = self.addresses.get_mut(&address) {
                    news |= member.by_hand.take().is_some() | member.unbound_until.take().is_some();
                }
                let marked = self.healths.all().filter(|(_, marked, _)| *marked == address);
                let marked: Vec<Operator> = marked.map(|(operator, ..)| operator.clone()).collect();
                for operator in marked {
                    news |= self.healths.forget(address, &operator);
                }
            }
        }
        self.pump_all(operator, now);
        if news { vec![Change::Readmitted { address, operator: operator.cloned(), by_hand: true }] } else { Vec::new() }
    }
}

impl Stage {
    /// The stage of a command by its verb, as [`warren_session::Said`] has it: empty for the greeting, `.` for the end of data.
    pub fn of_verb(verb: &str) -> Self {
        match verb {
            "" => Self::Greeting,
            "MAIL" => Self::Mail,
            "RCPT" => Self::Recipient,
            "DATA" | "BDAT" | "." => Self::Content,
            _ => Self::Hello,
        }
    }
}
