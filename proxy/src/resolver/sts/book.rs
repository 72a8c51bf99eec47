//! Policies that were fetched, and what to do about a domain. Pure: time comes in, in seconds since 1970.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::record::Announced;
use crate::egress::Operator;
use crate::tls::{StsFound, StsPolicy, sts::StsFailure};

/// Most policies kept.
pub const MAX_POLICIES: usize = 20_000;
/// Most of them below one registrable domain: who invents domains crowds out only those.
pub const MAX_BELOW_ONE: usize = 256;
/// Most bytes of all.
pub const MAX_BYTES: usize = 16 << 20;
/// Most bytes of those below one registrable domain: two policies that are as long as can be. Some hundred honest ones fit.
pub const MAX_BYTES_BELOW_ONE: usize = 64 << 10;
/// Most failures remembered.
const MAX_FAILURES: usize = 4_096;
/// After a failed fetch, a policy host has this long a rest.
const REST_S: u64 = 300;
/// A policy is fetched again when it is this old, or half of its life is over.
const REFRESH_S: u64 = 86_400;
/// Most policies below one registrable domain that are refreshed in one go.
const MAX_DUE_BELOW_ONE: usize = 8;
/// A policy holds for so long at least: with `max_age: 0`, each question would mean a fetch.
const LEAST_S: u64 = 60;
/// A policy that nobody has asked for this long is not refreshed.
const IN_USE_S: u64 = 30 * 86_400;
/// `used_s` is not written more exactly than this, so that a lookup seldom means a write.
const USED_STEP_S: u64 = 86_400;

/// The policies.
#[derive(Debug, Default)]
pub struct Book {
    policies: BTreeMap<String, Entry>,
    bytes: usize,
    /// How many there are below each registrable domain, and how many bytes.
    below: HashMap<Operator, (usize, usize)>,
    failures: HashMap<String, Failed>,
    changes: u64,
}

/// A policy and its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The policy.
    pub policy: StsPolicy,
    /// When it was last fetched.
    pub fetched_s: u64,
    /// When it was last asked for, about.
    pub used_s: u64,
}

#[derive(Debug)]
struct Failed {
    id: String,
    why: StsFailure,
    until_s: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This is known.
    Have(StsFound),
    /// Fetch the policy that is announced under this id.
    Fetch(String),
}

impl Entry {
    fn holds(&self, now_s: u64) -> bool {
        now_s < self.until_s()
    }

    fn until_s(&self) -> u64 {
        self.fetched_s.saturating_add(u64::from(self.policy.max_age_s).max(LEAST_S))
    }

    fn bytes(&self, domain: &str) -> usize {
        domain.len() + self.policy.id.len() + self.policy.mx.iter().map(|mx| mx.len() + 24).sum::<usize>() + 64
    }
}

impl Book {
    /// Takes up what was kept. What is past its time, or claims to come from the future, is left out.
    #[must_use]
    pub fn restore(kept: BTreeMap<String, Entry>, now_s: u64) -> Self {
        let mut book = Self::default();
        for (domain, entry) in kept {
            if entry.holds(now_s) && entry.fetched_s <= now_s.saturating_add(USED_STEP_S) {
                book.insert(domain, entry);
            }
        }
        book.changes = 0;
        book
    }

