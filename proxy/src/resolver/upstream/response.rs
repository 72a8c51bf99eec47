//! What one response says of one name, and how far it is to be believed. Pure: what the library found of each record comes in.
//!
//! ```text
//!   Response ── here(name, kind) ─┬─ records of the kind ─┐ signed, insecure, or made from a wildcard: proven that nothing is closer?
//!                                 ├─ an alias ────────────┘
//!                                 └─ nothing: proven, insecure, or neither: bogus
//! ```
//!
//! hickory-dns validates each record, and most proofs that something is not there. Two things it leaves to us. Proofs by NSEC that an answer was made from
//! a wildcard it takes for forged ([`expansion`](super::expansion)). And where all of the authority section is insecure, it asks for no proof at all, whoever's records those
//! are: a stranger's unsigned SOA would make any signed record disappear. So a word of absence counts as insecure only if the records that excuse it
//! stand above the name.

use hickory_proto::{
    dnssec::{Proof, rdata::DNSSECRData},
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

use super::expansion::{nsec, proven, rrsig};

/// A response, with the library's proofs in its records.
#[derive(Debug, Clone)]
pub struct Response {
    /// The name asked for.
    pub asked: Name,
    /// NoError or NXDomain.
    pub code: ResponseCode,
    /// What is said to be there.
    pub answers: Vec<Record>,
    /// What is to prove that something is not.
    pub authorities: Vec<Record>,
    /// What the library says of what is not there.
    pub denial: Denial,
}

/// What the library says of what a response denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Nobody validates: nothing is secure.
    NotJudged,
    /// It has no objection.
    Accepted,
    /// It is not proven; this is what it comes to.
    Unproven(Proof),
}

/// What there is of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// Records of the kind.
    Records(Vec<Record>),
    /// An alias.
    Alias(Box<Record>),
    /// None; the SOA record that says so.
    NoData(Option<Record>),
    /// Not even the name.
    NoName(Option<Record>),
}

/// What does not validate, though its zone is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bogus;

impl Response {
    /// What there is of `kind` at the name that was asked for, and whether all of it was validated.
    pub fn first(&self, kind: RecordType) -> Result<(Here, bool), Bogus> {
        match self.positive(&self.asked, kind)? {
            Some((records, secure)) => Ok((here(records, kind), secure)),
            None => self.absence(),
        }
    }

    /// The same of a name that an alias led to. Only what stands for itself: what is denied, or made from a wildcard, has to be asked for by its name.
    #[must_use]
    pub fn further(&self, name: &Name, kind: RecordType) -> Option<(Here, bool)> {
        if self.expanded(name, kind).is_some() {
            return None;
        }
        let (records, secure) = self.positive(name, kind).ok()??;
        Some((here(records, kind), secure))
    }

    /// Records of `kind` at `name`, or else its alias.
    fn records(&self, name: &Name, kind: RecordType) -> Vec<&Record> {
        let of =
            |kind| self.answers.iter().filter(|record| record.name == *name && record.record_type() == kind).collect();
        let records: Vec<&Record> = of(kind);
        if records.is_empty() && kind != RecordType::CNAME { of(RecordType::CNAME) } else { records }
    }

    fn positive(&self, name: &Name, kind: RecordType) -> Result<Option<(Vec<Record>, bool)>, Bogus> {
        let records = self.records(name, kind);
        if records.is_empty() {
            return Ok(None);
        }
        let proof = |proof| records.iter().all(|record| record.proof == proof);
        let secure = match self.denial {
            Denial::NotJudged => false,
            _ if proof(Proof::Insecure) => false,
            _ if proof(Proof::Secure) => match self.expanded(name, kind) {
                None => true,
                Some(expanded) => self.nothing_closer(name, &expanded)?,
            },
            _ => return Err(Bogus),
        };
        Ok(Some((records.into_iter().cloned().collect(), secure)))
    }

    /// The wildcard that validated records at `name` were made from, if they were.
    fn expanded(&self, name: &Name, kind: RecordType) -> Option<Expanded> {
        let covered = self.records(name, kind).first()?.record_type();
        let signatures = self.answers.iter().filter(|record| record.name == *name).filter_map(|record| {
            let RData::DNSSEC(DNSSECRData::RRSIG(any)) = &record.data else { return None };
            (any.input().type_covered == covered).then_some((any.input(), rrsig(record).is_some()))
        });
        let all: Vec<_> = signatures.collect();
        let (input, _) = all.iter().find(|(input, used)| *used && input.num_labels < name.num_labels())?;
        Some(Expanded {
            labels: input.num_labels,
            signer: input.signer_name.clone(),
            // The library may have looked at another than the one that holds.
            ambiguous: all.iter().any(|(other, _)| other.num_labels != input.num_labels),
        })
    }

