//! Policies and certificates against each other.

mod dane;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256, Sha512};
use warren_config::{TlsPolicy, TlsRule};
use warren_smtp::mediator;
use warren_tlsrpt::PolicyType;
use warren_wire::client::Chain;

use super::sts::{StsFailure, covers};
use super::*;

const MX: &str = "mx.example.net";
const DOMAIN: &str = "example.org";

fn now() -> UnixTime {
    // 2026-11-01
    UnixTime::since_unix_epoch(Duration::from_secs(1_793_491_200))
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(Vec::new()).unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key: key.subject_public_key_info(), issuer: Issuer::new(params, key) }
    }

    fn signs(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        self.signs_with_key(names, change).0
    }

    fn signs_with_key(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, Vec<u8>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(names).unwrap());
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key.subject_public_key_info())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

fn expired(params: &mut CertificateParams) {
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
}

/// As it is seen by somebody who trusts nobody.
fn untrusted(chain: &[CertificateDer<'static>]) -> Chain {
    Chain::judged(chain, &RootCertStore::empty(), now())
}

/// The record for `selected`, which is what the selector selects.
fn tlsa(usage: u8, selector: u8, matching: u8, selected: &[u8]) -> Tlsa {
    let data = match matching {
        0 => selected.to_vec(),
        1 => Sha256::digest(selected).to_vec(),
        _ => Sha512::digest(selected).to_vec(),
    };
    Tlsa { usage, selector, matching, data }
}

fn records(records: &[Tlsa]) -> TlsaFound {
    TlsaFound::Records(records.to_vec())
}

fn policy(mode: StsMode, mx: &[&str]) -> StsFound {
    let mx = mx.iter().map(|mx| (*mx).to_owned()).collect();
    StsFound::Policy(StsPolicy { mode, mx, max_age_s: 86_400, id: "1".into() })
}

fn rules(policy: TlsPolicy) -> Rules {
    Rules { rules: vec![TlsRule { domains: vec![DOMAIN.into()], policy }], default: TlsPolicy::Opportunistic }
}

fn known<'a>(tlsa: &'a TlsaFound, sts: &'a StsFound) -> Known<'a> {
    Known { domain: DOMAIN, mx: Some(MX), secure: true, tlsa, sts }
}

fn requirement(tlsa: &TlsaFound, sts: &StsFound, configured: TlsPolicy) -> Requirement {
    Requirement::of(&known(tlsa, sts), &rules(configured), false)
}

#[test]
fn dane_ranks_over_mta_sts_over_what_is_configured() {
    let usable = tlsa(3, 1, 1, b"key");
    let (one, none, failed) = (records(std::slice::from_ref(&usable)), TlsaFound::None, TlsaFound::Failed);
    let enforce = policy(StsMode::Enforce, &[MX]);
    let source = |tlsa: &TlsaFound, sts: &StsFound, configured| {
        let requirement = requirement(tlsa, sts, configured);
        (requirement.source, requirement.demand.clone(), requirement.policy().policy_type)
    };
    let by_dane = (Source::Dane, Demand::Dane(vec![usable.clone()]), PolicyType::Tlsa);
    assert_eq!(source(&one, &enforce, TlsPolicy::Off), by_dane);
    assert_eq!(source(&one, &StsFound::None, TlsPolicy::Verify), by_dane);
    let later = (Source::Dane, Demand::Later, PolicyType::Tlsa);
    assert_eq!(source(&failed, &enforce, TlsPolicy::Off), later, "nobody may suppress DANE by breaking DNS");
    let by_sts = (Source::MtaSts, Demand::Verified, PolicyType::Sts);
    assert_eq!(source(&none, &enforce, TlsPolicy::Off), by_sts);
    for (configured, demand) in [
        (TlsPolicy::Off, Demand::Off),
        (TlsPolicy::Opportunistic, Demand::Opportunistic),
        (TlsPolicy::Require, Demand::Encrypted),
        (TlsPolicy::Verify, Demand::Verified),
    ] {
        let without = (Source::Rule, demand.clone(), PolicyType::NoPolicyFound);
        assert_eq!(source(&none, &StsFound::None, configured), without);
        assert_eq!(source(&none, &policy(StsMode::None, &[]), configured), without);
        let tested = requirement(&none, &policy(StsMode::Testing, &[MX]), configured);
        assert_eq!((tested.demand, tested.tested), (demand, Some(Demand::Verified)));
    }
    let known = Known { secure: false, ..known(&one, &enforce) };
    assert_eq!(Requirement::of(&known, &rules(TlsPolicy::Off), false).source, Source::MtaSts, "unsigned, so no DANE");
    let elsewhere = Known { domain: "elsewhere.example.", tlsa: &none, sts: &StsFound::None, ..known };
    let default = Requirement::of(&elsewhere, &rules(TlsPolicy::Verify), false);
    assert_eq!((default.source, default.demand.clone()), (Source::Default, Demand::Opportunistic));
    assert_eq!(default.domain, "elsewhere.example");
}

#[test]
fn mta_sts_wants_a_listed_mx_and_a_certificate_for_it() {
    let authority = Authority::new("root");
    let good = Chain::judged(&[authority.signs(&[MX], |_| ())], &authority.roots(), now());
    let wrong = Chain::judged(&[authority.signs(&[DOMAIN], |_| ())], &authority.roots(), now());
    let late = Chain::judged(&[authority.signs(&[MX], expired)], &authority.roots(), now());
    let foreign = untrusted(&[authority.signs(&[MX], |_| ())]);
    let listed = policy(StsMode::Enforce, &["*.example.net"]);
    let unlisted = policy(StsMode::Enforce, &["mx.example.org"]);
    for (sts, channel, expected) in [
        (&listed, Channel::Tls(&good), None),
        (&listed, Channel::Tls(&wrong), Some(ResultType::CertificateHostMismatch)),
        (&listed, Channel::Tls(&late), Some(ResultType::CertificateExpired)),
        (&listed, Channel::Tls(&foreign), Some(ResultType::CertificateNotTrusted)),
        (&listed, Channel::NotOffered, Some(ResultType::StarttlsNotSupported)),
        (&listed, Channel::Failed("alert"), Some(ResultType::ValidationFailure)),
        (&unlisted, Channel::Tls(&good), Some(ResultType::ValidationFailure)),
    ] {
        let enforced = requirement(&TlsaFound::None, sts, TlsPolicy::Opportunistic);
        let found = judge(&enforced, channel, now());
        assert_eq!(found.clone().err().and_then(|unmet| unmet.result), expected);
        assert!(found.err().is_none_or(|unmet| unmet.binding && unmet.source == Source::MtaSts));
        // In testing nothing is refused, and the same is reported.
        let StsFound::Policy(policy) = sts else { unreachable!() };
        let sts = StsFound::Policy(StsPolicy { mode: StsMode::Testing, ..policy.clone() });
        let found = judge(&requirement(&TlsaFound::None, &sts, TlsPolicy::Opportunistic), channel, now());
        assert_eq!(found.clone().err().and_then(|unmet| unmet.result), expected);
        assert!(found.err().is_none_or(|unmet| !unmet.binding));
    }
    let nameless = Known { mx: None, ..known(&TlsaFound::None, &listed) };
    let nameless = Requirement::of(&nameless, &rules(TlsPolicy::Off), false);
    assert!(judge(&nameless, Channel::Tls(&good), now()).is_err());
}

#[test]
fn a_policy_that_cannot_be_had_is_reported_and_binds_nobody() {
    let found = StsFound::Failed(StsFailure::WebPki);
    let needed = requirement(&TlsaFound::None, &found, TlsPolicy::Opportunistic);
    let chain = untrusted(&[Authority::new("root").signs(&[MX], |_| ())]);
    let unmet = judge(&needed, Channel::Tls(&chain), now()).unwrap_err();
    assert_eq!((unmet.binding, unmet.result), (false, Some(ResultType::StsWebpkiInvalid)));
    assert_eq!(needed.policy().policy_type, PolicyType::Sts);
}

#[test]
fn requiretls_wants_an_authentic_mx_and_a_verified_certificate() {
    let authority = Authority::new("root");
    let good = Chain::judged(&[authority.signs(&[MX], |_| ())], &authority.roots(), now());
    let any = untrusted(&[authority.signs(&["other.example"], |_| ())]);
    let of = |secure, tlsa: &TlsaFound, sts: &StsFound| {
        let known = Known { secure, ..known(tlsa, sts) };
        Requirement::of(&known, &rules(TlsPolicy::Off), true)
    };
    let testing = policy(StsMode::Testing, &[MX]);
    for authentic in [of(true, &TlsaFound::None, &StsFound::None), of(false, &TlsaFound::None, &testing)] {
        assert_eq!((authentic.source, &authentic.demand), (Source::RequireTls, &Demand::Verified));
        assert_eq!(judge(&authentic, Channel::Tls(&good), now()), Ok(()));
        for channel in [Channel::Tls(&any), Channel::NotOffered] {
            assert_eq!(
                judge(&authentic, channel, now()).unwrap_err().reply().to_string().split(": ").next(),
                Some("451 4.7.30 REQUIRETLS")
            );
        }
    }
    let forgeable = of(false, &TlsaFound::None, &StsFound::None);
    assert!(judge(&forgeable, Channel::Tls(&good), now()).unwrap_err().binding);
    let dane = of(true, &records(&[tlsa(3, 1, 1, b"key")]), &StsFound::None);
    assert!(matches!((dane.source, dane.demand), (Source::Dane, Demand::Dane(_))));
}

#[test]
fn a_domain_is_the_same_however_it_is_written() {
    for (written, known) in [
        ("Example.ORG.", "example.org"),
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("B\u{dc}CHER.example", "xn--bcher-kva.example"),
        ("XN--bcher-kva.example", "xn--bcher-kva.example"),
    ] {
        assert_eq!(canonical(written), known);
    }
    let _ = canonical(&"\u{fc}".repeat(1_000));
}

#[test]
fn what_a_session_does_about_starttls_follows_from_all_its_domains() {
    let of = |configured| requirement(&TlsaFound::None, &StsFound::None, configured);
    let [off, may, must] = [TlsPolicy::Off, TlsPolicy::Opportunistic, TlsPolicy::Verify].map(of);
    let default = rules(TlsPolicy::Off);
    for (all, expected) in [
        (vec![], mediator::TlsPolicy::Opportunistic),
        (vec![off.clone(), off.clone()], mediator::TlsPolicy::Off),
        (vec![off.clone(), must.clone()], mediator::TlsPolicy::Opportunistic),
        (vec![may, must.clone()], mediator::TlsPolicy::Opportunistic),
        (vec![must.clone(), must], mediator::TlsPolicy::Require),
    ] {
        assert_eq!(Requirement::handshake(&all, &default), expected);
    }
}

#[test]
fn a_leg_judges_each_domain_once_and_tells_it_to_records_and_reports() {
    let authority = Authority::new("root");
    let chain = Arc::new(untrusted(&[authority.signs(&["other.example"], |_| ())]));
    let mut leg = LegTls::new(How::Tls(chain));
    let enforce = policy(StsMode::Enforce, &[MX]);
    let strict = requirement(&TlsaFound::None, &enforce, TlsPolicy::Off);
    let other = Known { domain: "plain.example", ..known(&TlsaFound::None, &StsFound::None) };
    let plain = Requirement::of(&other, &rules(TlsPolicy::Off), false);
    for _ in 0..2 {
        assert!(leg.rcpt(&strict, now()).is_err());
        assert_eq!(leg.rcpt(&plain, now()), Ok(()));
    }
    let judged: Vec<_> = leg.judged().collect();
    assert_eq!(judged.len(), 2);
    assert_eq!((judged[0].facts().policy.as_str(), judged[0].facts().satisfied), ("mta-sts enforce", false));
    let (policy, failure) = judged[0].report().unwrap();
    assert_eq!((policy.policy_type, failure.unwrap().0), (PolicyType::Sts, ResultType::CertificateNotTrusted));
    assert_eq!(judged[1].report().unwrap().1, None);
    let via = Via {
        egress: "203.0.113.10".parse().unwrap(),
        mx: Some(MX.into()),
        mx_address: "198.51.100.5".parse().unwrap(),
        helo: None,
    };
    let findings: Vec<_> = leg.findings(&via).map(|finding| (finding.domain, finding.failure.is_some())).collect();
    assert_eq!(findings, [(DOMAIN.to_owned(), true), ("plain.example".to_owned(), false)]);
    let mut unwanted = LegTls::new(How::NotTried);
    let off = requirement(&TlsaFound::None, &StsFound::None, TlsPolicy::Off);
    assert_eq!(unwanted.rcpt(&off, now()), Ok(()));
    assert_eq!(unwanted.judged().next().unwrap().report(), None, "neither a success nor a failure");
}

#[test]
fn policies_are_read_as_rfc_8461_says() {
    let text = "version: STSv1\r\nmode: enforce\r\nmx: Mail.example.com\r\nmx:*.example.net\r\nfuture: x\r\nmax_age: 604800\r\n";
    let read = StsPolicy::parse(text, "20160831085700Z").unwrap();
    assert_eq!((read.mode, read.max_age_s), (StsMode::Enforce, 604_800));
    assert_eq!(read.mx, ["mail.example.com", "*.example.net"]);
    assert!(read.allows("MX.example.net.") && read.allows("mail.example.com"));
    assert!(!read.allows("example.net") && !read.allows("a.mx.example.net") && !read.allows("mail.example.org"));
    let longest = StsPolicy::parse("version: STSv1\nmode: none\nmax_age: 9999999999", "1").unwrap();
    assert_eq!((longest.mode, longest.max_age_s), (StsMode::None, sts::MAX_AGE_S));
    for text in [
        "",
        "mode: enforce\nmx: a.example\nmax_age: 1",
        "version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 1",
        "version: STSv1\nmode: strict\nmx: a.example\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a.example",
        "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1",
        "version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1",
        "<html>",
    ] {
        assert!(StsPolicy::parse(text, "1").is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn records_read_back(usage: u8, selector: u8, matching: u8, data in prop::collection::vec(any::<u8>(), 0..200)) {
        let record = Tlsa { usage, selector, matching, data };
        prop_assert_eq!(record.to_string().parse::<Tlsa>(), Ok(record));
    }

    #[test]
    fn nonsense_is_neither_a_record_nor_a_policy_nor_a_panic(text in "\\PC{0,200}", rest in "[ -~]{0,60}") {
        let _ = text.parse::<Tlsa>();
        let _ = format!("3 1 1 {rest}").parse::<Tlsa>();
        let _ = StsPolicy::parse(&text, "1");
        let _ = covers(&text, &rest);
    }

    #[test]
    fn a_star_covers_one_label(label in "[a-z0-9]{1,10}", more in "[a-z0-9]{1,10}") {
        let (one, two) = (format!("{label}.example.net"), format!("{more}.{label}.example.net"));
        prop_assert!(covers("*.example.net", &one));
        prop_assert!(!covers("*.example.net", &two));
        prop_assert!(!covers("*.example.net", ".example.net"));
    }

    /// Whatever MTA-STS or the configuration say: usable records of a signed zone are what counts, and no excuse is left for the clear.
    #[test]
    fn nothing_overrides_usable_dane(mode in 0..4usize, configured in 0..4usize, require_tls: bool) {
        let sts = [StsFound::None, policy(StsMode::Enforce, &[MX]), policy(StsMode::Testing, &["a.example"]), StsFound::Failed(StsFailure::Fetch)];
        let all = [TlsPolicy::Off, TlsPolicy::Opportunistic, TlsPolicy::Require, TlsPolicy::Verify];
        let found = records(&[tlsa(3, 1, 1, b"key")]);
        let needed = Requirement::of(&known(&found, &sts[mode]), &rules(all[configured]), require_tls);
        prop_assert!(matches!(needed.demand, Demand::Dane(_)) && needed.tested.is_none() && needed.sts_failure.is_none());
        prop_assert!(!needed.allows_clear());
        prop_assert!(judge(&needed, Channel::NotOffered, now()).is_err_and(|unmet| unmet.binding));
    }
}

/// A session that waits keeps one, or more.
#[test]
fn what_was_judged_is_small() {
    assert!(size_of::<Judged>() <= 128, "{}", size_of::<Judged>());
}