    /// What is to be kept.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.policies
    }

    /// Counts changes of what is to be kept.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What to do about `domain`, whose DNS says this (RFC 8461 §3.3, §5.1): a policy that was fetched holds for its time, whatever becomes of DNS; another id
    /// asks for another fetch.
    pub fn next(&mut self, domain: &str, announced: &Announced, now_s: u64) -> Next {
        if self.policies.get(domain).is_some_and(|entry| !entry.holds(now_s)) {
            self.remove(domain);
        }
        if let Some(entry) = self.policies.get_mut(domain)
            && now_s >= entry.used_s.saturating_add(USED_STEP_S)
        {
            entry.used_s = now_s;
            self.changes += 1;
        }
        let held = self.policies.get(domain).map(|entry| &entry.policy);
        let have = || held.map_or(StsFound::None, |policy| StsFound::Policy(policy.clone()));
        let Announced::Id(id) = announced else { return Next::Have(have()) };
        if held.is_some_and(|policy| policy.id == *id) {
            return Next::Have(have());
        }
        match self.failures.get(domain) {
            Some(failed) if failed.id == *id && now_s < failed.until_s => {
                Next::Have(if held.is_some() { have() } else { StsFound::Failed(failed.why) })
            }
            _ => Next::Fetch(id.clone()),
        }
    }

    /// Takes what a fetch gave; what counts now.
    pub fn fetched(&mut self, domain: &str, id: &str, got: Result<StsPolicy, StsFailure>, now_s: u64) -> StsFound {
        match got {
            Ok(policy) => {
                self.failures.remove(domain);
                let used_s = self.policies.get(domain).map_or(now_s, |entry| entry.used_s);
                self.insert(domain.to_owned(), Entry { policy: policy.clone(), fetched_s: now_s, used_s });
                StsFound::Policy(policy)
            }
            Err(why) => {
                if self.failures.len() >= MAX_FAILURES {
                    self.failures.retain(|_, failed| now_s < failed.until_s);
                    if self.failures.len() >= MAX_FAILURES {
                        self.failures.clear();
                    }
                }
                let failed = Failed { id: id.to_owned(), why, until_s: now_s.saturating_add(REST_S) };
                self.failures.insert(domain.to_owned(), failed);
                let held = self.policies.get(domain).filter(|entry| entry.holds(now_s));
                held.map_or(StsFound::Failed(why), |entry| StsFound::Policy(entry.policy.clone()))
            }
        }
    }

    /// Policies in use that are to be fetched again before their time is over, and their ids: those first whose time is over first; at most `most`, and few of
    /// one owner.
    #[must_use]
    pub fn due(&self, most: usize, now_s: u64) -> Vec<(String, String)> {
        let due = self.policies.iter().filter(|(domain, entry)| {
            let age = now_s.saturating_sub(entry.fetched_s);
            let resting = self.failures.get(*domain).is_some_and(|failed| now_s < failed.until_s);
            age >= REFRESH_S.min(u64::from(entry.policy.max_age_s) / 2)
                && now_s.saturating_sub(entry.used_s) < IN_USE_S
                && entry.holds(now_s)
                && !resting
        });
        let mut due: Vec<(&String, &Entry)> = due.collect();
        due.sort_by_key(|(_, entry)| entry.until_s());
        let mut of_one: HashMap<Operator, usize> = HashMap::new();
        due.retain(|(domain, _)| {
            let count = of_one.entry(whose(domain)).or_default();
            *count += 1;
            *count <= MAX_DUE_BELOW_ONE
        });
        due.into_iter().take(most).map(|(domain, entry)| (domain.clone(), entry.policy.id.clone())).collect()
    }

    fn insert(&mut self, domain: String, entry: Entry) {
        self.remove(&domain);
        let bytes = entry.bytes(&domain);
        let whose = whose(&domain);
        let crowded = |(count, held): &(usize, usize)| *count >= MAX_BELOW_ONE || held + bytes > MAX_BYTES_BELOW_ONE;
        while self.below.get(&whose).is_some_and(crowded) {
            let of_one = self.policies.iter().filter(|(other, _)| self::whose(other) == whose);
            let oldest = of_one.min_by_key(|(_, entry)| entry.used_s).map(|(other, _)| other.clone());
            let Some(oldest) = oldest else { break };
            self.remove(&oldest);
        }
        while self.policies.len() >= MAX_POLICIES || self.bytes + bytes > MAX_BYTES {
            let oldest = self.policies.iter().min_by_key(|(_, entry)| entry.used_s).map(|(domain, _)| domain.clone());
            let Some(oldest) = oldest else { break };
            self.remove(&oldest);
        }
        self.bytes += bytes;
        let (count, held) = self.below.entry(whose).or_default();
        (*count, *held) = (*count + 1, *held + bytes);
        self.policies.insert(domain, entry);
        self.changes += 1;
    }

    fn remove(&mut self, domain: &str) {
        if let Some(gone) = self.policies.remove(domain) {
            let bytes = gone.bytes(domain);
            self.bytes -= bytes;
            let whose = whose(domain);
            match self.below.get_mut(&whose) {
                Some((count, held)) if *count > 1 => (*count, *held) = (*count - 1, *held - bytes),
                _ => _ = self.below.remove(&whose),
            }
            self.changes += 1;
        }
    }
}

