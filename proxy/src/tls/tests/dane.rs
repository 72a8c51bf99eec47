//! Certificates against TLSA records.

use super::*;

fn dane(tlsa: &[Tlsa], chain: &Chain) -> Result<(), Option<ResultType>> {
    let requirement = requirement(&records(tlsa), &StsFound::None, TlsPolicy::Off);
    judge(&requirement, Channel::Tls(chain), now()).map_err(|unmet| {
        assert!(unmet.binding && unmet.reply().code == 451);
        unmet.result
    })
}

#[test]
fn dane_ee_looks_at_the_key_and_at_nothing_else() {
    let authority = Authority::new("root");
    let (own, key) = authority.signs_with_key(&["another.example"], expired);
    let chain = untrusted(std::slice::from_ref(&own));
    for matching in 0..=2 {
        assert_eq!(dane(&[tlsa(3, 0, matching, &own)], &chain), Ok(()), "3 0 {matching}");
        assert_eq!(dane(&[tlsa(3, 1, matching, &key)], &chain), Ok(()), "3 1 {matching}");
        let other = [tlsa(3, 1, matching, &authority.key)];
        assert_eq!(dane(&other, &chain), Err(Some(ResultType::CertificateNotTrusted)));
        assert_eq!(dane(&[other[0].clone(), tlsa(3, 0, matching, &own)], &chain), Ok(()), "one of them is enough");
    }
    let with_root = untrusted(&[own, authority.certificate.clone()]);
    assert!(dane(&[tlsa(3, 0, 1, &authority.certificate)], &with_root).is_err(), "the server's own, no other");
}

#[test]
fn dane_ta_wants_a_chain_a_name_and_a_date() {
    let authority = Authority::new("root");
    let stranger = Authority::new("stranger");
    for (names, change, expected) in [
        (&[MX][..], None, Ok(())),
        (&[DOMAIN], None, Ok(())),
        (&["*.example.net"], None, Ok(())),
        (&["other.example"], None, Err(Some(ResultType::CertificateHostMismatch))),
        (&[MX], Some(()), Err(Some(ResultType::CertificateExpired))),
    ] {
        let own = authority.signs(names, |params| change.iter().for_each(|()| expired(params)));
        let chain = untrusted(&[own.clone(), authority.certificate.clone()]);
        for matching in 0..=2 {
            assert_eq!(dane(&[tlsa(2, 0, matching, &authority.certificate)], &chain), expected, "{names:?}");
            assert_eq!(dane(&[tlsa(2, 1, matching, &authority.key)], &chain), expected, "{names:?}");
        }
        // What stands in the record in full need not be sent.
        let alone = untrusted(&[own]);
        assert_eq!(dane(&[tlsa(2, 0, 0, &authority.certificate)], &alone), expected);
        assert_eq!(dane(&[tlsa(2, 1, 0, &authority.key)], &alone), expected);
        assert!(dane(&[tlsa(2, 0, 1, &authority.certificate)], &alone).is_err());
        assert!(dane(&[tlsa(2, 1, 0, &stranger.key)], &alone).is_err());
    }
    let own = authority.signs(&[MX], |_| ());
    assert!(
        dane(&[tlsa(2, 0, 1, &own)], &untrusted(std::slice::from_ref(&own))).is_err(),
        "a server is no anchor of itself"
    );
    let forged = untrusted(&[stranger.signs(&[MX], |_| ()), authority.certificate.clone()]);
    assert!(dane(&[tlsa(2, 0, 1, &authority.certificate)], &forged).is_err(), "an anchor that signed nothing");
}

#[test]
fn a_common_name_counts_where_there_are_no_dns_names() {
    let authority = Authority::new("root");
    let common = |name: &'static str| {
        move |params: &mut CertificateParams| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        }
    };
    let ta = [tlsa(2, 0, 1, &authority.certificate)];
    let with = |own| dane(&ta, &untrusted(&[own, authority.certificate.clone()]));
    assert_eq!(with(authority.signs(&[], common(MX))), Ok(()));
    assert!(with(authority.signs(&["other.example"], common(MX))).is_err());
}

#[test]
fn only_the_strongest_digest_counts() {
    let (own, key) = Authority::new("root").signs_with_key(&[MX], |_| ());
    let chain = untrusted(&[own]);
    let (weak, wrong) = (tlsa(3, 1, 1, &key), tlsa(3, 1, 2, b"another key"));
    assert!(dane(&[weak.clone(), wrong], &chain).is_err());
    let of_another_selector = tlsa(3, 0, 2, b"another certificate");
    assert_eq!(dane(&[weak, of_another_selector], &chain), Ok(()));
}

#[test]
fn records_that_cannot_be_used_ask_for_encryption_by_anybody() {
    let authority = Authority::new("root");
    let own = authority.signs(&["other.example"], expired);
    let chain = untrusted(std::slice::from_ref(&own));
    let short = Tlsa { data: vec![1; 31], ..tlsa(3, 1, 1, &own) };
    for record in [
        tlsa(0, 0, 1, &authority.certificate),
        tlsa(1, 0, 1, b"another"),
        Tlsa { usage: 255, ..tlsa(3, 0, 1, &own) },
        Tlsa { selector: 2, ..tlsa(3, 0, 1, b"x") },
        Tlsa { matching: 3, ..tlsa(3, 0, 1, b"x") },
        short,
        tlsa(2, 0, 0, b"no certificate"),
        tlsa(2, 1, 0, b"no key"),
    ] {
        assert!(!record.usable());
        let found = records(&[record]);
        let needed = requirement(&found, &StsFound::None, TlsPolicy::Off);
        assert_eq!((needed.source, &needed.demand), (Source::Dane, &Demand::Encrypted));
        assert_eq!(judge(&needed, Channel::Tls(&chain), now()), Ok(()));
        let unmet = judge(&needed, Channel::NotOffered, now()).unwrap_err();
        assert_eq!((unmet.binding, unmet.result), (true, Some(ResultType::StarttlsNotSupported)));
        // RFC 8461 §2: what asks for more still does.
        let enforced = requirement(&found, &policy(StsMode::Enforce, &[MX]), TlsPolicy::Off);
        assert_eq!((enforced.source, &enforced.demand), (Source::MtaSts, &Demand::Verified));
    }
}
