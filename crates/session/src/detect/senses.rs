//! What is usual: curves by operator, egress address and verb. Bounded, whatever tenants write to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Curve, Heard, Thresholds, Verb};

/// Sessions are counted over one to two of these.
const WINDOW: Duration = Duration::from_secs(300);

/// Everything that was learned.
#[derive(Debug, Default)]
pub struct Senses {
    thresholds: Thresholds,
    operators: HashMap<String, Operator>,
    /// Counts uses: the least recently used goes first.
    uses: u64,
}

#[derive(Debug, Default)]
struct Operator {
    used: u64,
    addresses: Vec<Address>,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) egress: IpAddr,
    pub(super) used: u64,
    pub(super) curves: [Curve; Verb::COUNT],
    pace: Window,
    told_slow: Option<Instant>,
}

/// How busy an address has been with an operator, over the last five to ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pace {
    /// Connections.
    pub dialled: u32,
    /// Sessions in which a MAIL was accepted.
    pub taken: u32,
    /// Sessions that were refused for now.
    pub refused: u32,
}

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    now: Pace,
    before: Pace,
}

/// One address beside the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The verb at which it shows most.
    pub verb: Verb,
    /// The fastest of the last three replies to this address.
    pub here: Duration,
    /// A usual reply to the others lately.
    pub elsewhere: Duration,
    /// With how many others it was compared.
    pub others: usize,
}

impl Comparison {
    /// How many times slower this address is served.
    #[must_use]
    pub fn times(&self) -> f32 {
        self.here.as_secs_f32() / self.elsewhere.as_secs_f32().max(0.001)
    }
}

impl Senses {
    /// With nothing learned.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, ..Self::default() }
    }

    /// From when on something counts.
    #[must_use]
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// A connection from `egress` stands.
    pub fn dialled(&mut self, operator: &str, egress: IpAddr, now: Instant) {
        self.address(operator, egress).pace.at(now).dialled += 1;
    }

    /// A session's first MAIL was accepted.
    pub fn taken(&mut self, operator: &str, egress: IpAddr, now: Instant) {
        self.address(operator, egress).pace.at(now).taken += 1;
    }

    /// A session was refused for now. Says how busy the address was.
    pub fn refused(&mut self, operator: &str, egress: IpAddr, now: Instant) -> Pace {
        let window = &mut self.address(operator, egress).pace;
        window.at(now).refused += 1;
        window.sum()
    }

    /// How busy the address was.
    pub fn pace(&mut self, operator: &str, egress: IpAddr, now: Instant) -> Pace {
        let window = &mut self.address(operator, egress).pace;
        window.at(now);
        window.sum()
    }

    /// Takes one session's time for `verb`. What is beyond the usual is remembered as recent, and not learned.
    pub fn learn(&mut self, operator: &str, egress: IpAddr, verb: Verb, took: Duration, now: Instant) -> Heard {
        let beyond = self.is_slow(operator, verb, took);
        let thresholds = self.thresholds.clone();
        self.address(operator, egress).curves[verb as usize].hear(took, beyond, now, &thresholds)
    }

    /// What `verb` usually takes at this operator, once enough is known: of our addresses the middle one, the faster of two.
    #[must_use]
    pub fn usual(&self, operator: &str, verb: Verb) -> Option<Duration> {
        middle(self.curves(operator, verb).filter_map(|(_, curve)| curve.usual(&self.thresholds)))
    }

    /// Whether a reply that took so long is slow, for this operator; where nothing is known of it, for anyone.
    #[must_use]
    pub fn is_slow(&self, operator: &str, verb: Verb, took: Duration) -> bool {
        let bounds = self.curves(operator, verb).filter_map(|(_, curve)| curve.bound(&self.thresholds));
        took > middle(bounds).unwrap_or_else(|| verb.unheard_of())
    }

    /// Whether `egress` is served later than other addresses: its last three sessions all were, and clearly. How long the end of a
    /// message takes depends on the message, so that is left out.
    #[must_use]
    pub fn compare(&self, operator: &str, egress: IpAddr, now: Instant) -> Option<Comparison> {
        let verbs = [Verb::Greeting, Verb::Ehlo, Verb::Mail, Verb::Rcpt, Verb::Data];
        let compared = verbs.into_iter().filter_map(|verb| {
            let (own, others): (Vec<_>, Vec<_>) = self
                .curves(operator, verb)
                .filter_map(|(address, curve)| Some((address, curve.recent(now, &self.thresholds)?)))
                .partition(|(address, _)| *address == egress);
            let here = own.first()?.1.least;
            let elsewhere = middle(others.iter().map(|(_, recent)| recent.middle))?;
            let compared = Comparison { verb, here, elsewhere, others: others.len() };
            let slow = compared.times() >= self.thresholds.factor
                && here.saturating_sub(elsewhere) >= self.thresholds.lateness;
            slow.then_some(compared)
        });
        compared.max_by(|a, b| a.times().total_cmp(&b.times()))
    }

    /// Like [`Senses::compare`], but speaks of the same address only now and then.
    pub fn found_slow(&mut self, operator: &str, egress: IpAddr, now: Instant) -> Option<Comparison> {
        let compared = self.compare(operator, egress, now)?;
        let repeat = self.thresholds.repeat;
        let told = &mut self.address(operator, egress).told_slow;
        if told.is_some_and(|told| now.saturating_duration_since(told) < repeat) {
            return None;
        }
        *told = Some(now);
        Some(compared)
    }

    /// Everything, in no order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&str, &Address)> {
        self.operators.iter().flat_map(|(name, operator)| operator.addresses.iter().map(move |a| (name.as_str(), a)))
    }

    fn curves(&self, operator: &str, verb: Verb) -> impl Iterator<Item = (IpAddr, &Curve)> {
        let addresses = self.operators.get(operator).map(|operator| &operator.addresses[..]).unwrap_or_default();
        addresses.iter().map(move |address| (address.egress, &address.curves[verb as usize]))
    }

    /// The address's entry, made where missing; the least recently used makes room.
    pub(super) fn address(&mut self, operator: &str, egress: IpAddr) -> &mut Address {
        self.uses += 1;
        if !self.operators.contains_key(operator) {
            if self.operators.len() >= self.thresholds.operators.max(1)
                && let Some(oldest) = self.operators.iter().min_by_key(|(_, operator)| operator.used)
            {
                let oldest = oldest.0.clone();
                self.operators.remove(&oldest);
            }
            self.operators.insert(operator.to_owned(), Operator::default());
        }
        let entry = self.operators.get_mut(operator).expect("inserted above");
        entry.used = self.uses;
        let place = match entry.addresses.iter().position(|known| known.egress == egress) {
            Some(place) => place,
            None => {
                if entry.addresses.len() >= self.thresholds.addresses.max(1)
                    && let Some(oldest) = (0..entry.addresses.len()).min_by_key(|&n| entry.addresses[n].used)
                {
                    entry.addresses.swap_remove(oldest);
                }
                entry.addresses.push(Address {
                    egress,
                    used: 0,
                    curves: Default::default(),
                    pace: Window::default(),
                    told_slow: None,
                });
                entry.addresses.len() - 1
            }
        };
        let address = &mut entry.addresses[place];
        address.used = self.uses;
        address
    }
}

