//! Answers made from a wildcard: whether the zone proves that nothing closer to the name exists (RFC 4035 §5.3.4, RFC 4592 §3.3.1). Pure.
//!
//! ```text
//!   asked: a.b.example   signature: over *.example, for it has 1 label    so example has to be the closest name that exists:
//!       aa.example NSEC c.example   covers a.b.example, and shares no more than `example` with it ─▶ proven
//!       x.b.example NSEC c.example  covers it, too, but shares `b.example`: that exists           ─▶ not proven
//! ```
//!
//! Without this proof, the records of a wildcard could be passed off as those of any name below it, with a signature that is right. hickory-dns 0.26 takes
//! every such proof by NSEC for forged (its pull request 3812), so it is judged here. So is that by NSEC3 (RFC 5155 §8.8): the library takes a parent's word,
//! and where an answer has aliases, too, may look for the wrong name.

use hickory_proto::{
    dnssec::{
        Proof,
        rdata::{DNSSECRData, NSEC, NSEC3, RRSIG},
    },
    rr::{Name, RData, Record, RecordType},
};

/// Iterations of NSEC3 beyond which what is proven counts as insecure (RFC 9276 §3.2).
pub(super) const ITERATIONS: u16 = 100;
/// Iterations beyond which nothing is hashed at all, and so nothing proven.
pub(super) const MOST_ITERATIONS: u16 = 500;

/// Whether a record of `authorities`, all of whose proofs the library has set, shows that `name` is none of the zone of `signer`, and that the closest name to
/// it that is one has `labels` labels.
#[must_use]
pub fn proven(name: &Name, labels: u8, signer: &Name, authorities: &[Record]) -> bool {
    authorities.iter().filter_map(|record| Some((&record.name, nsec(record)?))).any(|(owner, nsec)| {
        signed_by(owner, RecordType::NSEC, signer, authorities) && denies(name, owner, nsec) && {
            let exists = common(name, owner).max(common(name, nsec.next_domain_name()));
            exists == usize::from(labels)
        }
    })
}

/// The same by NSEC3, where only the hash of the one name that would be closer is denied; and whether that makes the answer secure: it does not where
/// unsigned delegations are left out, or more iterations are asked for than count (RFC 9276 §3.2). None if it is not proven.
#[must_use]
pub fn proven_hashed(name: &Name, labels: u8, signer: &Name, authorities: &[Record]) -> Option<bool> {
    let closer = name.trim_to(usize::from(labels) + 1);
    let covering =
        authorities.iter().filter_map(|record| Some((&record.name, nsec3(record)?))).find(|(owner, nsec3)| {
            *signer == owner.base_name()
                && signer.zone_of(&closer)
                && signed_by(owner, RecordType::NSEC3, signer, authorities)
                && covers(&closer, owner, nsec3)
        });
    covering.map(|(_, nsec3)| !nsec3.opt_out() && nsec3.iterations() <= ITERATIONS)
}

/// Whether a record that denies is the word of the zone `signer`, and speaks of that zone only.
pub(super) fn word_of(signer: &Name, record: &Record, authorities: &[Record]) -> bool {
    let about = match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => signer.zone_of(nsec.next_domain_name()),
        RData::DNSSEC(DNSSECRData::NSEC3(_)) => *signer == record.name.base_name(),
        RData::SOA(_) => *signer == record.name,
        _ => false,
    };
    about && signed_by(&record.name, record.record_type(), signer, authorities)
}

/// An NSEC3 record that is validated.
pub(super) fn nsec3(record: &Record) -> Option<&NSEC3> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) if record.proof == Proof::Secure => Some(nsec3),
        _ => None,
    }
}

/// An NSEC record that is validated.
pub(super) fn nsec(record: &Record) -> Option<&NSEC> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) if record.proof == Proof::Secure => Some(nsec),
        _ => None,
    }
}

/// A signature that was used to validate the records that it covers.
pub(super) fn rrsig(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) if record.proof == Proof::Secure => Some(rrsig),
        _ => None,
    }
}

/// Whether it is this zone's own word. A parent's NSEC says nothing about names of its child.
pub(super) fn signed_by(owner: &Name, covered: RecordType, signer: &Name, authorities: &[Record]) -> bool {
    authorities.iter().filter(|record| record.name == *owner).filter_map(rrsig).any(|rrsig| {
        let input = rrsig.input();
        input.type_covered == covered && input.signer_name == *signer
    })
}

/// Whether `name` lies between the owner of an NSEC record and the next name, in the order of RFC 4034 §6.1.
fn denies(name: &Name, owner: &Name, nsec: &NSEC) -> bool {
    // What is below a cut or a DNAME is not denied by the record there (RFC 6840 §4.1).
    let leads_away = nsec.is_ancestor_delegation() || nsec.type_set().contains(RecordType::DNAME);
    if leads_away && owner.zone_of(name) {
        return false;
    }
    let next = nsec.next_domain_name();
    // The last record of a zone leads back to its first name.
    owner < name && (name < next || (next <= owner && next.zone_of(name)))
}

/// Whether the hash of `name` lies between that of an NSEC3 record's owner and the next.
fn covers(name: &Name, owner: &Name, nsec3: &NSEC3) -> bool {
    hashed(name, nsec3).is_some_and(|hash| spans(&hash, owner, nsec3))
}

