//! How an address is at an operator: as if nothing had been, throttled, or rested. Time and replies move it.
//!
//! ```text
//!            "too many", "slow down", tarpit             turned away for the address
//!   plain ───────────────▶ throttled (half, half …) ─────────────▶ rested ◀──┐ turned away: twice as long
//!     ▲                     │       ▲                                │ due     │
//!     └── whole budget ─────┘       └──────── a tenth ◀── well ── probe ───────┘
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use warren_session::{About, Class, Verdict};

use super::bounded::Bounded;
use super::clock::{MINUTE, Now, SECOND, Tick, ticks};
use super::{Budget, EgressAddr, Evidence, Operator, Rest, Stage, Ticket};

/// Operators at which something is remembered. Who is dealt with stays; who was not asked for longest is forgotten.
const OPERATORS: usize = 10_000;
/// Pieces of evidence kept.
const EVIDENCE: usize = 4;
/// Bytes of a reply that are kept.
const REPLY: usize = 500;
/// A budget is halved once for all complaints within this time: sessions under way hear the same at once.
const REACT: Tick = 30 * SECOND;
/// A throttled budget grows by [`STEP`] after so long without a complaint.
const GROW: Tick = MINUTE;
/// Thousandths of the budget.
const WHOLE: u32 = 1_000;
/// By which a throttled budget grows, and with which a rested address begins anew.
const STEP: u32 = 100;
/// A probe that ended without an answer is repeated after this: it says nothing about the address.
const PROBE_AGAIN: Tick = MINUTE;

/// Everything remembered, by operator.
#[derive(Debug)]
pub(super) struct Healths(Bounded<Operator, Vec<(EgressAddr, Mark)>>);

/// What is remembered of an address at an operator.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub condition: Condition,
    pub since: Tick,
    /// The newest first.
    pub evidence: Vec<Evidence>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It has so many thousandths of its budget, since then.
    Throttled { share: u32, changed: Tick },
    /// It is not used.
    Rested(Rested),
}

/// A rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rested {
    /// When it is probed; never, if a human said so.
    pub until: Option<Tick>,
    /// How long it was to last.
    pub length: Tick,
    /// The session that finds out.
    pub probe: Option<Ticket>,
}

/// What a reply or a measurement says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// All is well.
    Good,
    /// Too much, too fast.
    Slower,
    /// Not from here.
    Away,
    /// Nothing.
    Silent,
}

/// How a mark changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Rested,
    Readmitted,
    Throttled,
    Recovered,
    Same,
}

/// One mark, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredMark {
    address: EgressAddr,
    operator: Operator,
    since: i64,
    condition: StoredCondition,
    evidence: Vec<Evidence>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredCondition {
    Throttled { share: u32, changed: i64 },
    Rested { until: Option<i64>, length_seconds: i64 },
}

impl Word {
    /// What a reply says about the address that it was given to.
    pub(super) fn of(stage: Stage, verdict: &Verdict) -> Self {
        if verdict.rejects_egress() {
            return Self::Away;
        }
        match (verdict.class, verdict.about) {
            (Class::RateLimited | Class::Tarpit, About::Egress | About::Session | About::Site | About::Unclear) => {
                Self::Slower
            }
            // Whoever answers about recipients has nothing against the address.
            (Class::Accepted | Class::UnknownUser | Class::MailboxFull, _) if stage == Stage::Recipient => Self::Good,
            (Class::Delivered, _) => Self::Good,
            _ => Self::Silent,
        }
    }
}

impl Mark {
    /// What it may do, out of `full`.
    pub(super) fn budget(&self, full: Budget) -> Budget {
        let part = |whole: u32, share: u32| {
            u32::try_from(u64::from(whole) * u64::from(share) / u64::from(WHOLE)).unwrap_or(whole).max(1)
        };
        match self.condition {
            Condition::Throttled { share, .. } => Budget {
                sessions: part(full.sessions, share),
                sessions_per_minute: part(full.sessions_per_minute, share),
            },
            // There is one probe at a time; sessions of before the rest may still be there, and do not hinder it.
            Condition::Rested(_) => full,
        }
    }

    fn note(&mut self, evidence: Evidence) {
        self.evidence.insert(0, evidence);
        self.evidence.truncate(EVIDENCE);
    }
}

impl Healths {
    pub(super) fn new() -> Self {
        Self(Bounded::sparing(OPERATORS, by_hand))
    }

    /// What is remembered at an operator, by address.
    pub(super) fn at(&self, operator: &Operator) -> &[(EgressAddr, Mark)] {
        self.0.get(operator).map_or(&[], Vec::as_slice)
    }

