//! Records for tests, as the library leaves them.

use hickory_proto::{
    dnssec::{
        Algorithm, Nsec3HashAlgorithm, Proof,
        rdata::{DNSSECRData, NSEC, NSEC3, RRSIG, SigInput},
    },
    rr::{Name, RData, Record, RecordType, SerialNumber, rdata::SOA},
};

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn record(owner: &str, data: RData, proof: Proof) -> Record {
    let mut record = Record::from_rdata(name(owner), 300, data);
    record.proof = proof;
    record
}

pub fn soa(owner: &str, proof: Proof) -> Record {
    record(owner, RData::SOA(SOA::new(name("ns."), name("h."), 1, 1, 1, 1, 1)), proof)
}

/// A validated record and its signature, which was made for `labels` labels.
pub fn signed(owner: &str, data: RData, labels: u8, signer: &str) -> Vec<Record> {
    let record = record(owner, data, Proof::Secure);
    let input = SigInput {
        type_covered: record.record_type(),
        algorithm: Algorithm::ECDSAP256SHA256,
        num_labels: labels,
        original_ttl: 300,
        sig_expiration: SerialNumber::new(2),
        sig_inception: SerialNumber::new(1),
        key_tag: 1,
        signer_name: name(signer),
    };
    let signature = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0])));
    vec![record, self::record(owner, signature, Proof::Secure)]
}

pub fn signed_soa(zone: &str) -> Vec<Record> {
    signed(zone, soa(zone, Proof::Secure).data, name(zone).num_labels(), zone)
}

pub fn signed_nsec(owner: &str, next: &str, signer: &str) -> Vec<Record> {
    let nsec = NSEC::new(name(next), [RecordType::A]);
    signed(owner, RData::DNSSEC(DNSSECRData::NSEC(nsec)), name(owner).num_labels(), signer)
}

/// An NSEC3 record of `zone` that covers the hash of `covered`, and little else.
pub fn signed_nsec3(covered: &str, zone: &str, iterations: u16, opt_out: bool) -> Vec<Record> {
    let algorithm = Nsec3HashAlgorithm::SHA1;
    let hash = algorithm.hash(&[1], &name(covered), iterations).unwrap().as_ref().to_vec();
    let (mut before, mut after) = (hash.clone(), hash);
    (before[10], after[10]) = (0, 255);
    (before[9], after[9]) = (before[9].saturating_sub(1), after[9].saturating_add(1));
    let nsec3 = |next| NSEC3::new(algorithm, opt_out, iterations, vec![1], next, [RecordType::A]);
    let label = nsec3(before).next_hashed_owner_name_base32().unwrap().to_string();
    let owner = format!("{label}.{zone}");
    signed(&owner, RData::DNSSEC(DNSSECRData::NSEC3(nsec3(after))), name(&owner).num_labels(), zone)
}

/// The NSEC3 record of `zone` at `name`, where there are these types.
pub fn signed_nsec3_at(name: &str, zone: &str, types: &[RecordType]) -> Vec<Record> {
    let algorithm = Nsec3HashAlgorithm::SHA1;
    let hash = algorithm.hash(&[1], &self::name(name), 0).unwrap().as_ref().to_vec();
    let mut after = hash.clone();
    after[19] = after[19].saturating_add(1);
    let nsec3 = |next| NSEC3::new(algorithm, true, 0, vec![1], next, types.iter().copied());
    let label = nsec3(hash).next_hashed_owner_name_base32().unwrap().to_string();
    let owner = format!("{label}.{zone}");
    signed(&owner, RData::DNSSEC(DNSSECRData::NSEC3(nsec3(after))), self::name(&owner).num_labels(), zone)
}
