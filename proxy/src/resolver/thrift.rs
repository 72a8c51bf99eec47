//! How much a cell can say in the names that it asks for. Pure: time comes in.
//!
//! DNS leads out of every cell, and a question is a message to whoever runs the domain: `<32 bytes of a secret>.exfil.example`. An MSA asks for the
//! names of mail; somebody who tunnels asks for ever new ones below one domain. So the bytes of distinct names below one registrable domain are bounded, in each
//! minute, and so are those of all together. What remains is a trickle. Names of hosts that an answer named are not counted: the asker did not make
//! them up (a provider's million customers may each have an MX name of their own).

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use crate::egress::Operator;

/// Bytes of distinct names below one domain: some 500 recipient domains of one parent, or lookups in one block list.
pub const MAX_BELOW_ONE: usize = 16 * 1024;
/// Bytes of all distinct names: some 10,000 recipient domains.
pub const MAX_TOGETHER: usize = 256 * 1024;
/// In which time.
const SPAN: Duration = Duration::from_secs(60);

/// What one cell has said lately.
#[derive(Debug)]
pub struct Thrift {
    since: Instant,
    hasher: RandomState,
    seen: HashSet<u64>,
    below: HashMap<String, Account>,
    together: usize,
    /// That the bound of all together was hit has been said.
    full: bool,
}

#[derive(Debug, Default)]
struct Account {
    bytes: usize,
    refused: bool,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is asked.
    Ask,
    /// It is not.
    Refuse,
    /// It is not, and for the first time of this domain in this minute.
    RefuseFirst(String),
}

impl Thrift {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let hasher = RandomState::new();
        Self { since: now, hasher, seen: HashSet::new(), below: HashMap::new(), together: 0, full: false }
    }

    /// Judges a question for `name`, which is in lower case and without a dot at its end.
    pub fn ask(&mut self, name: &str, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.since) >= SPAN {
            *self = Self::new(now);
        }
        let hash = self.hasher.hash_one(name);
        if self.seen.contains(&hash) {
            return Verdict::Ask;
        }
        // With its dots and its terminator, as on the wire: the root, too, is something said.
        let bytes = name.len() + 1;
        let domain = registrable(name);
        let refuse = |said: &mut bool, domain| {
            if std::mem::replace(said, true) { Verdict::Refuse } else { Verdict::RefuseFirst(domain) }
        };
        if self.together + bytes > MAX_TOGETHER {
            return refuse(&mut self.full, domain);
        }
        let account = self.below.entry(domain.clone()).or_default();
        if account.bytes + bytes > MAX_BELOW_ONE {
            return refuse(&mut account.refused, domain);
        }
        account.bytes += bytes;
        self.together += bytes;
        self.seen.insert(hash);
        Verdict::Ask
    }
}

/// What has no name of a host is one domain.
fn registrable(name: &str) -> String {
    Operator::of(Some(name), IpAddr::V4(Ipv4Addr::UNSPECIFIED)).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_msa_at_work_is_never_refused() {
        let now = Instant::now();
        let mut thrift = Thrift::new(now);
        for n in 0..5_000 {
            // MX, A, AAAA, each twice.
            for _ in 0..6 {
                assert_eq!(thrift.ask(&format!("customer{n}.example"), now), Verdict::Ask);
            }
        }
        for n in 0..300 {
            assert_eq!(thrift.ask(&format!("department{n}.company.example.org"), now), Verdict::Ask);
        }
    }

    #[test]
    fn a_tunnel_is_a_trickle() {
        let mut now = Instant::now();
        let mut thrift = Thrift::new(now);
        let mut said = 0;
        let mut firsts = 0;
        for n in 0..30_000 {
            now += Duration::from_millis(2);
            let name = format!("{n:032x}.exfil.example.org");
            match thrift.ask(&name, now) {
                Verdict::Ask => said += name.len(),
                Verdict::Refuse => {}
                Verdict::RefuseFirst(domain) => {
                    assert_eq!(domain, "example.org");
                    firsts += 1;
                }
            }
        }
        assert_eq!(firsts, 1, "one line in the log for a minute");
        assert!(said <= 2 * MAX_BELOW_ONE && said > MAX_BELOW_ONE / 2, "{said}");
        assert_eq!(thrift.ask("www.example.com", now), Verdict::Ask, "others are not concerned");
        now += SPAN;
        assert_eq!(thrift.ask("0.exfil.example.org", now), Verdict::Ask);
    }

    #[test]
    fn nor_is_it_more_over_many_domains() {
        let now = Instant::now();
        let mut thrift = Thrift::new(now);
        let names = (0..20_000).map(|n| format!("{n:032x}.exfil{n}.example"));
        let said: usize = names.filter(|name| thrift.ask(name, now) == Verdict::Ask).map(|name| name.len()).sum();
        assert!(said <= MAX_TOGETHER && thrift.below.len() < MAX_TOGETHER / 32, "{said}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_names_exceed_the_bounds(names in proptest::collection::vec("[a-c._@]{0,60}", 0..2_000)) {
            let now = Instant::now();
            let mut thrift = Thrift::new(now);
            let mut said = HashSet::new();
            for name in &names {
                if thrift.ask(name, now) == Verdict::Ask {
                    said.insert(name);
                }
            }
            let mut below: HashMap<String, usize> = HashMap::new();
            said.iter().for_each(|name| *below.entry(registrable(name)).or_default() += name.len());
            prop_assert!(below.values().all(|bytes| *bytes <= MAX_BELOW_ONE));
        }
    }
}
