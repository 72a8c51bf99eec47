//! What is usual, kept over restarts: an operator's pace is learned in days, and a proxy that begins anew would take a tarpit for how things are.
//!
//! What was heard within the last hour is left out: that is compared with other addresses, and a restart makes nobody slow.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Clock, Curve, Senses, Usual, Verb, senses::Address};

/// Addresses at operators that are kept, the last used: about a megabyte.
pub const MOST_BASELINES: usize = 4_096;
/// What nobody heard of for so long is not kept: operators move.
const OLDEST: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What is usual for one of our addresses at one operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Whose MX hosts.
    pub operator: String,
    /// From which address.
    pub egress: IpAddr,
    /// What is usual for each verb that was heard of, under its word in records.
    pub verbs: BTreeMap<String, Usual>,
}

impl Senses {
    /// What to keep: the address that was used last first, and of all no more than [`MOST_BASELINES`].
    #[must_use]
    pub fn baselines(&self, clock: Clock) -> Vec<Baseline> {
        let mut all: Vec<_> = self.addresses().collect();
        all.sort_unstable_by_key(|(_, address)| std::cmp::Reverse(address.used));
        let kept = all.into_iter().filter_map(|(operator, address)| {
            let verbs = kept_curves(address, clock);
            (!verbs.is_empty()).then(|| Baseline { operator: operator.to_owned(), egress: address.egress, verbs })
        });
        kept.take(MOST_BASELINES).collect()
    }

    /// Takes over what was kept; what is known already stays. Says how many there is no sense in.
    pub fn remember(&mut self, mut baselines: Vec<Baseline>, clock: Clock) -> usize {
        // What was used last comes last, and is forgotten last.
        baselines.sort_by_key(|baseline| baseline.verbs.values().map(|usual| usual.heard_unix_s).max());
        let mut senseless = 0;
        for Baseline { operator, egress, verbs } in baselines {
            for (word, kept) in verbs.iter().filter(|(_, kept)| clock.ago(kept.heard_unix_s) <= OLDEST) {
                match Verb::of(word).zip(Curve::from_kept(kept, clock)) {
                    Some((verb, curve)) => {
                        let known = &mut self.address(&operator, egress).curves[verb as usize];
                        if known.kept(clock).is_none() {
                            *known = curve;
                        }
                    }
                    None => senseless += 1,
                }
            }
        }
        senseless
    }
}

fn kept_curves(address: &Address, clock: Clock) -> BTreeMap<String, Usual> {
    let kept = Verb::ALL.into_iter().zip(&address.curves).filter_map(|(verb, curve)| {
        let kept = curve.kept(clock).filter(|kept| clock.ago(kept.heard_unix_s) <= OLDEST)?;
        Some((verb.word().to_owned(), kept))
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Thresholds;

    const ACME: &str = "acme.example";

    fn ip(n: u8) -> IpAddr {
        [203, 0, 113, n].into()
    }

    fn taught(clock: Clock) -> Senses {
        let mut senses = Senses::default();
        for _ in 0..10 {
            senses.learn(ACME, ip(10), Verb::Rcpt, Duration::from_millis(50), clock.now);
            senses.learn("slow.example", ip(11), Verb::Greeting, Duration::from_secs(6), clock.now);
        }
        senses
    }

    #[test]
    fn what_is_usual_is_known_after_a_restart() {
        let clock = Clock::current();
        let slow = Duration::from_secs(3);
        let kept = serde_json::to_string(&taught(clock).baselines(clock)).unwrap();
        let mut again = Senses::default();
        assert!(!again.is_slow(ACME, Verb::Rcpt, slow), "of strangers that is not slow");
        assert_eq!(again.remember(serde_json::from_str(&kept).unwrap(), clock), 0);
        assert!(again.is_slow(ACME, Verb::Rcpt, slow));
        assert!(!again.is_slow("slow.example", Verb::Greeting, Duration::from_secs(15)), "as ever there");
        assert_eq!(again.compare(ACME, ip(10), clock.now), None, "what was recent is not kept");
        assert_eq!(again.baselines(clock).len(), 2, "and is kept again");
    }

    #[test]
    fn what_is_known_already_stays() {
        let clock = Clock::current();
        let kept = taught(clock).baselines(clock);
        let mut senses = Senses::default();
        for _ in 0..10 {
            senses.learn(ACME, ip(10), Verb::Rcpt, Duration::from_millis(200), clock.now);
        }
        assert_eq!(senses.remember(kept, clock), 0);
        assert!(senses.usual(ACME, Verb::Rcpt).is_some_and(|usual| usual.as_millis() >= 190));
    }

    #[test]
    fn what_is_old_or_makes_no_sense_is_left_out() {
        let clock = Clock::current();
        let senses = taught(clock);
        let past = OLDEST + Duration::from_secs(3_601);
        assert!(senses.baselines(Clock { now: clock.now + past, wall: clock.wall + past }).is_empty());
        let mut kept = senses.baselines(clock);
        assert_eq!(Senses::default().remember(kept.clone(), Clock { wall: clock.wall + past, ..clock }), 0);
        let [first, second] = &mut kept[..] else { panic!("{kept:?}") };
        first.verbs.values_mut().for_each(|usual| usual.scatter = f32::NAN);
        let (_, usual) = second.verbs.pop_first().unwrap();
        second.verbs.insert("NOOP".into(), usual);
        let mut again = Senses::default();
        assert_eq!(again.remember(kept, clock), 2);
        assert!(again.baselines(clock).is_empty());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let thresholds = Thresholds { operators: MOST_BASELINES + 100, ..Thresholds::default() };
        let (mut senses, clock) = (Senses::new(thresholds), Clock::current());
        for n in 0..MOST_BASELINES + 100 {
            senses.learn(&format!("{n}.example"), ip(1), Verb::Rcpt, Duration::from_millis(20), clock.now);
        }
        let kept = senses.baselines(clock);
        assert_eq!(kept.len(), MOST_BASELINES);
        assert_eq!(kept[0].operator, format!("{}.example", MOST_BASELINES + 99), "the last used");
    }
}
