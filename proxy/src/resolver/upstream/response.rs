//! What one response says of one name, and how far it is to be believed. Pure: what the library found of each record comes in.
//!
//! ```text
//!   Response ── here(name, kind) ─┬─ records of the kind ─┐ signed, insecure, or made from a wildcard: proven that nothing is closer?
//!                                 ├─ an alias ────────────┘
//!                                 └─ nothing: proven, insecure, or neither: bogus
//! ```
//!
//! hickory-dns validates each record, and most proofs that something is not there. Three things it leaves to us. That an answer was made from a wildcard, it
//! judges wrongly ([`expansion`](super::expansion)). That something is not signed, it believes too easily, and then asks for no proof at all: so whatever it says so of is
//! only [claimed](Trust::Claimed) to be unsigned, which [`cuts`](super::cuts) judges. And it does not ask whose word a proof is: `evil.aaa NSEC zzz.zz`, well signed, lies
//! around everybody's names. So all of a proof has to be of one zone above the name.

use hickory_proto::{
    dnssec::Proof,
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};

use super::{
    expansion::{ITERATIONS, nsec, nsec3, proven, proven_hashed, rrsig, word_of},
    hashed::{Hashed, Proven},
};

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
    /// Nothing: trust ends above the name, so it was not asked.
    Unsigned,
    /// It has no objection.
    Accepted,
    /// It is not proven.
    Unproven,
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

/// How far what was found is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// All of it was validated.
    Secure,
    /// It counts as unsigned, for certain: nobody validates, or its own zone proves no more than that.
    Insecure,
    /// The library takes it for unsigned. It is, if trust ends above the name.
    Claimed,
}

/// What does not validate, though its zone is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bogus;

impl Response {
    /// What there is of `kind` at the name that was asked for, and how far it is to be believed.
    pub fn first(&self, kind: RecordType) -> Result<(Here, Trust), Bogus> {
        match self.positive(&self.asked, kind)? {
            Some((records, trust)) => Ok((here(records, kind), trust)),
            None => self.absence(),
        }
    }

    /// The same of a name that an alias led to. Only what stands for itself: what is denied, or made from a wildcard, has to be asked for by its name; and so has
    /// what an alias in an unsigned zone leads to, which may be signed.
    #[must_use]
    pub fn further(&self, name: &Name, kind: RecordType) -> Option<(Here, Trust)> {
        if self.denial == Denial::Unsigned || self.expanded(name, kind).is_some() {
            return None;
        }
        let (records, trust) = self.positive(name, kind).ok()??;
        Some((here(records, kind), trust))
    }

    /// Records of `kind` at `name`, or else its alias.
    fn records(&self, name: &Name, kind: RecordType) -> Vec<&Record> {
        let of =
            |kind| self.answers.iter().filter(|record| record.name == *name && record.record_type() == kind).collect();
        let records: Vec<&Record> = of(kind);
        if records.is_empty() && kind != RecordType::CNAME { of(RecordType::CNAME) } else { records }
    }

    fn positive(&self, name: &Name, kind: RecordType) -> Result<Option<(Vec<Record>, Trust)>, Bogus> {
        let records = self.records(name, kind);
        if records.is_empty() {
            return Ok(None);
        }
        let proof = |proof| records.iter().all(|record| record.proof == proof);
        let trust = match self.denial {
            Denial::NotJudged | Denial::Unsigned => Trust::Insecure,
            _ if proof(Proof::Insecure) => Trust::Claimed,
            _ if proof(Proof::Secure) => match self.expanded(name, kind) {
                None => Trust::Secure,
                Some(expanded) => self.nothing_closer(name, &expanded)?,
            },
            _ => return Err(Bogus),
        };
        Ok(Some((records.into_iter().cloned().collect(), trust)))
    }

    /// The wildcard that validated records at `name` were made from, if they were.
    fn expanded(&self, name: &Name, kind: RecordType) -> Option<Expanded> {
        let covered = self.records(name, kind).first()?.record_type();
        let used =
            self.answers.iter().filter(|record| record.name == *name).filter_map(rrsig).map(|rrsig| rrsig.input());
        let mut made = used.filter(|input| input.type_covered == covered && input.num_labels < name.num_labels());
        made.next().map(|input| Expanded { labels: input.num_labels, signer: input.signer_name.clone() })
    }

