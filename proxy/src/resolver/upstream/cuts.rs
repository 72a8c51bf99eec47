//! Where trust ends: whether somebody on the way may say that a name is unsigned (RFC 4035 §5.2, RFC 6840 §4.4, RFC 5155 §6 and §8.6). Pure.
//!
//! ```text
//!   "mx.victim.example is unsigned"
//!       DS of example?                      signed                                                ─▶ zone: example
//!       DS of victim.example?               signed                                                ─▶ zone: victim.example
//!       DS of mx.victim.example?            `example` has an opt-out record that its hash lies in ─▶ not this zone's word: unproven
//! ```
//!
//! hickory-dns 0.26 looks for the nearest cut as nameservers tell it, and takes any record of any zone above for a proof that this cut is unsigned: an opt-out
//! record of a top-level domain makes whatever is below its signed delegations look unsigned, and DANE is gone. So the way is gone once more, from the root
//! down, and only the zone that was reached may say that trust ends. What proves nothing is no harm: the way goes on, and a way without such a word is bogus.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hickory_proto::{
    dnssec::{
        Proof,
        rdata::{DNSSECRData, DS},
    },
    rr::{Name, RData, Record, RecordType, RecordTypeSet},
};

use super::{
    expansion::{nsec, nsec3, signed_by, word_of},
    hashed::{Hashed, Proven},
    response::Response,
};

/// Longest time that a cut is remembered.
const REMEMBERED: Duration = Duration::from_secs(900);
/// Most cuts of one generation.
const MAX_CUTS: usize = 8_192;

/// What there is between a zone and a name below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A zone begins there that is signed.
    Signed,
    /// One that is not, or not in a way that we know: trust ends.
    Unsigned,
    /// Neither is proven. Most names are no zones.
    Unproven,
}

/// What `response`, to a question for the DS records of `name`, proves of it, if `zone`, above it, is the closest signed zone so far.
#[must_use]
pub fn judge(name: &Name, zone: &Name, response: &Response) -> Cut {
    if name == zone || !zone.zone_of(name) {
        return Cut::Unproven;
    }
    let mut signers = response.answers.iter().filter(|record| record.name == *name).filter_map(ds).peekable();
    if signers.peek().is_some() {
        return if signers.any(|ds| ds.algorithm().is_supported() && ds.digest_type().is_supported()) {
            Cut::Signed
        } else if signed_by(name, RecordType::DS, zone, &response.answers) {
            Cut::Unsigned
        } else {
            Cut::Unproven
        };
    }
    let matched = words(zone, response).filter(|record| record.name == *name).filter_map(nsec);
    let unsigned = matched.map(|nsec| nsec.type_set()).any(unsigned_cut)
        || match Hashed::of(words(zone, response)).proves(name, zone) {
            Proven::Match(nsec3) => unsigned_cut(nsec3.type_set()),
            // The delegation may be there unseen, and has no DS records then.
            Proven::LeftOut => true,
            Proven::Nothing => false,
        };
    if unsigned { Cut::Unsigned } else { Cut::Unproven }
}

/// What `zone` itself says of what is not there.
fn words<'a>(zone: &'a Name, response: &'a Response) -> impl Iterator<Item = &'a Record> {
    response.authorities.iter().filter(|record| word_of(zone, record, &response.authorities))
}

/// For how long that may be remembered. Of what is proven to be neither, which most labels of long names are, only on the word of `zone` itself: anybody can
/// send what proves nothing.
#[must_use]
pub fn lasts(cut: Cut, zone: &Name, response: &Response) -> Duration {
    let mut most = REMEMBERED;
    if cut == Cut::Unproven {
        let soa = words(zone, response).find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa),
            _ => None,
        });
        let denies = words(zone, response).any(|record| nsec(record).is_some() || nsec3(record).is_some());
        let Some(soa) = soa.filter(|_| denies) else { return Duration::ZERO };
        most = most.min(Duration::from_secs(soa.minimum.into()));
    }
    let proven = response.answers.iter().chain(&response.authorities).filter(|record| record.proof == Proof::Secure);
    let ttl = proven.map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(ttl.into()).min(most)
}

