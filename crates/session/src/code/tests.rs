//! What is written is read again, and what is no record is none.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};
use warren_launcher_api::{CellId, TenantName};

use super::*;
use crate::{CertificateFacts, PolicyFacts, SessionId, TlsFacts, detect::EventKind};

/// Owned parts, from which records that borrow are made.
#[derive(Debug, Clone)]
struct Parts {
    numbers: [u64; 6],
    times: [Option<u64>; 6],
    texts: [String; 6],
    options: [Option<String>; 3],
    list: Vec<String>,
    flags: [bool; 3],
    door: Door,
    dir: Dir,
    outcome: Outcome,
    event: EventKind,
    verdict: (Class, About),
    address: IpAddr,
    what: u8,
}

fn parts() -> impl Strategy<Value = Parts> {
    let text = || "(\\PC|[\u{0}-\u{1f}]){0,20}";
    let numbers = prop_oneof![any::<u64>(), 0..300_u64];
    let simple = (
        prop::array::uniform6(numbers),
        prop::array::uniform6(option::of(any::<u64>())),
        prop::array::uniform6(text()),
        prop::array::uniform3(option::of(text())),
        vec(text(), 0..8),
        any::<[bool; 3]>(),
    );
    let listed = (
        select(&Door::ALL),
        select(&Dir::ALL),
        select(&Outcome::ALL),
        select(&EventKind::ALL),
        (select(&Class::ALL), select(&About::ALL)),
        any::<IpAddr>(),
        0_u8..14,
    );
    (simple, listed).prop_map(
        |((numbers, times, texts, options, list, flags), (door, dir, outcome, event, verdict, address, what))| Parts {
            numbers,
            times,
            texts,
            options,
            list,
            flags,
            door,
            dir,
            outcome,
            event,
            verdict,
            address,
            what,
        },
    )
}

impl Parts {
    fn small(&self, n: usize) -> u16 {
        self.numbers[n] as u16
    }

    fn code(&self, n: usize) -> Option<u16> {
        self.times[n].map(|code| code as u16)
    }

    fn text(&self, n: usize) -> &str {
        &self.texts[n]
    }

    fn option(&self, n: usize) -> Option<String> {
        self.options[n].clone()
    }

    fn verdict(&self) -> Verdict {
        let (class, about) = self.verdict;
        Verdict { class, list: self.option(0), about, rule: self.texts[5].clone().into() }
    }

    fn policies(&self) -> Vec<PolicyFacts> {
        let [satisfied, ..] = self.flags;
        let policy = |domain: &String| PolicyFacts {
            domain: domain.clone(),
            policy: self.texts[0].clone(),
            satisfied,
            reason: self.option(0),
        };
        self.list.iter().map(policy).collect()
    }

    fn tls(&self) -> TlsFacts {
        let [resumed, trusted, certified] = self.flags;
        let [version, cipher, subject, issuer, sha256, _] = self.texts.clone();
        let [not_before, not_after, handshake_us, ..] = self.numbers;
        let names = self.list.clone();
        let (not_before, not_after) = (not_before.cast_signed(), not_after.cast_signed());
        let certificate = CertificateFacts { subject, issuer, names, not_before, not_after, sha256 };
        TlsFacts {
            version,
            cipher,
            group: self.option(0),
            sni: self.option(1),
            resumed,
            handshake_us,
            trusted,
            objection: self.option(2),
            certificate: certified.then_some(certificate),
            chain_sha256: self.list.clone(),
            policies: self.policies(),
        }
    }