    /// Whether it is proven that no name closer than the wildcard exists; an error if it is neither that nor insecure.
    fn nothing_closer(&self, name: &Name, expanded: &Expanded) -> Result<bool, Bogus> {
        let hashed = self.authorities.iter().any(|record| {
            record.proof == Proof::Secure && matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC3(_)))
        });
        let plain = self.authorities.iter().any(|record| nsec(record).is_some());
        match self.denial {
            _ if plain => {
                proven(name, expanded.labels, &expanded.signer, &self.authorities).then_some(true).ok_or(Bogus)
            }
            Denial::Accepted if hashed && !expanded.ambiguous => Ok(true),
            // Opt-out, or more iterations than are counted.
            Denial::Unproven(Proof::Insecure) if hashed && !expanded.ambiguous => Ok(false),
            _ => Err(Bogus),
        }
    }

    fn absence(&self) -> Result<(Here, bool), Bogus> {
        let secure = match self.denial {
            Denial::NotJudged | Denial::Unproven(Proof::Insecure) => false,
            Denial::Unproven(_) => return Err(Bogus),
            Denial::Accepted => {
                let proves = |record: &Record| {
                    let denies = matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC(_) | DNSSECRData::NSEC3(_)));
                    denies && record.proof == Proof::Secure
                };
                let proven = self.authorities.iter().any(proves);
                if !proven && self.excused_by_a_stranger() {
                    return Err(Bogus);
                }
                proven
            }
        };
        let soa = self.authorities.iter().find(|record| record.record_type() == RecordType::SOA).cloned();
        Ok(match self.code {
            ResponseCode::NXDomain => (Here::NoName(soa), secure),
            _ => (Here::NoData(soa), secure),
        })
    }

    /// Whether the library asked for no proof, because all of the authority section is insecure, and none of that is above the name.
    fn excused_by_a_stranger(&self) -> bool {
        let insecure = |record: &Record| record.proof == Proof::Insecure;
        !self.authorities.is_empty()
            && self.authorities.iter().all(insecure)
            && !self.authorities.iter().any(|record| record.name.zone_of(&self.asked))
    }
}

/// A wildcard's records under another name.
struct Expanded {
    labels: u8,
    signer: Name,
    ambiguous: bool,
}

fn here(records: Vec<Record>, kind: RecordType) -> Here {
    match records.first() {
        Some(first) if first.record_type() != kind => Here::Alias(Box::new(first.clone())),
        _ => Here::Records(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, data: RData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 300, data);
        record.proof = proof;
        record
    }

    fn a(owner: &str, proof: Proof) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, 1)), proof)
    }

    fn soa(owner: &str, proof: Proof) -> Record {
        record(owner, RData::SOA(SOA::new(name("ns."), name("h."), 1, 1, 1, 1, 1)), proof)
    }

    fn response(answers: Vec<Record>, authorities: Vec<Record>, denial: Denial) -> Response {
        Response { asked: name("mx.example."), code: ResponseCode::NXDomain, answers, authorities, denial }
    }

    #[test]
    fn an_absence_is_excused_only_by_what_is_above_the_name() {
        let first = |authorities, denial| response(Vec::new(), authorities, denial).first(RecordType::A);
        for above in ["example.", "mx.example."] {
            let soa = soa(above, Proof::Insecure);
            assert_eq!(first(vec![soa.clone()], Denial::Accepted), Ok((Here::NoName(Some(soa)), false)), "{above}");
        }
        for stranger in ["insecure.", "other.example.", "x.mx.example."] {
            assert_eq!(first(vec![soa(stranger, Proof::Insecure)], Denial::Accepted), Err(Bogus), "{stranger}");
        }
        // The library looked for the zone's delegation itself.
        assert_eq!(first(Vec::new(), Denial::Accepted), Ok((Here::NoName(None), false)));
        assert_eq!(first(Vec::new(), Denial::NotJudged), Ok((Here::NoName(None), false)));
        assert_eq!(first(Vec::new(), Denial::Unproven(Proof::Insecure)), Ok((Here::NoName(None), false)));
        for proof in [Proof::Bogus, Proof::Indeterminate] {
            assert_eq!(first(vec![soa("example.", Proof::Insecure)], Denial::Unproven(proof)), Err(Bogus));
        }
    }

    #[test]
    fn records_are_what_the_library_found_of_them() {
        let first = |proof, denial| {
            let (here, secure) = response(vec![a("mx.example.", proof)], Vec::new(), denial).first(RecordType::A)?;
            assert!(matches!(here, Here::Records(_)));
            Ok(secure)
        };
        assert_eq!(first(Proof::Secure, Denial::Accepted), Ok(true));
        assert_eq!(first(Proof::Secure, Denial::Unproven(Proof::Bogus)), Ok(true), "it needs no denial");
        assert_eq!(first(Proof::Insecure, Denial::Accepted), Ok(false));
        assert_eq!(first(Proof::Secure, Denial::NotJudged), Ok(false));
        for proof in [Proof::Bogus, Proof::Indeterminate] {
            assert_eq!(first(proof, Denial::Accepted), Err(Bogus));
        }
    }

    #[test]
    fn an_alias_is_followed_in_the_same_response() {
        let alias = record("mx.example.", RData::CNAME(CNAME(name("host.example."))), Proof::Secure);
        let answers = vec![alias.clone(), a("host.example.", Proof::Insecure), a("stranger.example.", Proof::Secure)];
        let response = response(answers, Vec::new(), Denial::Accepted);
        assert_eq!(response.first(RecordType::A), Ok((Here::Alias(Box::new(alias.clone())), true)));
        assert_eq!(response.first(RecordType::CNAME), Ok((Here::Records(vec![alias]), true)));
        let (Here::Records(found), false) = response.further(&name("host.example."), RecordType::A).unwrap() else {
            panic!("not found")
        };
        assert_eq!(found.len(), 1);
        assert_eq!(response.further(&name("nothing.example."), RecordType::A), None, "asked for by its name");
    }
}