/// A delegation without DS records, seen from above (RFC 5155 §8.9).
fn unsigned_cut(types: &RecordTypeSet) -> bool {
    types.contains(RecordType::NS) && !types.contains(RecordType::DS) && !types.contains(RecordType::SOA)
}

fn ds(record: &Record) -> Option<&DS> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::DS(ds)) if record.proof == Proof::Secure => Some(ds),
        _ => None,
    }
}

/// What is known of cuts. Two generations: what is asked for moves to the young one; when that is full it becomes the old one.
#[derive(Debug, Default)]
pub struct Cuts {
    young: HashMap<Name, (Cut, Instant)>,
    old: HashMap<Name, (Cut, Instant)>,
}

impl Cuts {
    /// What is known.
    pub fn get(&mut self, name: &Name, now: Instant) -> Option<Cut> {
        if let Some((cut, until)) = self.old.remove(name) {
            self.insert(name.clone(), cut, until);
        }
        self.young.get(name).filter(|(_, until)| *until > now).map(|(cut, _)| *cut)
    }

    /// Whether trust is known to end with `name`, or above it.
    pub fn is_over(&mut self, name: &Name, now: Instant) -> bool {
        (1..=name.iter().count()).any(|labels| self.get(&name.trim_to(labels), now) == Some(Cut::Unsigned))
    }

    /// Keeps what was judged for this long.
    pub fn keep(&mut self, name: Name, cut: Cut, lasts: Duration, now: Instant) {
        if !lasts.is_zero() {
            self.old.remove(&name);
            self.insert(name, cut, now + lasts);
        }
    }