    fn record(&self, id: SessionId) -> Record<'_> {
        let [first, second, third, ..] = self.numbers;
        let leg = self.small(3);
        match self.what {
            0 => Record::Start(Cow::Owned(SessionStart {
                id,
                tenant: TenantName::new("acme").unwrap(),
                cell: self.times[0].map(CellId),
                door: self.door,
                mx: SocketAddr::new(self.address, self.small(0)),
                mx_name: self.option(0),
                mx_operator: self.option(1),
                at: SystemTime::UNIX_EPOCH + Duration::from_micros(first >> 2),
            })),
            1 => Record::Leg(
                leg,
                LegNews::Dialled(Dialled {
                    at_us: first,
                    egress: self.address,
                    ehlo_name: self.text(0),
                    decision: self.text(1),
                }),
            ),
            2 if first % 2 == 0 => Record::Leg(leg, LegNews::TakenOver(id)),
            2 => Record::Leg(leg, LegNews::Connected(first)),
            3 => Record::Leg(leg, LegNews::Secured(Cow::Owned(self.tls()))),
            4 => Record::Leg(leg, LegNews::Offered(Cow::Borrowed(&self.list))),
            5 => Record::Leg(leg, LegNews::Failed(self.text(0))),
            6 => Record::Leg(leg, LegNews::Judged(Cow::Owned(self.policies()))),
            7 => Record::Exchange(Exchange {
                seq: first as u32,
                leg,
                at_us: second,
                dir: self.dir,
                verb: self.text(0),
                code: self.code(0),
                text: self.text(1),
                took_us: self.times[1],
            }),
            8 => {
                let [mail_us, data_us, content_us, sent_us, reply_us, _] = self.times;
                Record::Message(Cow::Owned(Message {
                    n: first as u32,
                    leg,
                    reverse_path: self.texts[0].clone(),
                    size: second,
                    message_id: self.option(1),
                    mail_us,
                    data_us,
                    content_us,
                    sent_us,
                    reply_us,
                    verdict: self.verdict(),
                    code: self.code(5),
                }))
            }
            9 => Record::Recipient(Recipient {
                message: first as u32,
                n: second as u32,
                forward_path: self.text(0),
                verdict: Cow::Owned(self.verdict()),
                code: self.code(0),
                enhanced: self.options[1].as_deref(),
                text: self.text(1),
                reply_us: self.times[1],
            }),
            10 => Record::Event(Event {
                n: first as u32,
                leg,
                at_us: second,
                kind: self.event,
                operator: self.text(0),
                egress: self.address,
                verb: self.text(1),
                code: self.code(0),
                list: self.options[0].as_deref(),
                evidence: self.text(2),
            }),
            11 => Record::End(SessionEnd { at_us: first, outcome: self.outcome, bytes: second }),
            12 => Record::Mail(Mail {
                n: first as u32,
                leg,
                code: self.small(4),
                size: second,
                times: [0, 1, 2, 3, 4].map(|n| self.times[n]),
                reverse_path: self.text(0),
                message_id: self.options[0].as_deref(),
                enhanced: self.options[1].as_deref(),
                text: self.text(1),
                recipients: (1..).zip(self.list.iter().map(String::as_str)).collect::<Vec<_>>().into(),
            }),
            _ => Record::Gap(Gap {
                from_us: first.cast_signed(),
                until_us: second.cast_signed(),
                records: third,
                reason: self.texts[0].clone(),
            }),
        }
    }
}

fn read_all(mut bytes: &[u8], id: SessionId) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(read(&mut bytes, id)?);
    }
    Some(records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_are_read_as_they_were_written(all in vec(parts(), 0..10)) {
        let id = SessionId::new();
        let records: Vec<Record<'_>> = all.iter().map(|parts| parts.record(id)).collect();
        let mut sheet = Vec::new();
        records.iter().for_each(|record| write(&mut sheet, record));
        prop_assert_eq!(read_all(&sheet, id), Some(records));
    }

    #[test]
    fn a_record_that_is_cut_is_none(parts in parts(), at in any::<prop::sample::Index>()) {
        let id = SessionId::new();
        let mut sheet = Vec::new();
        write(&mut sheet, &parts.record(id));
        let mut cut = &sheet[..at.index(sheet.len())];
        prop_assert_eq!(read(&mut cut, id), None);
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        let _ = read_all(&bytes, SessionId::new());
    }
}

#[test]
fn a_certificate_with_a_thousand_names_does_not_fill_the_disk() {
    let long = || "x".repeat(10_000);
    let certificate = CertificateFacts {
        subject: long(),
        issuer: long(),
        names: vec![long(); 1_000],
        not_before: 0,
        not_after: 0,
        sha256: long(),
    };
    let facts = TlsFacts {
        version: long(),
        cipher: long(),
        group: Some(long()),
        sni: Some(long()),
        resumed: false,
        handshake_us: 0,
        trusted: false,
        objection: Some(long()),
        certificate: Some(certificate),
        chain_sha256: vec![long(); 1_000],
        policies: Vec::new(),
    };
    let mut sheet = Vec::new();
    write(&mut sheet, &Record::Leg(1, LegNews::Secured(Cow::Owned(facts))));
    assert!(sheet.len() < (2 * LIST_LIMIT + 10) * (FIELD_LIMIT + 2), "{}", sheet.len());
    sheet.clear();
    let egress = [203, 0, 113, 10].into();
    let decision = format!("\"{}\"", "x".repeat(100_000));
    write(
        &mut sheet,
        &Record::Leg(1, LegNews::Dialled(Dialled { at_us: 1, egress, ehlo_name: &long(), decision: &decision })),
    );
    assert!(sheet.len() < 2 * FIELD_LIMIT, "{}", sheet.len());
    let Some(Record::Leg(1, LegNews::Dialled(read))) = read(&mut sheet.as_slice(), SessionId::new()) else { panic!() };
    assert_eq!((read.ehlo_name.len(), read.decision), (FIELD_LIMIT, r#"{"left_out_bytes":100002}"#));
}
