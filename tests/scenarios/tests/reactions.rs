//! How real MSAs take each kind of refusal that the proxy gives: Postfix, Exim and OpenSMTPD send through it, each on its host of the lab.
//!
//! What must hold is asserted; the rest is the table of `docs/reactions.md`, which is what was seen here, row by row.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_lab::config::MtaKind;
use warren_lab::{Act, Lab, LabConfig, Persona, Record, RecordData, Step, Tls, When};
use warren_scenarios::beside::{Beside, Redirecting, nft};
use warren_scenarios::mta::Mta;
use warren_scenarios::{Dialogue, inside, readme};

const LONG: Duration = Duration::from_secs(90);
/// A message of which nothing is seen for this long is held back. No event says so: OpenSMTPD does not log what it does not try.
const QUIET: Duration = Duration::from_secs(12);
/// How many more are sent at once. Postfix gives up a destination when about as many sessions in a row failed as it has at a time, which are five
/// (`default_destination_concurrency_failed_cohort_limit`, `initial_destination_concurrency`), and forgets about failures when its queue for it is empty.
const MORE: usize = 12;
/// So many of them Postfix tries before it does.
const TRIED_FIRST: std::ops::RangeInclusive<usize> = 4..=5;

/// A refusal, and how it is brought about.
struct Case {
    name: &'static str,
    /// `[egress]` and `[proxy]`, beyond what every proxy here has.
    egress: &'static str,
    proxy: &'static str,
    /// The MX that it happens at; nobody lives there if the MX is not to be reached.
    mx: Option<fn(Persona) -> Persona>,
    /// What the MSA hears.
    reply: &'static str,
    /// Where it hears it.
    when: &'static str,
    /// One of two recipients hears it; the other's domain wants nothing.
    other: bool,
    /// Somebody else holds the only place.
    full: bool,
}

const CASES: [Case; 5] = [
    Case {
        name: "unreachable",
        egress: "",
        proxy: "connect_timeout = \"2s\"",
        mx: None,
        reply: "421 4.4.1",
        when: "at the greeting",
        other: false,
        full: false,
    },
    Case {
        name: "untrusted",
        egress: "",
        proxy: "tls = \"require\"",
        // Slow, so that Postfix has them all in its queue when the first of many fails.
        mx: Some(|persona| {
            let slow = Act::Stall(Duration::from_secs(2));
            Persona { tls: Tls::Off, ..persona }.rule(Step::Ehlo, When::Always, slow)
        }),
        reply: "421 4.7.4",
        when: "at EHLO",
        other: false,
        full: false,
    },
    Case {
        name: "full",
        egress: "max_wait = \"1s\"\n[egress.budgets]\nsessions = 1",
        proxy: "",
        mx: Some(|persona| persona),
        reply: "451 4.3.2",
        when: "at MAIL",
        other: false,
        full: true,
    },
    Case {
        name: "strict",
        egress: "",
        proxy: "[[proxy.tls_rules]]\ndomains = [\"strict1.example\", \"strict2.example\"]\npolicy = \"require\"",
        mx: Some(|persona| Persona { tls: Tls::Off, ..persona }),
        reply: "451 4.7.5",
        when: "at RCPT",
        other: true,
        full: false,
    },
    Case {
        name: "listed",
        egress: "",
        proxy: "",
        mx: Some(|persona| {
            let refusal = "554 5.7.1 Service unavailable; client blocked using bl.lab.example".to_owned();
            persona.rule(Step::Greeting, When::Always, Act::ReplyAndClose(vec![refusal]))
        }),
        reply: "554 5.7.1",
        when: "at the greeting",
        other: false,
        full: false,
    },
];

impl Case {
    /// The domain with this many MXs.
    fn domain(&self, mxs: usize) -> String {
        format!("{}{mxs}.example", self.name)
    }

    /// Another domain of the first MX.
    fn other(&self, mxs: usize) -> String {
        format!("other-{}", self.domain(mxs))
    }

    /// The first MX. Each domain has its own: MSAs remember what an address did to them.
    fn first(&self, mxs: usize) -> Ipv4Addr {
        self.address(mxs)
    }

    /// The second, where all is well.
    fn second(&self) -> Ipv4Addr {
        self.address(3)
    }

    fn address(&self, which: usize) -> Ipv4Addr {
        let case = CASES.iter().position(|case| case.name == self.name).unwrap();
        Ipv4Addr::new(198, 51, 100, u8::try_from(100 + case * 4 + which).unwrap())
    }

    fn personas(&self) -> Vec<Persona> {
        let mut all = vec![Persona::new(format!("{}-second", self.name), self.second(), &[])];
        let host = |mxs| Persona::new(format!("{}-{mxs}", self.name), self.first(mxs), &[]);
        all.extend(self.mx.into_iter().flat_map(|make| [1, 2].map(|mxs| make(host(mxs)))));
        all
    }

