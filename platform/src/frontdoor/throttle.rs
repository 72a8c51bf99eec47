//! Brute force: slowed, then cut, by source address and by login. Pure; time is passed in.
//!
//! Failures count for [`WINDOW`]. After a few, every further attempt waits longer, whether its password is right or not; after many the
//! address is turned away. For a login there is one exception, or else anybody could lock its owner out: the address from which
//! the login last worked is never turned away for its sake.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// How long failures are remembered after the last one.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Failures without a consequence: people mistype, and clients repeat.
const FREE: u32 = 3;
/// Failures of an address after which it is turned away. Behind one address may be many people.
const ADDRESS_CUT: u32 = 30;
/// Failures of a login after which strange addresses are turned away.
const LOGIN_CUT: u32 = 50;
/// The longest wait. Longer ones would only hold connections.
const SLOWEST: Duration = Duration::from_secs(8);
/// Entries in each table, some hundred bytes each. When full, the oldest knowledge goes.
const ENTRIES: usize = 20_000;

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Verify it after this long.
    After(Duration),
    /// Do not verify it.
    Cut,
}

/// Who failed how often lately.
#[derive(Debug, Default)]
pub struct Throttle {
    addresses: Table<IpAddr>,
    logins: Table<String>,
}

impl Throttle {
    /// Whether to talk to an address at all.
    pub fn admits(&self, from: IpAddr, now: Instant) -> bool {
        self.addresses.failures(&network(from), now) < ADDRESS_CUT
    }

    /// What to do with an attempt.
    pub fn judge(&self, from: IpAddr, login: &str, now: Instant) -> Verdict {
        let network = network(from);
        let login = login.to_ascii_lowercase();
        let (by_address, by_login) = (self.addresses.failures(&network, now), self.logins.failures(&login, now));
        let trusted = self.logins.get(&login).is_some_and(|record| record.good == Some(network));
        if by_address >= ADDRESS_CUT || (by_login >= LOGIN_CUT && !trusted) {
            return Verdict::Cut;
        }
        Verdict::After(delay(by_address.max(if trusted { 0 } else { by_login })))
    }

    /// An attempt failed.
    pub fn failed(&mut self, from: IpAddr, login: &str, now: Instant) {
        self.addresses.fail(network(from), now);
        self.logins.fail(login.to_ascii_lowercase(), now);
    }

    /// An attempt worked. It does not pay off the address's failures: an attacker may have one account.
    pub fn worked(&mut self, from: IpAddr, login: &str, now: Instant) {
        self.logins.record(login.to_ascii_lowercase(), now).good = Some(network(from));
    }
}

fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE) {
        None | Some(0) => Duration::ZERO,
        Some(more) => Duration::from_millis(250).saturating_mul(1 << (more - 1).min(10)).min(SLOWEST),
    }
}

/// Whoever has one IPv6 address has its whole /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    good: Option<IpAddr>,
}

#[derive(Debug)]
struct Table<K> {
    records: HashMap<K, Record>,
}

impl<K> Default for Table<K> {
    fn default() -> Table<K> {
        Table { records: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn get(&self, key: &K) -> Option<&Record> {
        self.records.get(key)
    }

    fn failures(&self, key: &K, now: Instant) -> u32 {
        self.get(key).filter(|r| now.saturating_duration_since(r.last) < WINDOW).map_or(0, |r| r.failures)
    }

    fn fail(&mut self, key: K, now: Instant) {
        let failures = self.failures(&key, now);
        let record = self.record(key, now);
        record.failures = failures.saturating_add(1);
        record.last = now;
    }

    fn record(&mut self, key: K, now: Instant) -> &mut Record {
        if self.records.len() >= ENTRIES && !self.records.contains_key(&key) {
            self.make_room(now);
        }
        self.records.entry(key).or_insert(Record { failures: 0, last: now, good: None })
    }

    /// Drops what has expired; if that is less than a tenth, the oldest tenth, so that this is rarely done.
    fn make_room(&mut self, now: Instant) {
        self.records.retain(|_, r| now.saturating_duration_since(r.last) < WINDOW);
        if self.records.len() > ENTRIES - ENTRIES / 10 {
            let mut ages: Vec<Instant> = self.records.values().map(|r| r.last).collect();
            let (_, oldest, _) = ages.select_nth_unstable(ENTRIES / 10);
            let oldest = *oldest;
            self.records.retain(|_, r| r.last > oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    fn after(ms: u64) -> Verdict {
        Verdict::After(Duration::from_millis(ms))
    }

    #[test]
    fn an_address_is_slowed_then_cut_then_forgotten() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut verdicts = Vec::new();
        for n in 0..ADDRESS_CUT {
            verdicts.push(throttle.judge(AWAY, &format!("{n}@acme.example"), now));
            throttle.failed(AWAY, &format!("{n}@acme.example"), now);
        }
        assert_eq!(verdicts[..7], [after(0), after(0), after(0), after(0), after(250), after(500), after(1000)]);
        assert_eq!(verdicts[29], Verdict::After(SLOWEST));
        assert_eq!(throttle.judge(AWAY, "x@acme.example", now), Verdict::Cut);
        assert!(!throttle.admits(AWAY, now) && throttle.admits(HOME, now));
        assert!(throttle.admits(AWAY, now + WINDOW));
        assert_eq!(throttle.judge(AWAY, "x@acme.example", now + WINDOW), after(0));
    }

    #[test]
    fn a_login_attacked_from_everywhere_still_works_at_home() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.worked(HOME, "alice@acme.example", now);
        for n in 0..LOGIN_CUT {
            throttle.failed(IpAddr::from([10, 0, 0, n as u8]), "Alice@ACME.example", now);
        }
        assert_eq!(throttle.judge(AWAY, "alice@acme.example", now), Verdict::Cut);
        assert_eq!(throttle.judge(HOME, "alice@acme.example", now), after(0));
        assert_eq!(throttle.judge(AWAY, "bob@acme.example", now), after(0));
    }

    #[test]
    fn success_does_not_wash_an_address() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..ADDRESS_CUT {
            throttle.failed(AWAY, &format!("{n}@acme.example"), now);
            throttle.worked(AWAY, "mallory@evil.example", now);
        }
        assert!(!throttle.admits(AWAY, now));
    }

    #[test]
    fn a_whole_64_counts_as_one() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..u16::try_from(ADDRESS_CUT).unwrap() {
            throttle.failed(IpAddr::from([0x2001, 0xdb8, 0, 0, n, 1, 2, 3]), &n.to_string(), now);
        }
        assert!(!throttle.admits("2001:db8::1".parse().unwrap(), now));
        assert!(throttle.admits("2001:db8:0:1::1".parse().unwrap(), now));
        throttle.failed("::ffff:192.0.2.1".parse().unwrap(), "x", now);
        assert_eq!(throttle.addresses.failures(&HOME, now), 1);
    }

    #[test]
    fn the_tables_are_bounded() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..2 * ENTRIES as u32 {
            throttle.failed(IpAddr::from(n.to_be_bytes()), &n.to_string(), now + Duration::from_millis(n.into()));
        }
        assert!(throttle.addresses.records.len() <= ENTRIES && throttle.logins.records.len() <= ENTRIES);
        // What is left is the latest.
        let last = 2 * ENTRIES as u32 - 1;
        assert!(throttle.addresses.records.contains_key(&IpAddr::from(last.to_be_bytes())));
    }
}