    fn insert(&mut self, name: Name, cut: Cut, until: Instant) {
        if self.young.len() >= MAX_CUTS && !self.young.contains_key(&name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, (cut, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::upstream::{
        response::Denial,
        samples::{name, signed, signed_nsec3, signed_nsec3_at, signed_soa},
    };
    use hickory_proto::{
        dnssec::{Algorithm, DigestType, rdata::NSEC},
        op::ResponseCode,
        rr::RecordType::{A, DNAME, NS, SOA},
    };

    fn response(asked: &str, answers: &[Vec<Record>], authorities: &[Vec<Record>]) -> Response {
        let (answers, authorities) = (answers.concat(), authorities.concat());
        Response { asked: name(asked), code: ResponseCode::NoError, answers, authorities, denial: Denial::Accepted }
    }

    /// What these records prove of `asked` below `zone`.
    fn denied(asked: &str, zone: &str, authorities: &[Vec<Record>]) -> Cut {
        judge(&name(asked), &name(zone), &response(asked, &[], authorities))
    }

    fn signer(owner: &str, algorithm: Algorithm, digest: DigestType, by: &str) -> Vec<Record> {
        let ds = DS::new(1, algorithm, digest, vec![0; 32]);
        signed(owner, RData::DNSSEC(DNSSECRData::DS(ds)), name(owner).num_labels(), by)
    }

    fn nsec(owner: &str, next: &str, types: &[RecordType], by: &str) -> Vec<Record> {
        let nsec = NSEC::new(name(next), types.iter().copied());
        signed(owner, RData::DNSSEC(DNSSECRData::NSEC(nsec)), name(owner).num_labels(), by)
    }

    /// An opt-out record that the hash of `covered` lies in.
    fn left_out(covered: &str, zone: &str) -> Vec<Record> {
        signed_nsec3(covered, zone, 0, true)
    }

    #[test]
    fn an_opt_out_of_a_zone_further_up_ends_no_trust() {
        let (host, victim, above) = ("mx.victim.com.", "victim.com.", "com.");
        let cut = signed_nsec3_at(victim, above, &[NS, RecordType::DS]);
        let apex = signed_nsec3_at(above, above, &[NS, SOA]);
        let all = [left_out(host, above), cut.clone(), apex.clone(), signed_soa(above)];
        for (many, why) in [(&all[..1], "alone"), (&all[..2], "with the cut"), (&all[..], "with all there is")] {
            assert_eq!(denied(host, victim, many), Cut::Unproven, "{why}");
            // Nor if somebody kept the delegation from us.
            assert_eq!(denied(host, above, many), Cut::Unproven, "{why}, the zone being the one further up");
        }
        // What is left out is what is next to a name that exists.
        for (asked, zone, proof, cut) in [
            (victim, above, vec![left_out(victim, above)], Cut::Unsigned),
            (victim, above, vec![left_out(victim, above), apex.clone()], Cut::Unsigned),
            (host, above, vec![left_out(victim, above), apex.clone()], Cut::Unsigned),
            (host, above, vec![left_out(victim, above), left_out(host, above)], Cut::Unsigned),
            (host, above, vec![left_out(host, above), apex.clone()], Cut::Unproven),
            (host, above, vec![left_out(host, above), signed_nsec3_at(victim, above, &[A])], Cut::Unsigned),
            (host, above, vec![left_out(host, above), signed_nsec3_at(victim, above, &[])], Cut::Unsigned),
            (host, above, vec![left_out(host, above), signed_nsec3_at(victim, above, &[A, DNAME])], Cut::Unproven),
            (host, above, vec![left_out(host, above), signed_nsec3_at(victim, above, &[NS])], Cut::Unproven),
            (victim, above, vec![signed_nsec3(victim, above, 0, false), apex], Cut::Unproven),
        ] {
            assert_eq!(denied(asked, zone, &proof), cut, "{asked} in {zone}: {proof:?}");
        }
    }

    #[test]
    fn who_has_no_signers_says_so_at_the_cut() {
        for (types, cut) in [
            (&[NS][..], Cut::Unsigned),
            (&[NS, A], Cut::Unsigned),
            (&[NS, RecordType::DS], Cut::Unproven),
            (&[NS, SOA], Cut::Unproven),
            (&[A], Cut::Unproven),
            (&[], Cut::Unproven),
        ] {
            let child = "child.com.";
            for by in ["com.", "net.", "child.com.", "evil.com."] {
                let expected = if by == "com." { cut } else { Cut::Unproven };
                assert_eq!(denied(child, "com.", &[nsec(child, "d.com.", types, by)]), expected, "{by} {types:?}");
                let hashed = signed_nsec3_at(child, by, types);
                assert_eq!(denied(child, "com.", &[hashed]), expected, "hashed, {by} {types:?}");
            }
            assert_eq!(denied("x.child.com.", "com.", &[nsec(child, "d.com.", types, "com.")]), Cut::Unproven);
        }
        assert_eq!(denied("com.", "com.", &[nsec("com.", "a.com.", &[NS], "com.")]), Cut::Unproven, "not below it");
    }

    #[test]
    fn what_is_not_validated_proves_nothing() {
        let child = "child.com.";
        let proofs = [
            nsec(child, "d.com.", &[NS], "com."),
            signed_nsec3_at(child, "com.", &[NS]),
            left_out(child, "com."),
            signer(child, Algorithm::ECDSAP256SHA256, DigestType::SHA256, "com."),
            signer(child, Algorithm::Unknown(200), DigestType::SHA256, "com."),
        ];
        for mut proof in proofs {
            let both = |proof: &[Record]| {
                let response = response(child, &[proof.to_vec()], &[proof.to_vec()]);
                let cut = judge(&name(child), &name("com."), &response);
                (cut, lasts(cut, &name("com."), &response))
            };
            assert_ne!(both(&proof).0, Cut::Unproven);
            assert_eq!(both(&proof).1, Duration::from_secs(300));
            proof.iter_mut().for_each(|record| record.proof = Proof::Insecure);
            assert_eq!(both(&proof), (Cut::Unproven, Duration::ZERO));
        }
    }

    #[test]
    fn a_label_that_is_no_cut_is_remembered_on_the_word_of_its_zone_only() {
        let (asked, zone) = ("b.com.", "com.");
        let lasting = |authorities: &[Vec<Record>]| {
            let response = response(asked, &[], authorities);
            let cut = judge(&name(asked), &name(zone), &response);
            assert_eq!(cut, Cut::Unproven);
            lasts(cut, &name(zone), &response).as_secs()
        };
        // As long as a denial is (RFC 2308 §5): the sample's SOA record says a second.
        let (soa, plain) = (signed_soa(zone), nsec(asked, "c.com.", &[A], zone));
        assert_eq!(lasting(&[plain.clone(), soa.clone()]), 1);
        assert_eq!(lasting(&[nsec("a.com.", "x.b.com.", &[A], zone), soa.clone()]), 1, "it is empty");
        assert_eq!(lasting(&[signed_nsec3_at(asked, zone, &[A]), soa.clone()]), 1);
        for (authorities, why) in [
            (&[plain.clone()][..], "no SOA record"),
            (std::slice::from_ref(&soa), "no denial"),
            (&[], "nothing"),
            (&[nsec(asked, "c.com.", &[A], "b.com."), soa.clone()], "another zone's denial"),
            (&[plain, signed_soa("b.com.")], "another zone's SOA record"),
        ] {
            assert_eq!(lasting(authorities), 0, "{why}");
        }
    }

    #[test]
    fn signers_that_nobody_can_check_end_trust_if_the_zone_above_names_no_other() {
        let child = "child.com.";
        let of = |algorithm, digest, by| signer(child, algorithm, digest, by);
        let good = of(Algorithm::ED25519, DigestType::SHA256, "com.");
        let strange = of(Algorithm::Unknown(200), DigestType::SHA256, "com.");
        let digest = of(Algorithm::ED25519, DigestType::Unknown(9), "com.");
        let cut = |answers: &[Vec<Record>]| judge(&name(child), &name("com."), &response(child, answers, &[]));
        assert_eq!(cut(std::slice::from_ref(&good)), Cut::Signed);
        assert_eq!(cut(&[strange.clone(), good]), Cut::Signed);
        assert_eq!(cut(&[strange, digest]), Cut::Unsigned);
        assert_eq!(cut(&[of(Algorithm::Unknown(200), DigestType::SHA256, "child.com.")]), Cut::Unproven);
    }

    #[test]
    fn records_hashed_otherwise_and_too_often_are_no_part_of_a_proof() {
        let apex = signed_nsec3_at("sub.com.", "com.", &[A]);
        let otherwise = signed_nsec3("x.sub.com.", "com.", 1, true);
        assert_eq!(denied("x.sub.com.", "com.", &[apex.clone(), left_out("x.sub.com.", "com.")]), Cut::Unsigned);
        assert_eq!(denied("x.sub.com.", "com.", &[apex, otherwise]), Cut::Unproven);
        assert_eq!(denied("x.com.", "com.", &[signed_nsec3("x.com.", "com.", 500, true)]), Cut::Unsigned);
        assert_eq!(denied("x.com.", "com.", &[signed_nsec3("x.com.", "com.", 501, true)]), Cut::Unproven);
    }

    #[test]
    fn a_cut_is_remembered_for_its_time_and_not_too_many() {
        let (mut cuts, now) = (Cuts::default(), Instant::now());
        let after = |s| now + Duration::from_secs(s);
        let of = |n: usize| name(&format!("n{n}.example."));
        cuts.keep(of(0), Cut::Signed, Duration::from_secs(60), now);
        cuts.keep(of(1), Cut::Unproven, Duration::from_secs(60), now);
        cuts.keep(of(2), Cut::Unsigned, Duration::ZERO, now);
        let known = [Some(Cut::Signed), Some(Cut::Unproven), None];
        assert_eq!([0, 1, 2].map(|n| cuts.get(&of(n), after(59))), known);
        assert_eq!([0, 1].map(|n| cuts.get(&of(n), after(60))), [None, None]);
        cuts.keep(name("example."), Cut::Signed, Duration::from_secs(60), now);
        cuts.keep(of(2), Cut::Unsigned, Duration::from_secs(60), now);
        for (below, seconds, over) in [
            (of(2), 59, true),
            (name("a.b.n2.example."), 59, true),
            (of(2), 60, false),
            (of(0), 0, false),
            (of(1), 0, false),
            (name("example."), 0, false),
            (name("n3.example."), 0, false),
            (Name::root(), 0, false),
        ] {
            assert_eq!(cuts.is_over(&below, after(seconds)), over, "{below}");
        }
        for n in 0..5 * MAX_CUTS {
            cuts.keep(of(n), Cut::Unsigned, Duration::from_secs(60), now);
            assert_eq!(cuts.get(&of(0), now), Some(Cut::Unsigned), "asked for all the time");
            assert!(cuts.young.len() <= MAX_CUTS && cuts.old.len() <= MAX_CUTS);
        }
        assert_eq!(cuts.get(&of(1), now), None, "nobody asked for it");
    }
}