    /// Whether it is proven that no name closer than the wildcard exists; an error if it is neither that nor insecure.
    fn nothing_closer(&self, name: &Name, expanded: &Expanded) -> Result<Trust, Bogus> {
        let Expanded { labels, signer } = expanded;
        if proven(name, *labels, signer, &self.authorities) {
            return Ok(Trust::Secure);
        }
        proven_hashed(name, *labels, signer, &self.authorities).map(Trust::of_signed).ok_or(Bogus)
    }

    fn absence(&self) -> Result<(Here, Trust), Bogus> {
        let trust = match self.denial {
            Denial::NotJudged | Denial::Unsigned => Trust::Insecure,
            Denial::Unproven => return Err(Bogus),
            Denial::Accepted if self.denying().next().is_some() => Trust::of_signed(self.denied()?),
            Denial::Accepted => Trust::Claimed,
        };
        let soa = self.authorities.iter().find(|record| record.record_type() == RecordType::SOA).cloned();
        Ok(match self.code {
            ResponseCode::NXDomain => (Here::NoName(soa), trust),
            _ => (Here::NoData(soa), trust),
        })
    }

    /// What is validated and denies something.
    fn denying(&self) -> impl Iterator<Item = &Record> {
        self.authorities.iter().filter(|record| nsec(record).is_some() || nsec3(record).is_some())
    }

    /// Whether what the library holds to be proven absent is secure; an error unless all of the proof is the word of one zone above the name, whose SOA record
    /// says which. A parent can be that zone: the library lets it deny nothing at or below a cut of its own.
    fn denied(&self) -> Result<bool, Bogus> {
        let mut soas = self.authorities.iter().filter(|record| record.record_type() == RecordType::SOA);
        let zone = &soas.clone().next().ok_or(Bogus)?.name;
        let theirs = |record| word_of(zone, record, &self.authorities);
        // Signatures of records that nobody asked for would tell the library of a wildcard.
        if !(soas.all(theirs) && self.denying().all(theirs) && zone.zone_of(&self.asked) && self.answers.is_empty()) {
            return Err(Bogus);
        }
        let few = self.denying().filter_map(nsec3).all(|nsec3| nsec3.iterations() <= ITERATIONS);
        Ok(few && !self.left_out(zone))
    }

    /// Whether an unsigned delegation could be where nothing is proven to be: what is denied then is not authenticated (RFC 5155 §9.2).
    fn left_out(&self, zone: &Name) -> bool {
        let hashed = Hashed::of(self.denying());
        hashed.opts_out() && hashed.proves(&self.asked, zone) == Proven::LeftOut
    }
}

impl Trust {
    /// Of what is signed, and proven or only as good as unsigned.
    fn of_signed(proven: bool) -> Self {
        if proven { Self::Secure } else { Self::Insecure }
    }
}

/// A wildcard's records under another name.
struct Expanded {
    labels: u8,
    signer: Name,
}

fn here(records: Vec<Record>, kind: RecordType) -> Here {
    match records.first() {
        Some(first) if first.record_type() != kind => Here::Alias(Box::new(first.clone())),
        _ => Here::Records(records),
    }
}

#[cfg(test)]
mod tests {
    use super::{Trust::*, *};
    use crate::resolver::upstream::samples::{
        name, record, signed, signed_nsec, signed_nsec3, signed_nsec3_at, signed_soa, soa,
    };
    use hickory_proto::rr::{
        RData,
        rdata::{A, CNAME},
    };

