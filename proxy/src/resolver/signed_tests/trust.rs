//! What counts as secure, what resolves, and what the proxy is told.

use std::net::SocketAddr;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use warren_config::{Dnssec, Resolver};

use super::{World, records, router};
use crate::{
    resolver::{Upstream, answer::MAX_MX},
    tls::TlsaFound,
};

#[tokio::test]
async fn tlsa_records_go_to_the_proxy_if_all_of_the_way_is_signed() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("secure.test").await, (true, records()));
    assert_eq!(world.trust("implicit.secure.test").await, (true, records()), "a domain without MX is its own");
    assert_eq!(world.trust("alias.mixed.test").await, (true, records()), "records at the end of the alias");
    assert_eq!(world.trust("bare.mixed.test").await, (true, TlsaFound::None), "proven not to be there");
    assert_eq!(world.trust("insecure.test").await, (false, TlsaFound::None));
    assert_eq!(world.trust("implicit.insecure.test").await, (false, TlsaFound::None));
    assert_eq!(world.trust("mixed.test").await, (false, TlsaFound::None), "the host is not signed");
    assert_eq!(world.trust("away.mixed.test").await, (false, TlsaFound::None), "nor is where the alias leads");
    assert!(!world.trust("named.insecure.test").await.0, "nor are the MX records");
    // Nothing of it is shown to the MSA.
    let hidden = world.ask("_25._tcp.mx.secure.test.", RecordType::TLSA).await;
    assert_eq!((hidden.metadata.response_code, hidden.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn where_tlsa_records_cannot_be_had_the_proxy_is_told_so() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("dark.test").await, (true, TlsaFound::Failed));
}

#[tokio::test]
async fn hostile_zones_are_bounded() {
    let mut world = World::new(Dnssec::Auto).await;
    for owner in ["loop.hostile.test.", "self.hostile.test.", "chain0.hostile.test."] {
        let answer = world.ask(owner, RecordType::A).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0), "{owner}");
    }
    let flood = world.ask("crowd.test.", RecordType::MX).await;
    assert_eq!(flood.answers.len(), MAX_MX, "the most preferred of 1,500");
    let huge = world.ask("huge.hostile.test.", RecordType::TXT).await;
    assert!(huge.metadata.truncation && huge.answers.is_empty());
    assert_eq!(world.trust("many.hostile.test").await, (true, TlsaFound::Failed), "more records than are looked at");
    for n in 0..20 {
        let answer = world.ask(&format!("x{n}.star.hostile.test."), RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
        world.hear();
    }
}

#[tokio::test]
async fn what_comes_of_a_wildcard_is_secure_if_nothing_closer_is_there() {
    let mut world = World::new(Dnssec::Auto).await;
    for zone in ["wild.test", "hashed.test"] {
        for (domain, why) in [
            ("x.sub", "the MX record"),
            ("x.y.sub", "the MX record, two labels below"),
            ("all", "the TLSA record"),
            ("x.alias", "an alias to another zone"),
        ] {
            assert_eq!(world.trust(&format!("{domain}.{zone}")).await, (true, records()), "{domain}.{zone}: {why}");
        }
        let nothing = world.ask(&format!("x.sub.{zone}."), RecordType::A).await;
        assert_eq!((nothing.metadata.response_code, nothing.answers.len()), (ResponseCode::NoError, 0));
    }
    assert_eq!(world.trust("x.wild.mixed.test").await, (true, records()));
}

#[tokio::test]
async fn behind_a_router_that_strips_signatures_everything_is_insecure_and_resolves() {
    let mut world = World::new(Dnssec::Auto).await;
    let stripping = router(world.signed.address).await;
    assert_eq!(world.trust("secure.test").await, (true, records()));
    for (mode, resolves) in [(Dnssec::Auto, true), (Dnssec::Require, false), (Dnssec::Off, true)] {
        let config =
            Resolver { nameservers: vec![stripping], dnssec: mode, trust_anchors: Some(world.signed.anchors.clone()) };
        world.doors.asking().replace(Upstream::new(&config).unwrap());
        if resolves {
            assert!(!world.trust("secure.test").await.0, "{mode:?}");
        } else {
            assert_eq!(world.code("secure.test.", RecordType::MX).await, ResponseCode::ServFail);
        }
    }
}

#[tokio::test]
async fn a_reload_forgets_nothing_of_nameservers_that_stay() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("secure.test").await, (true, records()));
    let asking = world.doors.asking();
    let same = |mode, nameserver: SocketAddr| Resolver {
        nameservers: vec![nameserver],
        dnssec: mode,
        trust_anchors: Some(world.signed.anchors.clone()),
    };
    let (old, address) = (asking.upstream(), SocketAddr::from(world.signed.address));
    assert!(old.reloaded(&same(Dnssec::Auto, address)).unwrap().is(&old), "nothing has changed");
    let stricter = old.reloaded(&same(Dnssec::Require, address)).unwrap();
    assert!(!stricter.is(&old) && stricter.passed(), "the same nameserver");
    let stripping = router(world.signed.address).await;
    let other = old.reloaded(&same(Dnssec::Auto, stripping)).unwrap();
    assert!(!other.is(&old) && !other.passed(), "another");
    let more = std::fs::read_to_string(&world.signed.anchors).unwrap() + "\n";
    std::fs::write(&world.signed.anchors, more).unwrap();
    let read_again = old.reloaded(&same(Dnssec::Auto, address)).unwrap();
    assert!(!read_again.is(&old) && read_again.passed(), "the file was written");
}