    /// Somebody wants to go there: it is not forgotten so soon.
    pub(super) fn touch(&mut self, operator: &Operator) {
        self.0.touch(operator);
    }

    /// The mark of an address in what [`at`](Self::at) gave.
    pub(super) fn mark(marks: &[(EgressAddr, Mark)], address: EgressAddr) -> Option<&Mark> {
        marks.iter().find(|(known, _)| *known == address).map(|(_, mark)| mark)
    }

    fn mark_mut(&mut self, address: EgressAddr, operator: &Operator) -> Option<&mut Mark> {
        self.0.touch(operator)?.iter_mut().find(|(known, _)| *known == address).map(|(_, mark)| mark)
    }

    /// Hears a word about an address from the session of `ticket`.
    pub(super) fn hear(
        &mut self,
        (address, operator): (EgressAddr, &Operator),
        ticket: Option<Ticket>,
        word: Word,
        evidence: impl FnOnce() -> Evidence,
        rest: Rest,
        now: Tick,
    ) -> Turn {
        let mark = self.mark_mut(address, operator);
        match (word, mark) {
            (Word::Silent, _) | (Word::Good, None) => Turn::Same,
            (Word::Away, mark) => {
                let known = mark.as_ref().map(|mark| mark.condition);
                let rested = match known {
                    Some(Condition::Rested(rested)) if rested.probe.is_none() || rested.probe != ticket => {
                        // Sessions that began before the rest hear the same; that is no news.
                        if let Some(mark) = mark {
                            mark.note(evidence());
                        }
                        return Turn::Same;
                    }
                    Some(Condition::Rested(Rested { length, .. })) => length.saturating_mul(2).min(ticks(rest.longest)),
                    _ => ticks(rest.first),
                };
                let condition = Condition::Rested(Rested { until: Some(now + rested), length: rested, probe: None });
                self.set(address, operator, condition, Some(evidence()), now);
                Turn::Rested
            }
            (Word::Good, Some(mark)) => match &mut mark.condition {
                Condition::Rested(rested) if rested.probe.is_some() && rested.probe == ticket => {
                    mark.condition = Condition::Throttled { share: STEP, changed: now };
                    mark.since = now;
                    Turn::Readmitted
                }
                Condition::Rested(_) => Turn::Same,
                Condition::Throttled { share, changed } => {
                    if now < *changed + GROW {
                        return Turn::Same;
                    }
                    (*share, *changed) = (*share + STEP, now);
                    if *share < WHOLE {
                        return Turn::Same;
                    }
                    self.forget(address, operator);
                    Turn::Recovered
                }
            },
            (Word::Slower, mark) => {
                let share = match mark.map(|mark| mark.condition) {
                    Some(Condition::Rested(_)) => return Turn::Same,
                    Some(Condition::Throttled { share, changed }) if now < changed + REACT && share < WHOLE => {
                        return Turn::Same;
                    }
                    Some(Condition::Throttled { share, .. }) => (share / 2).max(1),
                    None => WHOLE / 2,
                };
                self.set(address, operator, Condition::Throttled { share, changed: now }, Some(evidence()), now);
                Turn::Throttled
            }
        }
    }

    /// Lets an address rest until a human says otherwise. Whether that is new.
    pub(super) fn rest_by_hand(
        &mut self,
        address: EgressAddr,
        operator: &Operator,
        evidence: Evidence,
        now: Tick,
    ) -> bool {
        let known = self.mark_mut(address, operator).map(|mark| mark.condition);
        if matches!(known, Some(Condition::Rested(Rested { until: None, .. }))) {
            return false;
        }
        self.set(
            address,
            operator,
            Condition::Rested(Rested { until: None, length: 0, probe: None }),
            Some(evidence),
            now,
        );
        true
    }

    fn set(
        &mut self,
        address: EgressAddr,
        operator: &Operator,
        condition: Condition,
        evidence: Option<Evidence>,
        now: Tick,
    ) {
        let marks = self.0.entry(operator, Vec::new);
        let place = marks.iter().position(|(known, _)| *known == address).unwrap_or_else(|| {
            marks.push((address, Mark { condition, since: now, evidence: Vec::new() }));
            marks.len() - 1
        });
        let mark = &mut marks[place].1;
        if std::mem::discriminant(&mark.condition) != std::mem::discriminant(&condition) {
            mark.since = now;
        }
        mark.condition = condition;
        if let Some(evidence) = evidence {
            mark.note(evidence);
        }
    }