    fn records(&self) -> Vec<Record> {
        let mut all = Vec::new();
        let mut add = |name: String, data| all.push(Record::new(name, data));
        for mxs in [1, 2] {
            let domain = self.domain(mxs);
            for domain in [domain.clone(), self.other(mxs)] {
                add(domain, RecordData::Mx(10, format!("mx1.{}", self.domain(mxs))));
            }
            add(format!("mx1.{domain}"), RecordData::A(self.first(mxs)));
        }
        add(self.domain(2), RecordData::Mx(20, format!("mx2.{}", self.domain(2))));
        add(format!("mx2.{}", self.domain(2)), RecordData::A(self.second()));
        all
    }

    /// Whether the refusal is about the host, and not about a message.
    fn of_host(&self) -> bool {
        self.reply.starts_with("421")
    }

    fn proxy(&self, own: Ipv4Addr) -> String {
        let rest = format!("[proxy]\n{}", self.proxy);
        let (hostname, own, egress) = ("mail.lab.example", own.into(), self.egress);
        Redirecting { hostname, own, egress, standalone: "", rest: &rest }.toml()
    }
}

/// An MSA of the lab.
struct Msa<'lab> {
    lab: &'lab Lab,
    mta: Mta<'lab>,
}

/// What became of a message for a recipient, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// An MX has it.
    Delivered,
    /// An attempt was made; it stays in the queue.
    Delayed,
    /// No attempt was made.
    Held,
    /// Its author has it back.
    Bounced,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Fate::Delivered => "delivered",
            Fate::Delayed => "delayed",
            Fate::Held => "held",
            Fate::Bounced => "bounced",
        })
    }
}

impl<'lab> Msa<'lab> {
    fn find(lab: &'lab Lab, kind: MtaKind) -> Self {
        Msa { lab, mta: Mta::find(lab, kind) }
    }

    /// What its log says last about this recipient.
    fn logged(&self, to: &str) -> Option<Fate> {
        let log = self.mta.log();
        let mut about = log.lines().filter(|line| line.contains(to)).filter_map(|line| match self.mta.kind {
            MtaKind::Postfix if line.contains("status=sent") => Some(Fate::Delivered),
            MtaKind::Postfix if line.contains("status=bounced") => Some(Fate::Bounced),
            MtaKind::Postfix if line.contains("delivery temporarily suspended") => Some(Fate::Held),
            MtaKind::Postfix if line.contains("status=deferred") => Some(Fate::Delayed),
            MtaKind::Exim if line.contains(" => ") || line.contains(" -> ") => Some(Fate::Delivered),
            MtaKind::Exim if line.contains(" ** ") => Some(Fate::Bounced),
            MtaKind::Exim if line.contains("retry time not reached") => Some(Fate::Held),
            MtaKind::Exim if line.contains(" == ") => Some(Fate::Delayed),
            MtaKind::Opensmtpd if line.contains("source=\"-\"") => Some(Fate::Held),
            MtaKind::Opensmtpd if line.contains("result=\"Ok\"") => Some(Fate::Delivered),
            MtaKind::Opensmtpd if line.contains("result=\"PermFail\"") => Some(Fate::Bounced),
            MtaKind::Opensmtpd if line.contains("result=\"TempFail\"") => Some(Fate::Delayed),
            _ => None,
        });
        about.next_back()
    }

    /// Waits for what becomes of it.
    fn fate(&self, to: &str, patience: Duration) -> Fate {
        let end = Instant::now() + patience;
        loop {
            match self.logged(to) {
                Some(fate) => return fate,
                None if Instant::now() > end => return Fate::Held,
                None => std::thread::park_timeout(Duration::from_millis(50)),
            }
        }
    }

