//! Answers kept, for all cells together. Pure: time comes in.
//!
//! Bounded in number and in bytes, because a tenant can ask for a name that has 64 KiB of text. Two generations: what is asked for moves to the young one; when
//! that is full it becomes the old one, and what nobody asked for meanwhile goes.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hickory_proto::{
    rr::{Name, RData, Record, RecordType},
    serialize::binary::BinEncodable,
};

use super::Answer;
use crate::resolver::answer::Found;

/// Most answers of one generation.
const MAX_ANSWERS: usize = 16_384;
/// Most bytes of one generation, about.
const MAX_BYTES: usize = 16 << 20;
/// Longest time that records are kept, whatever their TTL says.
const POSITIVE_TTL: Duration = Duration::from_secs(86_400);
/// Longest time that something is held not to exist (RFC 2308 suggests one to three hours at most; mail is retried sooner).
const NEGATIVE_TTL: Duration = Duration::from_secs(900);
/// What a record takes beside its text.
const RECORD: usize = 320;

/// What is asked for.
type Key = (Name, RecordType);

/// The answers.
#[derive(Debug, Default)]
pub struct Cache {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    answers: HashMap<Key, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    since: Instant,
    until: Instant,
    bytes: usize,
}

impl Cache {
    /// What is known, with the TTLs that are left.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        if !self.young.answers.contains_key(key) {
            let kept = self.old.remove(key)?;
            self.insert(key.clone(), kept);
        }
        let kept = self.young.answers.get(key)?;
        if kept.until <= now {
            self.young.remove(key);
            return None;
        }
        let age = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        records(&mut answer.found).iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        Some(answer)
    }

    /// Keeps an answer for as long as its records say; failures not at all.
    pub fn keep(&mut self, key: Key, answer: &Answer, now: Instant) {
        let ttl = match &answer.found {
            Found::Records(records) => {
                records.iter().map(|record| record.ttl).min().map(|ttl| seconds(ttl).min(POSITIVE_TTL))
            }
            Found::NoData(Some(soa)) | Found::NoName(Some(soa)) => match &soa.data {
                RData::SOA(data) => Some(seconds(soa.ttl.min(data.minimum)).min(NEGATIVE_TTL)),
                _ => None,
            },
            Found::NoData(None) | Found::NoName(None) | Found::Failed => None,
        };
        let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) else { return };
        let mut answer = answer.clone();
        let bytes = key.0.len() + RECORD + records(&mut answer.found).iter().map(size).sum::<usize>();
        self.old.remove(&key);
        self.insert(key, Kept { answer, since: now, until: now + ttl, bytes });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn insert(&mut self, key: Key, kept: Kept) {
        self.young.remove(&key);
        if self.young.answers.len() >= MAX_ANSWERS || self.young.bytes + kept.bytes > MAX_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += kept.bytes;
        self.young.answers.insert(key, kept);
    }
}

impl Generation {
    fn remove(&mut self, key: &Key) -> Option<Kept> {
        let gone = self.answers.remove(key)?;
        self.bytes -= gone.bytes;
        Some(gone)
    }
}

fn records(found: &mut Found) -> &mut [Record] {
    match found {
        Found::Records(records) => records,
        Found::NoData(Some(soa)) | Found::NoName(Some(soa)) => std::slice::from_mut(soa),
        Found::NoData(None) | Found::NoName(None) | Found::Failed => &mut [],
    }
}

fn size(record: &Record) -> usize {
    RECORD + record.to_bytes().map_or(0, |bytes| bytes.len())
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{SOA, TXT};

    fn key(n: usize) -> Key {
        (Name::from_ascii(format!("n{n}.example.")).unwrap(), RecordType::TXT)
    }

    fn text(n: usize, ttl: u32, length: usize) -> Answer {
        let data = RData::TXT(TXT::new(vec!["x".repeat(200); length / 200]));
        Answer { found: Found::Records(vec![Record::from_rdata(key(n).0, ttl, data)]), secure: true }
    }

    fn ttl(answer: Option<Answer>) -> Option<u32> {
        let mut answer = answer?;
        Some(records(&mut answer.found)[0].ttl)
    }

    #[test]
    fn an_answer_is_kept_for_its_time() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        cache.keep(key(1), &text(1, 60, 200), now);
        cache.keep(key(2), &text(2, 0, 200), now);
        cache.keep(key(3), &text(3, u32::MAX, 200), now);
        assert_eq!(ttl(cache.get(&key(1), after(20))), Some(40));
        assert_eq!(ttl(cache.get(&key(1), after(60))), None);
        assert_eq!(ttl(cache.get(&key(2), now)), None);
        assert!(cache.get(&key(3), after(86_399)).is_some_and(|answer| answer.secure));
        assert_eq!(ttl(cache.get(&key(3), after(86_400))), None);
        let failed = Answer { found: Found::Failed, secure: false };
        cache.keep(key(1), &failed, now);
        assert!(cache.get(&key(1), now).is_none());
        let soa = SOA::new(key(0).0, key(0).0, 1, 1, 1, 1, 30);
        let nothing = Found::NoName(Some(Record::from_rdata(key(0).0, 3_600, RData::SOA(soa))));
        cache.keep(key(1), &Answer { found: nothing, secure: false }, now);
        assert!(cache.get(&key(1), after(29)).is_some());
        assert!(cache.get(&key(1), after(30)).is_none());
        cache.clear();
        assert_eq!(ttl(cache.get(&key(3), now)), None);
    }

    #[test]
    fn it_is_bounded_in_number_and_in_bytes_and_keeps_what_is_asked_for() {
        let now = Instant::now();
        for length in [200, 60_000] {
            let mut cache = Cache::default();
            cache.keep(key(0), &text(0, 300, 200), now);
            for n in 1..5 * MAX_ANSWERS.min(MAX_BYTES / length) {
                cache.keep(key(n), &text(n, 300, length), now);
                assert!(ttl(cache.get(&key(0), now)).is_some(), "asked for all the time");
                let kept = cache.young.bytes + cache.old.bytes;
                assert!(
                    kept <= 2 * MAX_BYTES && cache.young.answers.len() + cache.old.answers.len() <= 2 * MAX_ANSWERS
                );
            }
            for generation in [&cache.young, &cache.old] {
                assert_eq!(generation.bytes, generation.answers.values().map(|kept| kept.bytes).sum::<usize>());
            }
            assert_eq!(ttl(cache.get(&key(1), now)), None, "nobody asked for it");
        }
    }
}
