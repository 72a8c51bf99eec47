//! Zones of all shapes, and somebody who passes on whichever of their signed words he likes: never is a signed delegation, or what is below it, proven to be
//! unsigned; and whoever passes on all of them proves those that are.

use std::collections::BTreeMap;

use hickory_proto::{
    dnssec::{
        Nsec3HashAlgorithm,
        rdata::{DNSSECRData, NSEC, NSEC3},
    },
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use proptest::prelude::*;

use super::{
    cuts::{Cut, judge},
    response::{Denial, Response},
    samples::{name, signed},
};

const ZONE: &str = "zone.";
const LABELS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Signed,
    Unsigned,
    Plain,
}

/// How the zone denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denies {
    Nsec,
    Hashed,
    /// Unsigned delegations are left out.
    OptOut,
}

/// Every name of one to three labels.
fn all() -> Vec<Name> {
    let mut names: Vec<Name> = vec![name(ZONE)];
    let mut last = names.clone();
    for _ in 0..3 {
        last = last.iter().flat_map(|above| LABELS.map(|label| above.prepend_label(label).unwrap())).collect();
        names.extend(last.iter().cloned());
    }
    names.split_off(1)
}

/// What is in the zone, and nothing below its delegations.
#[derive(Debug, Clone)]
struct Zone(BTreeMap<Name, There>);

impl Zone {
    fn of(picked: Vec<(usize, There)>) -> Self {
        let all = all();
        let mut zone = Self(picked.into_iter().map(|(n, there)| (all[n % all.len()].clone(), there)).collect());
        let below: Vec<Name> = zone.0.keys().filter(|name| zone.cut_above(name).is_some()).cloned().collect();
        below.iter().for_each(|name| _ = zone.0.remove(name));
        zone
    }

    /// The delegation strictly above a name that is closest to the zone.
    fn cut_above(&self, name: &Name) -> Option<There> {
        let above = (1..name.iter().count()).map(|labels| self.0.get(&name.trim_to(labels)));
        above.flatten().find(|there| **there != There::Plain).copied()
    }

    /// All that it has signed to deny things with.
    fn words(&self, denies: Denies) -> Vec<Vec<Record>> {
        let left_out = |there: There| denies == Denies::OptOut && there == There::Unsigned;
        let mut types = BTreeMap::from([(name(ZONE), vec![RecordType::NS, RecordType::SOA])]);
        for (name, there) in self.0.iter().filter(|(_, there)| !left_out(**there)) {
            types.insert(
                name.clone(),
                match there {
                    There::Signed => vec![RecordType::NS, RecordType::DS],
                    There::Unsigned => vec![RecordType::NS],
                    There::Plain => vec![RecordType::A],
                },
            );
            // NSEC has no records at empty names.
            for labels in (1..name.iter().count()).filter(|_| denies != Denies::Nsec) {
                types.entry(name.trim_to(labels)).or_default();
            }
        }
        match denies {
            Denies::Nsec => chain(types.into_iter().collect(), |next, (owner, types)| {
                let nsec = NSEC::new(next.0.clone(), types.iter().copied());
                (owner.clone(), DNSSECRData::NSEC(nsec))
            }),
            Denies::Hashed | Denies::OptOut => {
                let hashed = types.into_iter().map(|(name, types)| (hash(&name), types)).collect::<BTreeMap<_, _>>();
                chain(hashed.into_iter().collect(), |next, (hash, types)| {
                    let nsec3 = |next: &[u8]| {
                        let opt_out = denies == Denies::OptOut;
                        NSEC3::new(
                            Nsec3HashAlgorithm::SHA1,
                            opt_out,
                            0,
                            Vec::new(),
                            next.to_vec(),
                            types.iter().copied(),
                        )
                    };
                    let label = nsec3(hash).next_hashed_owner_name_base32().unwrap().to_string();
                    (name(&format!("{label}.{ZONE}")), DNSSECRData::NSEC3(nsec3(&next.0)))
                })
            }
        }
    }
}

fn hash(name: &Name) -> Vec<u8> {
    Nsec3HashAlgorithm::SHA1.hash(&[], name, 0).unwrap().as_ref().to_vec()
}

/// Each with the one behind it, the last with the first.
fn chain<T>(all: Vec<T>, word: impl Fn(&T, &T) -> (Name, DNSSECRData)) -> Vec<Vec<Record>> {
    let next = all.iter().cycle().skip(1);
    let words = all.iter().zip(next).map(|(this, next)| word(next, this));
    words.map(|(owner, data)| signed(&owner.to_ascii(), RData::DNSSEC(data), owner.num_labels(), ZONE)).collect()
}

fn judged(asked: &Name, words: &[Vec<Record>]) -> Cut {
    let authorities = words.concat();
    let (asked, answers) = (asked.clone(), Vec::new());
    let response = Response { asked, code: ResponseCode::NoError, answers, authorities, denial: Denial::Accepted };
    judge(&response.asked, &name(ZONE), &response)
}

fn there() -> impl Strategy<Value = There> {
    prop_oneof![Just(There::Signed), Just(There::Unsigned), Just(There::Plain)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_signed_is_never_proven_unsigned(
        picked in prop::collection::vec((0..39_usize, there()), 0..12),
        denies in prop_oneof![Just(Denies::Nsec), Just(Denies::Hashed), Just(Denies::OptOut)],
        passed in prop::collection::vec(any::<bool>(), 40),
    ) {
        let zone = Zone::of(picked);
        let words = zone.words(denies);
        let some: Vec<_> = words.iter().zip(&passed).filter(|(_, passed)| **passed).map(|(word, _)| word.clone()).collect();
        for asked in all() {
            let (here, above) = (zone.0.get(&asked).copied(), zone.cut_above(&asked));
            let (of_some, of_all) = (judged(&asked, &some), judged(&asked, &words));
            prop_assert!(of_some == Cut::Unproven || of_all == of_some, "{asked}: more words, another verdict");
            match (here.filter(|_| above.is_none()), above) {
                (Some(There::Signed | There::Plain), _) | (None, Some(There::Signed)) => {
                    prop_assert_eq!(of_all, Cut::Unproven, "{} {:?}", asked, words);
                }
                (Some(There::Unsigned), _) => prop_assert_eq!(of_all, Cut::Unsigned, "{} {:?}", asked, words),
                // Trust ended further up.
                (None, Some(_)) => {}
                // What is left out may be anywhere where nothing is known to be.
                (None, None) => {
                    let known = |(name, there): (&Name, &There)| *there != There::Unsigned && asked.zone_of(name);
                    if denies != Denies::OptOut || zone.0.iter().any(known) {
                        prop_assert_eq!(of_all, Cut::Unproven, "{} {:?}", asked, words);
                    }
                }
            }
        }
    }
}