/// The hash of `name`, as this record's owner is spelt, in lower case; none if that is too much work.
pub(super) fn hashed(name: &Name, nsec3: &NSEC3) -> Option<Vec<u8>> {
    if nsec3.iterations() > MOST_ITERATIONS {
        return None;
    }
    let hash = nsec3.hash_algorithm().hash(nsec3.salt(), name, nsec3.iterations()).ok()?;
    Some(base32(hash.as_ref()))
}

/// Whether a hash lies between that of an NSEC3 record's owner and the next.
pub(super) fn spans(hash: &[u8], owner: &Name, nsec3: &NSEC3) -> bool {
    let Some(owner) = owner.iter().next() else { return false };
    let (owner, next) = (owner.to_ascii_lowercase(), base32(nsec3.next_hashed_owner_name()));
    let (owner, next) = (&owner[..], &next[..]);
    // The last record leads back to the first.
    if owner < next { owner < hash && hash < next } else { owner < hash || hash < next }
}

/// As a label (RFC 5155 §3.3), in lower case: the order is that of the bytes.
fn base32(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let bit = |n: usize| bytes.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
    let digit = |first: usize| (first..first + 5).fold(0, |digit, n| digit << 1 | usize::from(bit(n)));
    (0..bytes.len() * 8).step_by(5).map(|first| DIGITS[digit(first)]).collect()
}

/// How many labels two names share, from the right.
fn common(a: &Name, b: &Name) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        dnssec::{Algorithm, rdata::SigInput},
        rr::SerialNumber,
    };

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, data: DNSSECRData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 300, RData::DNSSEC(data));
        record.proof = proof;
        record
    }

    /// An NSEC record and its signature, as the library leaves them.
    fn nsec(owner: &str, next: &str, types: &[RecordType], signer: &str) -> Vec<Record> {
        let input = SigInput {
            type_covered: RecordType::NSEC,
            algorithm: Algorithm::ECDSAP256SHA256,
            num_labels: name(owner).num_labels(),
            original_ttl: 300,
            sig_expiration: SerialNumber::new(2),
            sig_inception: SerialNumber::new(1),
            key_tag: 1,
            signer_name: name(signer),
        };
        vec![
            record(owner, DNSSECRData::NSEC(NSEC::new(name(next), types.iter().copied())), Proof::Secure),
            record(owner, DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0])), Proof::Secure),
        ]
    }

    fn proves(asked: &str, labels: u8, (owner, next): (&str, &str)) -> bool {
        proven(&name(asked), labels, &name("example."), &nsec(owner, next, &[RecordType::A], "example."))
    }

    #[test]
    fn nothing_closer_than_the_wildcard_may_exist() {
        for (asked, labels, nsec) in [
            ("a.b.example.", 1, ("aa.example.", "c.example.")),
            ("a.example.", 1, ("*.example.", "b.example.")),
            ("z.example.", 1, ("y.example.", "example.")),
            ("_25._tcp.mx.example.", 2, ("mx.example.", "ns.example.")),
            ("x.wild.example.", 2, ("*.wild.example.", "example.")),
            ("A.B.EXAMPLE.", 1, ("aa.example.", "c.example.")),
        ] {
            assert!(proves(asked, labels, nsec), "{asked} by {nsec:?}");
        }
        for (asked, labels, nsec, why) in [
            ("a.b.example.", 1, ("x.b.example.", "c.example."), "after it"),
            ("y.b.example.", 1, ("x.b.example.", "c.example."), "b.example exists, by the owner"),
            ("a.b.example.", 1, ("aa.example.", "b.b.example."), "b.example exists, by the next name"),
            ("b.example.", 1, ("aa.example.", "x.b.example."), "it exists, and is empty"),
            ("b.example.", 1, ("b.example.", "c.example."), "it exists"),
            ("b.example.", 1, ("a.example.", "b.example."), "it exists, as the next name"),
            ("a.b.example.", 2, ("aa.example.", "c.example."), "b.example does not exist"),
            ("d.example.", 1, ("a.example.", "c.example."), "beyond"),
            ("a.b.other.", 1, ("y.example.", "example."), "another zone"),
        ] {
            assert!(!proves(asked, labels, nsec), "{asked} by {nsec:?}: {why}");
        }
    }

    #[test]
    fn a_parents_word_and_one_that_is_not_validated_count_for_nothing() {
        let (asked, types) = (name("a.sub.example."), [RecordType::NS]);
        let cut = nsec("sub.example.", "t.example.", &types, "example.");
        assert!(!proven(&asked, 2, &name("example."), &cut), "what is below a cut is the child's");
        let alias = nsec("sub.example.", "t.example.", &[RecordType::DNAME], "example.");
        assert!(!proven(&asked, 2, &name("example."), &alias), "and what is below a DNAME is elsewhere");
        let host = nsec("sub.example.", "t.example.", &[RecordType::A], "example.");
        assert!(proven(&asked, 2, &name("example."), &host));
        assert!(!proven(&asked, 2, &name("sub.example."), &host), "signed by the parent");
        for proof in [Proof::Insecure, Proof::Bogus, Proof::Indeterminate] {
            let mut unproven = host.clone();
            unproven[0].proof = proof;
            assert!(!proven(&asked, 2, &name("example."), &unproven));
            unproven = host.clone();
            unproven[1].proof = proof;
            assert!(!proven(&asked, 2, &name("example."), &unproven));
        }
        assert!(!proven(&asked, 2, &name("example."), &[]));
    }
}