impl Window {
    fn at(&mut self, now: Instant) -> &mut Pace {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        match age {
            Some(age) if age < WINDOW => {}
            Some(age) => {
                self.before = if age < 2 * WINDOW { self.now } else { Pace::default() };
                (self.now, self.since) = (Pace::default(), Some(now));
            }
            None => self.since = Some(now),
        }
        &mut self.now
    }

    fn sum(&self) -> Pace {
        let Pace { dialled, taken, refused } = self.before;
        Pace {
            dialled: dialled.saturating_add(self.now.dialled),
            taken: taken.saturating_add(self.now.taken),
            refused: refused.saturating_add(self.now.refused),
        }
    }
}

/// The middle one; of an even number the lower.
fn middle(mut times: impl Iterator<Item = Duration>) -> Option<Duration> {
    // Of one or two nothing has to be sorted, and most operators know no more of our addresses.
    let first = times.next()?;
    let Some(second) = times.next() else { return Some(first) };
    let Some(third) = times.next() else { return Some(first.min(second)) };
    let mut times: Vec<Duration> = [first, second, third].into_iter().chain(times).collect();
    times.sort_unstable();
    times.get(times.len().checked_sub(1)? / 2).copied()
}

/// [`Senses`] behind a lock, for sessions that run at once. It is held for microseconds, and a few times a session.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Senses>);

impl Shared {
    /// Shares these.
    #[must_use]
    pub fn new(senses: Senses) -> Self {
        Self(Mutex::new(senses))
    }

    /// Takes the lock. A session that panicked while it held it left at worst a count that is off by one.
    pub fn lock(&self) -> MutexGuard<'_, Senses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "acme.example";

