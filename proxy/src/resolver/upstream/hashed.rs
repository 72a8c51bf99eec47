//! Proofs by NSEC3 about one name: what is there, what is not, and what may be there unseen (RFC 5155 §8). Pure.

use hickory_proto::{
    dnssec::rdata::NSEC3,
    rr::{Name, Record},
};

use super::expansion::{hashed, nsec3, spans};

/// The NSEC3 records of one zone that are hashed alike (RFC 5155 §8.2), so that a name is hashed once, however many there are.
pub(super) struct Hashed<'a>(Vec<(&'a Name, &'a NSEC3)>);

/// What these records prove of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proven<'a> {
    /// It is there, or may be: this record is of its name.
    Match(&'a NSEC3),
    /// It is no name of the zone, unless of a delegation without DS records: the next closer lies in what is left out.
    LeftOut,
    /// Neither.
    Nothing,
}

impl<'a> Hashed<'a> {
    pub(super) fn of(words: impl Iterator<Item = &'a Record>) -> Self {
        let mut all: Vec<_> = words.filter_map(|record| Some((&record.name, nsec3(record)?))).collect();
        if let Some((_, first)) = all.first().copied() {
            let way = |nsec3: &NSEC3| (nsec3.hash_algorithm(), nsec3.iterations(), nsec3.salt().to_vec());
            all.retain(|(_, nsec3)| way(nsec3) == way(first));
        }
        Self(all)
    }

    fn hash(&self, name: &Name) -> Option<Vec<u8>> {
        hashed(name, self.0.first()?.1)
    }

    fn matching(&self, hash: &[u8]) -> Option<&'a NSEC3> {
        let of = |owner: &Name| owner.iter().next().is_some_and(|label| label.eq_ignore_ascii_case(hash));
        self.0.iter().find(|(owner, _)| of(owner)).map(|(_, nsec3)| *nsec3)
    }

    /// Whether `zone` leaves anything out.
    pub(super) fn opts_out(&self) -> bool {
        self.0.iter().any(|(_, nsec3)| nsec3.opt_out())
    }

    /// What is proven of a name below `zone`: some name above it is the closest that exists, and the next closer is left out. A name at a cut is no such name:
    /// what is below it is another zone's (RFC 5155 §8.3, RFC 6840 §4.1).
    pub(super) fn proves(&self, name: &Name, zone: &Name) -> Proven<'a> {
        let Some(hash) = self.hash(name) else { return Proven::Nothing };
        if let Some(nsec3) = self.matching(&hash) {
            return Proven::Match(nsec3);
        }
        let mut closer = hash;
        let all = name.iter().count();
        for labels in (zone.iter().count()..all).rev() {
            let encloser = name.trim_to(labels);
            let hash = if encloser == *zone { None } else { self.hash(&encloser) };
            let exists = match hash.as_ref().and_then(|hash| self.matching(hash)) {
                Some(nsec3) => !nsec3.is_ancestor_delegation(),
                None => encloser == *zone,
            };
            if exists {
                let left_out = self.0.iter().any(|(owner, nsec3)| nsec3.opt_out() && spans(&closer, owner, nsec3));
                return if left_out { Proven::LeftOut } else { Proven::Nothing };
            }
            closer = match hash {
                Some(hash) => hash,
                None => return Proven::Nothing,
            };
        }
        Proven::Nothing
    }
}