    /// Forgets whatever was against an address. Whether there was anything.
    pub(super) fn forget(&mut self, address: EgressAddr, operator: &Operator) -> bool {
        let Some(marks) = self.0.touch(operator) else { return false };
        let before = marks.len();
        marks.retain(|(known, _)| *known != address);
        let (after, empty) = (marks.len(), marks.is_empty());
        if empty {
            self.0.remove(operator);
        }
        after < before
    }

    /// A session goes to find out about a rested address.
    pub(super) fn probing(&mut self, address: EgressAddr, operator: &Operator, ticket: Ticket) {
        if let Some(Mark { condition: Condition::Rested(rested), .. }) = self.mark_mut(address, operator) {
            rested.probe = Some(ticket);
        }
    }

    /// It came back without an answer, or somewhere else.
    pub(super) fn probed(&mut self, address: EgressAddr, operator: &Operator, ticket: Ticket, now: Tick) {
        if let Some(Mark { condition: Condition::Rested(rested), .. }) = self.mark_mut(address, operator)
            && rested.probe == Some(ticket)
        {
            (rested.probe, rested.until) = (None, rested.until.map(|_| now + PROBE_AGAIN));
        }
    }

    /// Everything, by operator.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Operator, EgressAddr, &Mark)> {
        self.0.iter().flat_map(|(operator, marks)| marks.iter().map(move |(address, mark)| (operator, *address, mark)))
    }

    /// Forgets addresses that are none any more.
    pub(super) fn keep(&mut self, addresses: &[EgressAddr]) {
        let gone = |(_, address, _): &(&Operator, EgressAddr, &Mark)| !addresses.contains(address);
        let gone: Vec<_> = self.all().filter(gone).map(|(operator, address, _)| (operator.clone(), address)).collect();
        for (operator, address) in gone {
            self.forget(address, &operator);
        }
    }

    /// By a name that stays the same, so that whoever stores it finds what changed.
    pub(super) fn stored(&self, now: Now) -> BTreeMap<String, StoredMark> {
        let stored = |(operator, address, mark): (&Operator, EgressAddr, &Mark)| StoredMark {
            address,
            operator: operator.clone(),
            since: now.stamp(mark.since),
            condition: match mark.condition {
                Condition::Throttled { share, changed } => {
                    StoredCondition::Throttled { share, changed: now.stamp(changed) }
                }
                Condition::Rested(rested) => StoredCondition::Rested {
                    until: rested.until.map(|until| now.stamp(until)),
                    length_seconds: rested.length / SECOND,
                },
            },
            evidence: mark.evidence.clone(),
        };
        self.all().map(|one| (format!("{} {}", one.1, one.0), stored(one))).collect()
    }

    pub(super) fn restore(&mut self, stored: BTreeMap<String, StoredMark>, rest: Rest, now: Now) {
        let mut stored: Vec<StoredMark> = stored.into_values().collect();
        // What is newest is forgotten last.
        stored.sort_by_key(|one| one.since);
        for one in stored {
            let longest = ticks(rest.longest);
            let condition = match one.condition {
                StoredCondition::Throttled { share, changed } => {
                    Condition::Throttled { share: share.clamp(1, WHOLE), changed: now.restored(changed).min(now.tick) }
                }
                StoredCondition::Rested { until, length_seconds } => Condition::Rested(Rested {
                    // A calendar that was wrong when it was stored lets nothing rest for ever.
                    until: until.map(|until| now.restored(until).min(now.tick.saturating_add(longest))),
                    length: length_seconds.saturating_mul(SECOND).clamp(0, longest),
                    probe: None,
                }),
            };
            let marks = self.0.entry(&one.operator, Vec::new);
            marks.retain(|(known, _)| *known != one.address);
            let mut evidence = one.evidence;
            evidence.truncate(EVIDENCE);
            marks.push((one.address, Mark { condition, since: now.restored(one.since).min(now.tick), evidence }));
        }
    }
}

/// Whether a human said something: that is not forgotten for what strangers do.
#[expect(clippy::ptr_arg, reason = "it is what the map holds")]
fn by_hand(marks: &Vec<(EgressAddr, Mark)>) -> bool {
    marks.iter().any(|(_, mark)| matches!(mark.condition, Condition::Rested(Rested { until: None, .. })))
}

/// Evidence of a reply, cut to what is worth keeping.
pub(super) fn evidence(what: &str, list: Option<&str>, reply: &str, now: Now) -> Evidence {
    let cut = |text: &str, bound: usize| text[..text.floor_char_boundary(bound.min(text.len()))].to_owned();
    // Milliseconds are what people are shown.
    let since = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or_default());
    Evidence { at, what: what.to_owned(), list: list.map(|list| cut(list, 100)), reply: cut(reply, REPLY) }
}