pub(super) fn whose(domain: &str) -> Operator {
    Operator::of(Some(domain), IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::StsMode;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn policy(id: &str) -> StsPolicy {
        StsPolicy { mode: StsMode::Enforce, mx: vec!["mx.example".into()], max_age_s: 7 * 86_400, id: id.into() }
    }

    fn id(id: &str) -> Announced {
        Announced::Id(id.into())
    }

    fn have(id: &str) -> Next {
        Next::Have(StsFound::Policy(policy(id)))
    }

    #[test]
    fn a_policy_holds_for_its_time_whatever_becomes_of_dns() {
        let mut book = Book::default();
        assert_eq!(book.next("a.example", &Announced::Nothing, NOW), Next::Have(StsFound::None));
        assert_eq!(book.next("a.example", &id("1"), NOW), Next::Fetch("1".into()));
        assert_eq!(book.fetched("a.example", "1", Ok(policy("1")), NOW), StsFound::Policy(policy("1")));
        for announced in [id("1"), Announced::Nothing, Announced::Unknown] {
            assert_eq!(book.next("a.example", &announced, NOW + 7 * DAY - 1), have("1"));
        }
        assert_eq!(book.next("a.example", &Announced::Nothing, NOW + 7 * DAY), Next::Have(StsFound::None));
        assert_eq!(book.next("a.example", &id("1"), NOW + 7 * DAY), Next::Fetch("1".into()));
    }

    #[test]
    fn a_failed_fetch_keeps_the_old_policy_and_rests() {
        let mut book = Book::default();
        assert_eq!(book.fetched("a.example", "1", Err(StsFailure::WebPki), NOW), StsFound::Failed(StsFailure::WebPki));
        let failed = Next::Have(StsFound::Failed(StsFailure::WebPki));
        assert_eq!(book.next("a.example", &id("1"), NOW + REST_S - 1), failed);
        assert_eq!(book.next("a.example", &id("1"), NOW + REST_S), Next::Fetch("1".into()));
        assert_eq!(book.next("a.example", &id("2"), NOW), Next::Fetch("2".into()), "another id, another try");
        book.fetched("a.example", "2", Ok(policy("2")), NOW);
        assert_eq!(book.next("a.example", &id("3"), NOW), Next::Fetch("3".into()));
        assert_eq!(book.fetched("a.example", "3", Err(StsFailure::Fetch), NOW), StsFound::Policy(policy("2")));
        assert_eq!(book.next("a.example", &id("3"), NOW), have("2"));
    }

    #[test]
    fn policies_in_use_are_refreshed_in_advance() {
        let mut book = Book::default();
        book.fetched("a.example", "1", Ok(policy("1")), NOW);
        book.fetched("short.example", "1", Ok(StsPolicy { max_age_s: 3600, ..policy("1") }), NOW);
        assert_eq!(book.due(10, NOW + 1_799), []);
        assert_eq!(book.due(10, NOW + 1_800), [("short.example".into(), "1".into())]);
        assert_eq!(book.due(10, NOW + DAY), [("a.example".into(), "1".into())], "the other is past its time");
        book.fetched("a.example", "1", Err(StsFailure::Fetch), NOW + DAY);
        assert_eq!(book.due(10, NOW + DAY + REST_S - 1), []);
        assert_eq!(book.due(10, NOW + DAY + REST_S), [("a.example".into(), "1".into())]);
        book.fetched("a.example", "1", Ok(policy("1")), NOW + DAY + REST_S);
        assert_eq!(book.due(10, NOW + 2 * DAY), []);
        assert_eq!(book.next("a.example", &id("1"), NOW + 8 * DAY), have("1"), "it lives on");
    }

    #[test]
    fn what_ends_first_is_refreshed_first_and_little_of_one_owner() {
        let mut book = Book::default();
        for n in 0..MAX_BELOW_ONE {
            book.fetched(&format!("a{n}.hostile.example"), "1", Ok(policy("1")), NOW);
        }
        book.fetched("late.org", "1", Ok(StsPolicy { max_age_s: 30 * 86_400, ..policy("1") }), NOW);
        book.fetched("soon.org", "1", Ok(StsPolicy { max_age_s: 2 * 86_400, ..policy("1") }), NOW);
        let due: Vec<String> = book.due(100, NOW + DAY).into_iter().map(|(domain, _)| domain).collect();
        assert_eq!((due.len(), &*due[0], &*due[due.len() - 1]), (MAX_DUE_BELOW_ONE + 2, "soon.org", "late.org"));
    }

    #[test]
    fn a_policy_without_age_is_not_fetched_for_each_question() {
        let mut book = Book::default();
        let ageless = StsPolicy { max_age_s: 0, ..policy("1") };
        book.fetched("a.example", "1", Ok(ageless.clone()), NOW);
        assert_eq!(book.next("a.example", &id("1"), NOW + LEAST_S - 1), Next::Have(StsFound::Policy(ageless)));
        assert_eq!(book.next("a.example", &id("1"), NOW + LEAST_S), Next::Fetch("1".into()));
        assert_eq!(book.next("a.example", &Announced::Nothing, NOW + LEAST_S), Next::Have(StsFound::None));
    }

    #[test]
    fn what_was_kept_is_taken_up_and_what_is_old_is_not() {
        let mut book = Book::default();
        book.fetched("a.example", "1", Ok(policy("1")), NOW);
        book.fetched("future.example", "1", Ok(policy("1")), NOW + 10 * DAY);
        let kept = book.entries().clone();
        let mut again = Book::restore(kept.clone(), NOW + DAY);
        assert_eq!(again.next("a.example", &Announced::Nothing, NOW + DAY), have("1"));
        assert_eq!(again.next("future.example", &Announced::Nothing, NOW + DAY), Next::Have(StsFound::None));
        assert!(!Book::restore(kept, NOW + 8 * DAY).entries().contains_key("a.example"));
    }

    #[test]
    fn who_invents_domains_crowds_out_only_those() {
        let mut book = Book::default();
        book.fetched("honest.org", "1", Ok(policy("1")), NOW - 1);
        for n in 0..3 * MAX_BELOW_ONE {
            book.fetched(&format!("d{n}.hostile.example"), "1", Ok(policy("1")), NOW + n as u64);
        }
        assert_eq!(book.entries().len(), MAX_BELOW_ONE + 1);
        assert!(book.entries().contains_key("honest.org"));
        for n in 0..2 * MAX_FAILURES {
            book.fetched(&format!("f{n}.example"), "1", Err(StsFailure::Fetch), NOW);
        }
        assert!(book.failures.len() <= MAX_FAILURES);
        let long = StsPolicy { mx: vec!["x".repeat(250); 100], ..policy("1") };
        for n in 0..100 {
            book.fetched(&format!("long{n}.hostile.example"), "1", Ok(long.clone()), NOW + 9_000 + n);
        }
        assert!(book.bytes <= 2 * MAX_BYTES_BELOW_ONE && book.entries().contains_key("honest.org"));
        for n in 0..1_000 {
            book.fetched(&format!("long{n}.org"), "1", Ok(long.clone()), NOW + 10_000 + n);
        }
        let bytes: usize = book.policies.iter().map(|(domain, entry)| entry.bytes(domain)).sum();
        assert!(bytes == book.bytes && bytes <= MAX_BYTES);
    }
}