    fn a(owner: &str, proof: Proof) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, 1)), proof)
    }

    fn response(answers: Vec<Record>, authorities: Vec<Record>, denial: Denial) -> Response {
        Response { asked: name("mx.example."), code: ResponseCode::NXDomain, answers, authorities, denial }
    }

    #[test]
    fn an_absence_without_proof_is_only_claimed() {
        let first = |authorities, denial| response(Vec::new(), authorities, denial).first(RecordType::A);
        for whoever in ["example.", "mx.example.", "insecure.", "x.mx.example."] {
            let soa = soa(whoever, Proof::Insecure);
            let claimed = Ok((Here::NoName(Some(soa.clone())), Claimed));
            assert_eq!(first(vec![soa], Denial::Accepted), claimed, "{whoever}");
        }
        assert_eq!(first(Vec::new(), Denial::Accepted), Ok((Here::NoName(None), Claimed)));
        assert_eq!(first(Vec::new(), Denial::NotJudged), Ok((Here::NoName(None), Insecure)));
        assert_eq!(first(vec![soa("example.", Proof::Insecure)], Denial::Unproven), Err(Bogus));
    }

    #[test]
    fn records_are_what_the_library_found_of_them() {
        let first = |proof, denial| {
            let (here, trust) = response(vec![a("mx.example.", proof)], Vec::new(), denial).first(RecordType::A)?;
            assert!(matches!(here, Here::Records(_)));
            Ok(trust)
        };
        assert_eq!(first(Proof::Secure, Denial::Accepted), Ok(Secure));
        assert_eq!(first(Proof::Secure, Denial::Unproven), Ok(Secure), "it needs no denial");
        assert_eq!(first(Proof::Insecure, Denial::Accepted), Ok(Claimed));
        assert_eq!(first(Proof::Secure, Denial::NotJudged), Ok(Insecure));
        assert_eq!(first(Proof::Bogus, Denial::Unsigned), Ok(Insecure));
        for proof in [Proof::Bogus, Proof::Indeterminate] {
            assert_eq!(first(proof, Denial::Accepted), Err(Bogus));
        }
    }

    #[test]
    fn an_alias_is_followed_in_the_same_response() {
        let alias = record("mx.example.", RData::CNAME(CNAME(name("host.example."))), Proof::Secure);
        let answers = vec![alias.clone(), a("host.example.", Proof::Insecure), a("stranger.example.", Proof::Secure)];
        let response = response(answers, Vec::new(), Denial::Accepted);
        assert_eq!(response.first(RecordType::A), Ok((Here::Alias(Box::new(alias.clone())), Secure)));
        assert_eq!(response.first(RecordType::CNAME), Ok((Here::Records(vec![alias]), Secure)));
        let (Here::Records(found), Claimed) = response.further(&name("host.example."), RecordType::A).unwrap() else {
            panic!("not found")
        };
        assert_eq!(found.len(), 1);
        let unsigned = Response { denial: Denial::Unsigned, ..response.clone() };
        assert_eq!(unsigned.further(&name("host.example."), RecordType::A), None, "it may be signed where that is");
        assert_eq!(response.further(&name("nothing.example."), RecordType::A), None, "asked for by its name");
    }

    /// What comes of it if this is to prove that there is no `_25._tcp.mx.victim.com`.
    fn absent(code: ResponseCode, parts: &[Vec<Record>]) -> Result<Trust, Bogus> {
        let asked = name("_25._tcp.mx.victim.com.");
        let (answers, authorities) = (Vec::new(), parts.concat());
        let response = Response { asked, code, answers, authorities, denial: Denial::Accepted };
        response.first(RecordType::TLSA).map(|(_, trust)| trust)
    }

    #[test]
    fn a_strangers_nsec_proves_no_absence() {
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let own = signed_nsec("mx.victim.com.", "ns.victim.com.", "victim.com.");
            assert_eq!(absent(code, &[own.clone(), signed_soa("victim.com.")]), Ok(Secure));
            assert_eq!(absent(code, std::slice::from_ref(&own)), Err(Bogus), "no SOA record, so no zone");
            for (owner, next, signer, why) in [
                ("evil.aaa.", "zzz.zz.", "aaa.", "a stranger's"),
                ("evil.aaa.", "x._25._tcp.mx.victim.com.", "aaa.", "a stranger's, as if there were something below"),
                ("evil.com.", "zz.com.", "evil.com.", "a neighbour's"),
                ("a.victim.com.", "zzz.zz.", "victim.com.", "beyond the zone"),
            ] {
                let alone = signed_nsec(owner, next, signer);
                assert_eq!(absent(code, std::slice::from_ref(&alone)), Err(Bogus), "{why}");
                for soa in ["victim.com.", "com.", signer] {
                    assert_eq!(absent(code, &[alone.clone(), signed_soa(soa)]), Err(Bogus), "{why}, with {soa}");
                }
                assert_eq!(absent(code, &[own.clone(), alone, signed_soa("victim.com.")]), Err(Bogus), "{why}, too");
            }
            let two = [own, signed_soa("victim.com."), signed_soa("com.")];
            assert_eq!(absent(code, &two), Err(Bogus), "two zones");
        }
    }

    #[test]
    fn a_strangers_nsec3_proves_no_absence_however_many_its_iterations() {
        let covered = "_25._tcp.mx.victim.com.";
        for iterations in [0, 100, 150, 500] {
            let own = signed_nsec3(covered, "victim.com.", iterations, false);
            let trust = if iterations <= 100 { Secure } else { Insecure };
            assert_eq!(absent(ResponseCode::NXDomain, &[own.clone(), signed_soa("victim.com.")]), Ok(trust));
            for zone in ["aaa.", "evil.com.", "sub.mx.victim.com."] {
                let theirs = signed_nsec3(covered, zone, iterations, false);
                for soa in ["victim.com.", zone] {
                    let proof = [theirs.clone(), signed_soa(soa)];
                    assert_eq!(absent(ResponseCode::NXDomain, &proof), Err(Bogus), "{zone} with {soa}");
                }
                assert_eq!(absent(ResponseCode::NXDomain, &[theirs, own.clone()]), Err(Bogus), "{zone}");
            }
        }
    }

    #[test]
    fn what_may_be_left_out_is_not_proven_absent() {
        let zone = "victim.com.";
        let (encloser, closer) = ("mx.victim.com.", "_tcp.mx.victim.com.");
        // All records of such a zone say that it leaves something out, those of names that are there, too.
        let at = |owner: &str| signed_nsec3_at(owner, zone, &[RecordType::A]);
        let left_out = |covered: &str, opt_out| signed_nsec3(covered, zone, 0, opt_out);
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            for (proof, trust, why) in [
                (vec![at(encloser), left_out(closer, true)], Insecure, "there may be a delegation"),
                (vec![at(encloser), left_out(closer, false)], Secure, "there is none"),
                (vec![left_out("mx.victim.com.", true)], Insecure, "next to the zone itself"),
                (vec![at("_25._tcp.mx.victim.com.")], Secure, "the name is there, and has no such records"),
                (vec![at(encloser), left_out(closer, false), left_out("*.mx.victim.com.", true)], Secure, "a wildcard"),
            ] {
                let proof = [proof.concat(), signed_soa(zone)];
                assert_eq!(absent(code, &proof), Ok(trust), "{code:?}, {why}");
            }
        }
    }

    #[test]
    fn a_proof_of_absence_has_nothing_in_its_answer() {
        let authorities = [signed_nsec3("mx.victim.com.", "com.", 0, false), signed_soa("com.")].concat();
        let answers = signed("a.b.evil.test.", RData::A(A::new(192, 0, 2, 1)), 2, "evil.test.");
        let asked = name("_25._tcp.mx.victim.com.");
        let response = Response { asked, code: ResponseCode::NoError, answers, authorities, denial: Denial::Accepted };
        assert_eq!(response.first(RecordType::TLSA), Err(Bogus), "the library looked for what is covered");
    }

    #[test]
    fn only_the_zone_of_a_wildcard_proves_by_nsec3_that_nothing_is_closer() {
        let first = |authorities: Vec<Record>, denial| {
            let asked = name("mx.victim.com.");
            let answers = signed("mx.victim.com.", RData::A(A::new(192, 0, 2, 1)), 2, "victim.com.");
            let response = Response { asked, code: ResponseCode::NoError, answers, authorities, denial };
            response.first(RecordType::A).map(|(_, trust)| trust)
        };
        for denial in [Denial::Accepted, Denial::Unproven] {
            let own = |iterations, opt_out| signed_nsec3("mx.victim.com.", "victim.com.", iterations, opt_out);
            assert_eq!(first(own(0, false), denial), Ok(Secure));
            assert_eq!(first(own(100, false), denial), Ok(Secure));
            assert_eq!(first(own(150, false), denial), Ok(Insecure), "as if it were not signed");
            assert_eq!(first(own(501, false), denial), Err(Bogus), "not even looked at");
            assert_eq!(first(own(0, true), denial), Ok(Insecure), "there could be an unsigned delegation");
            let other = signed_nsec3("other.victim.com.", "victim.com.", 0, false);
            assert_eq!(first(other.clone(), denial), Err(Bogus), "of another name");
            for iterations in [0, 150] {
                for zone in ["com.", "aaa.", "sub.victim.com."] {
                    let theirs = signed_nsec3("mx.victim.com.", zone, iterations, false);
                    assert_eq!(first(theirs.clone(), denial), Err(Bogus), "{zone}");
                    assert_eq!(first([theirs, other.clone()].concat(), denial), Err(Bogus), "{zone}, too");
                }
            }
            let mut unproven = own(0, false);
            unproven[0].proof = Proof::Insecure;
            assert_eq!(first(unproven, denial), Err(Bogus));
        }
    }
}