    fn ip(n: u8) -> IpAddr {
        [203, 0, 113, n].into()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn slow_is_measured_against_the_operator_and_not_against_anyone() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        assert!(!senses.is_slow(ACME, Verb::Rcpt, ms(10_000)), "nothing is known: it may call back");
        assert!(senses.is_slow(ACME, Verb::Rcpt, ms(20_000)));
        for _ in 0..10 {
            senses.learn(ACME, ip(10), Verb::Rcpt, ms(50), now);
            senses.learn("slow.example", ip(10), Verb::Rcpt, ms(4_000), now);
        }
        assert!(senses.is_slow(ACME, Verb::Rcpt, ms(3_000)));
        assert!(!senses.is_slow(ACME, Verb::Rcpt, ms(900)), "below the floor");
        assert!(!senses.is_slow("slow.example", Verb::Rcpt, ms(6_000)), "as ever there");
        assert!(!senses.is_slow(ACME, Verb::End, ms(30_000)), "another verb");
    }

    #[test]
    fn a_tarpit_does_not_become_the_baseline() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        for _ in 0..10 {
            senses.learn(ACME, ip(10), Verb::Mail, ms(50), now);
        }
        for _ in 0..500 {
            assert_eq!(senses.learn(ACME, ip(10), Verb::Mail, ms(30_000), now), Heard::Beyond);
        }
        assert!(senses.usual(ACME, Verb::Mail).unwrap() < ms(60));
    }

    fn heard(senses: &mut Senses, times: &[(u8, u64)], now: Instant) {
        for &(n, took) in times {
            senses.learn(ACME, ip(n), Verb::Rcpt, ms(took), now);
        }
    }

    #[test]
    fn one_address_served_later_than_the_others_is_named() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(senses.compare(ACME, ip(11), now), None);
            heard(&mut senses, &[(10, 20), (11, 2_000), (12, 30)], now);
        }
        let compared = senses.compare(ACME, ip(11), now).unwrap();
        assert_eq!((compared.verb, compared.others), (Verb::Rcpt, 2));
        assert!(compared.times() > 50.0, "{compared:?}");
        assert_eq!(senses.compare(ACME, ip(10), now), None);
        assert_eq!(senses.compare(ACME, ip(11), now + Duration::from_secs(7_200)), None, "long ago");
        // Once fast again is not slow.
        heard(&mut senses, &[(11, 20)], now);
        assert_eq!(senses.compare(ACME, ip(11), now), None);
    }

    #[test]
    fn an_operator_slow_to_all_points_to_nobody() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        (0..5).for_each(|_| heard(&mut senses, &[(10, 8_000), (11, 9_000), (12, 7_000)], now));
        assert!((10..=12).all(|n| senses.compare(ACME, ip(n), now).is_none()));
    }

    #[test]
    fn a_single_address_is_compared_with_nothing() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        (0..9).for_each(|_| heard(&mut senses, &[(10, 8_000)], now));
        assert_eq!(senses.compare(ACME, ip(10), now), None);
    }

    #[test]
    fn the_same_address_is_not_named_all_the_time() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        (0..3).for_each(|_| heard(&mut senses, &[(10, 20), (11, 2_000)], now));
        assert!(senses.found_slow(ACME, ip(11), now).is_some());
        assert!(senses.found_slow(ACME, ip(11), now).is_none());
        assert!(senses.found_slow(ACME, ip(11), now + Duration::from_secs(600)).is_some());
    }

    #[test]
    fn sessions_are_counted_over_minutes() {
        let (mut senses, now) = (Senses::default(), Instant::now());
        (0..7).for_each(|_| senses.dialled(ACME, ip(10), now));
        senses.taken(ACME, ip(10), now);
        let later = now + WINDOW + Duration::from_secs(1);
        assert_eq!(senses.refused(ACME, ip(10), later), Pace { dialled: 7, taken: 1, refused: 1 });
        assert_eq!(senses.pace(ACME, ip(10), later + 3 * WINDOW), Pace::default());
        assert_eq!(senses.pace(ACME, ip(11), now), Pace::default(), "by address");
    }

    #[test]
    fn memory_is_bounded() {
        let thresholds = Thresholds { operators: 50, addresses: 4, ..Thresholds::default() };
        let (mut senses, now) = (Senses::new(thresholds), Instant::now());
        for n in 0..5_000_u32 {
            senses.learn("kept.example", ip(1), Verb::Rcpt, ms(20), now);
            senses.learn(&format!("{n}.example"), ip(1), Verb::Rcpt, ms(20), now);
        }
        (0..100).for_each(|n| senses.dialled("kept.example", ip(n), now));
        assert_eq!(senses.operators.len(), 50);
        assert_eq!(senses.operators["kept.example"].addresses.len(), 4, "who is used stays");
    }
}
