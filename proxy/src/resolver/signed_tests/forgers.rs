//! Forged zones, and somebody on the way to the nameserver.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, NS},
    },
};
use warren_config::Dnssec;

use super::{World, records, to};
use crate::{resolver::tests::name, tls::TlsaFound};

#[tokio::test]
async fn what_is_forged_does_not_resolve() {
    let mut world = World::new(Dnssec::Auto).await;
    for domain in ["forged.test", "stripped.test", "expired.test"] {
        assert_eq!(world.code(&format!("{domain}."), RecordType::MX).await, ResponseCode::ServFail, "{domain}");
        assert_eq!(world.code(&format!("mx.{domain}."), RecordType::A).await, ResponseCode::ServFail, "{domain}");
        assert_eq!(world.deliver(domain).await, []);
    }
    for (owner, code) in [
        ("nothing.secure.test.", ResponseCode::NXDomain),
        ("nothing.insecure.test.", ResponseCode::NXDomain),
        ("nothing.", ResponseCode::NXDomain),
        ("mx.secure.test.", ResponseCode::NoError),
    ] {
        for _ in 0..2 {
            let answer = world.ask(owner, RecordType::MX).await;
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{owner}");
        }
    }
}

/// Below an unsigned delegation nobody judges what comes; an alias there ends in a zone where somebody does.
#[tokio::test]
async fn what_an_unsigned_alias_leads_to_is_judged_where_it_is() {
    let world = World::new(Dnssec::Auto).await;
    let alias = "alias.named.insecure.test.";
    let forged = RData::A(A(Ipv4Addr::new(192, 0, 2, 66)));
    world
        .forged(move |answer| {
            if to(answer, alias, RecordType::A) {
                let addresses = answer.answers.iter_mut().filter(|record| record.record_type() == RecordType::A);
                addresses.for_each(|record| record.data = forged.clone());
            }
        })
        .await;
    assert_eq!(world.code("named.insecure.test.", RecordType::MX).await, ResponseCode::NoError);
    let answer = world.ask(alias, RecordType::A).await;
    let addresses: Vec<_> = answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    assert_eq!(addresses, [Ipv4Addr::new(198, 51, 100, 1)]);
}

#[tokio::test]
async fn nobody_on_the_way_makes_signed_records_disappear() {
    let mut world = World::new(Dnssec::Auto).await;
    let stranger = world.bind("nothing.insecure.test.", RecordType::A).await.authorities;
    let (tlsa, mx) = ("_25._tcp.mx.secure.test.", "secure.test.");
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        for (owner, kind) in [(tlsa, RecordType::TLSA), (mx, RecordType::MX)] {
            let stranger = stranger.clone();
            world
                .forged(move |answer| {
                    if to(answer, owner, kind) {
                        answer.metadata.response_code = code;
                        answer.answers.clear();
                        answer.authorities.clone_from(&stranger);
                    }
                })
                .await;
            if kind == RecordType::MX {
                assert_eq!(world.code(mx, kind).await, ResponseCode::ServFail, "{code:?}: it would bounce");
            } else {
                assert_eq!(world.trust("secure.test").await, (true, TlsaFound::Failed), "{code:?}: DANE would be gone");
            }
        }
    }
}

#[tokio::test]
async fn nobody_on_the_way_passes_a_wildcard_off_as_a_name_that_is_there() {
    let mut world = World::new(Dnssec::Auto).await;
    let stranger = world.bind("nothing.insecure.test.", RecordType::A).await.authorities;
    for zone in ["wild.test", "hashed.test"] {
        let host = format!("host.over.{zone}.");
        assert_eq!(world.trust(&format!("over.{zone}")).await, (true, records()), "as it should be");
        let expanded = world.bind(&format!("other.over.{zone}."), RecordType::A).await;
        assert!(!expanded.authorities.is_empty());
        // Its signature is right, and its proof is another's, or nobody's.
        for authorities in [expanded.authorities.clone(), stranger.clone(), Vec::new()] {
            let (mut answers, owner) = (expanded.answers.clone(), host.clone());
            answers.iter_mut().for_each(|record| record.name = name(&owner));
            world
                .forged(move |answer| {
                    if to(answer, &owner, RecordType::A) {
                        (answer.answers, answer.authorities) = (answers.clone(), authorities.clone());
                    }
                })
                .await;
            assert_eq!(world.code(&host, RecordType::A).await, ResponseCode::ServFail, "{zone}");
        }
        // Nor does a forged answer have the wildcard's come instead.
        let owner = host.clone();
        world
            .forged(move |answer| {
                let forged = to(answer, &owner, RecordType::A);
                answer.answers.iter_mut().filter(|_| forged).for_each(|record| {
                    if let RData::A(address) = &mut record.data {
                        address.0 = Ipv4Addr::new(198, 51, 100, 66);
                    }
                });
            })
            .await;
        assert_eq!(world.code(&host, RecordType::A).await, ResponseCode::ServFail, "{zone}");
        world.forged(|_| {}).await;
    }
}

/// Somebody on the way says that a zone begins at `cut`, and of its signers that much.
fn cuts_off(answer: &mut Message, cut: &str, of_signers: &[Record]) {
    let server = Record::from_rdata(name(cut), 300, RData::NS(NS(name("ns.invalid."))));
    (answer.answers, answer.authorities) = if to(answer, cut, RecordType::NS) {
        (vec![server], Vec::new())
    } else if to(answer, cut, RecordType::DS) {
        (Vec::new(), of_signers.to_vec())
    } else {
        return;
    };
    answer.metadata.response_code = ResponseCode::NoError;
}

#[tokio::test]
async fn nobody_on_the_way_has_a_signed_zone_taken_for_an_unsigned_one() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("secure.optout.test").await, (true, records()), "as it should be");
    assert!(!world.trust("plain.optout.test").await.0, "left out by the zone above");
    // Well signed: what the zone above says of names that are none, or left out.
    let mut left_out: Vec<Record> = Vec::new();
    for n in 0..8 {
        let said = world.bind(&format!("x{n}.optout.test."), RecordType::DS).await.authorities;
        let of_names = said.into_iter().filter(|record| record.name.num_labels() == 3);
        of_names.for_each(|record| {
            if !left_out.contains(&record) {
                left_out.push(record);
            }
        });
    }
    let (host, tlsa) = ("mx.secure.optout.test.", "_25._tcp.mx.secure.optout.test.");
    for cut in [host, "secure.optout.test."] {
        let left_out = left_out.clone();
        world
            .forged(move |answer| {
                cuts_off(answer, cut, &left_out);
                if to(answer, host, RecordType::A) {
                    let theirs = RData::A(A::new(198, 51, 100, 66));
                    (answer.answers, answer.authorities) =
                        (vec![Record::from_rdata(name(host), 300, theirs)], Vec::new());
                }
            })
            .await;
        assert_eq!(world.code(host, RecordType::A).await, ResponseCode::ServFail, "{cut}: anybody, without DANE");
        assert!(!world.trust("plain.optout.test").await.0, "the others go on");
    }
    world
        .forged(move |answer| {
            cuts_off(answer, tlsa, &left_out);
            if to(answer, tlsa, RecordType::TLSA) {
                (answer.answers, answer.authorities) = (Vec::new(), Vec::new());
            }
        })
        .await;
    assert_eq!(world.trust("secure.optout.test").await, (true, TlsaFound::Failed), "DANE would be gone");
}