    /// The same for all of these, until nothing more is seen.
    fn fates(&self, all: &[String]) -> Vec<Fate> {
        let (mut told, mut end) = (0, Instant::now() + QUIET);
        loop {
            let fates: Vec<_> = all.iter().map(|to| self.logged(to)).collect();
            let now = fates.iter().flatten().count();
            if now > told {
                (told, end) = (now, Instant::now() + QUIET);
            }
            if told == all.len() || Instant::now() > end {
                return fates.into_iter().map(|fate| fate.unwrap_or(Fate::Held)).collect();
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// What becomes of the second and the others: the words of the table.
    fn crowd(&self, case: &Case, fates: &[Fate]) -> &'static str {
        let tried = fates.iter().filter(|fate| **fate != Fate::Held).count();
        if case.of_host() && self.mta.kind == MtaKind::Postfix {
            assert!(TRIED_FIRST.contains(&tried), "{}: {fates:?}\n{}", case.name, self.mta.log());
            assert!(self.mta.log().contains("delivery temporarily suspended"), "{}", self.mta.log());
        }
        match tried {
            0 => "all held",
            all if all == fates.len() => "none held",
            few if TRIED_FIRST.contains(&few) => "held after 4 or 5",
            some => panic!("{}, {}: {some} were tried: {fates:?}\n{}", name(self.mta.kind), case.name, self.mta.log()),
        }
    }

    /// Plays a refusal, at the only MX of a domain or at the first of two. Gives the row of the table.
    fn play(&self, case: &Case, mxs: usize) -> String {
        let host = self.mta.namespace();
        let proxy = Beside::start(&host, &[], &case.proxy(self.mta.kind.address()));
        let holder = case.full.then(|| {
            let (dialogue, greeting) =
                inside(&host, || Dialogue::open(SocketAddr::from((case.first(mxs), 25)))).unwrap();
            assert!(greeting.starts_with("220"), "{greeting}");
            dialogue
        });
        let kind = self.mta.kind.name();
        let to = |which: &str| format!("{kind}-{which}@{}", case.domain(mxs));
        let other = format!("{kind}-other@{}", case.other(mxs));
        let (one, two) = (to("one"), to("two"));
        let recipients: Vec<&str> = if case.other { vec![&one, &other] } else { vec![&one] };
        self.mta.send(&recipients, "the first");
        let first = self.fate(&one, LONG);
        if case.other {
            let fate = self.fate(&other, LONG);
            assert_eq!(fate, Fate::Delivered, "{kind}, {}: the other recipient\n{}", case.name, self.mta.log());
        }
        let heard = proxy.transcript(&case.first(mxs).to_string(), case.reply);
        assert!(
            heard.lines().any(|line| line.contains(case.reply) && (line.contains("<|") || line.contains("<-"))),
            "{kind}, {}: it hears something else\n{heard}",
            case.name
        );
        // It heard that, so there was an attempt, whatever the log calls it.
        let first = if first == Fate::Held { Fate::Delayed } else { first };
        let next = match (mxs, first) {
            (1, _) => "",
            (_, Fate::Delivered) => "yes",
            // Delayed at the second as well, or not tried there.
            _ if self.mta.log().contains(&case.second().to_string()) => "yes",
            _ => "no",
        };
        self.mta.send(&[&two], "the second");
        let mut others = vec![two];
        if mxs == 1 {
            others.extend((0..MORE).map(|n| to(&format!("more{n}"))));
            others[1..].iter().for_each(|to| self.mta.send(&[to], "one of many"));
        }
        let fates = self.fates(&others);
        let (second, many) = (fates[0], if mxs == 1 { self.crowd(case, &fates) } else { "" });
        drop(holder);
        if case.reply.starts_with('4') {
            let back = self.lab.mailbox(&self.mta.kind.domain(), "alice").messages().unwrap();
            assert!(
                back.is_empty() && first != Fate::Bounced && !fates.contains(&Fate::Bounced),
                "{kind}, {}",
                case.name
            );
        }
        if case.name == "unreachable" && mxs == 2 {
            assert_eq!((first, second), (Fate::Delivered, Fate::Delivered), "{kind}\n{}", self.mta.log());
        }
        let mxs = if mxs == 1 { "only" } else { "first of two" };
        format!(
            "| `{}` {} | {mxs} | {} | {next} | {first} | {second} | {many} |",
            case.reply,
            case.when,
            name(self.mta.kind)
        )
    }
}

#[test]
fn each_refusal_is_taken_as_it_is_meant() {
    let mut config = LabConfig::default();
    for case in &CASES {
        config.personas.extend(case.personas());
        config.records.extend(case.records());
    }
    let lab = Lab::start_with(&config).unwrap();
    let rows: Vec<Vec<String>> = std::thread::scope(|scope| {
        let all: Vec<_> = [MtaKind::Postfix, MtaKind::Exim, MtaKind::Opensmtpd]
            .map(|kind| {
                let lab = &lab;
                scope.spawn(move || {
                    nft(&lab.namespace(kind.name()).unwrap(), readme::redirect());
                    let msa = Msa::find(lab, kind);
                    CASES.iter().flat_map(|case| [1, 2].map(|mxs| msa.play(case, mxs))).collect::<Vec<_>>()
                })
            })
            .into_iter()
            .collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut table = String::new();
    for at in 0..CASES.len() * 2 {
        rows.iter().for_each(|of_msa| writeln!(table, "{}", of_msa[at]).unwrap());
    }
    println!("{table}");
    let documented = include_str!("../../../docs/reactions.md");
    let new: Vec<&str> = table.lines().filter(|row| !documented.contains(row)).collect();
    let log = |kind: MtaKind| lab.host_log(kind.name()).unwrap();
    assert!(
        new.is_empty(),
        "docs/reactions.md does not say:\n{}\n{}",
        new.join("\n"),
        [MtaKind::Postfix, MtaKind::Exim, MtaKind::Opensmtpd].map(log).join("\n")
    );
}

fn name(kind: MtaKind) -> &'static str {
    match kind {
        MtaKind::Postfix => "Postfix",
        MtaKind::Exim => "Exim",
        MtaKind::Opensmtpd => "OpenSMTPD",
    }
}
