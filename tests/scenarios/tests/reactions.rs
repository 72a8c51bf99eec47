//! How real MSAs take each kind of refusal that the proxy gives: Postfix, Exim and OpenSMTPD send through it, each on its host of the lab.
//!
//! What must hold is asserted; the rest is the table of `docs/reactions.md`, which is what was seen here, row by row.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use warren_lab::config::MtaKind;
use warren_lab::{Act, Lab, LabConfig, Persona, Record, RecordData, Step, Tls, When};
use warren_scenarios::beside::{Beside, PORT, nft};
use warren_scenarios::corpus::note;
use warren_scenarios::{Dialogue, inside};

const LONG: Duration = Duration::from_secs(90);
/// A message of which nothing is seen for this long is held back. No event says so: OpenSMTPD does not log what it does not try.
const QUIET: Duration = Duration::from_secs(12);

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
        mx: Some(|persona| Persona { tls: Tls::Off, ..persona }),
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

    fn proxy(&self, address: Ipv4Addr) -> String {
        format!(
            r#"hostname = "mail.lab.example"
[egress]
addresses = ["{address}"]
allow_networks = ["198.51.100.0/24"]
{}
[proxy.standalone]
listen = ["127.0.0.1:{PORT}"]
mode = "redirect"
tenants = {{ "{address}" = "msa" }}
[proxy]
{}
"#,
            self.egress, self.proxy
        )
    }
}

/// An MSA of the lab.
struct Msa<'lab> {
    lab: &'lab Lab,
    kind: MtaKind,
    pid: u32,
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
        let network = std::fs::metadata(lab.namespace(kind.name()).unwrap()).unwrap().ino();
        let program = match kind {
            MtaKind::Postfix => "master",
            MtaKind::Exim => "exim4",
            MtaKind::Opensmtpd => "smtpd",
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let fits = |pid: &u32| {
            let there = std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.ino() == network);
            there && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
        };
        let pid = pids.find(fits).expect("the lab's MTA runs");
        Msa { lab, kind, pid }
    }

    fn author(&self) -> String {
        format!("alice@{}", self.kind.domain())
    }

    /// A message is written on the MSA's host.
    fn send(&self, to: &[&str], subject: &str) {
        let mut sendmail = Command::new("nsenter");
        sendmail.args(["-t", &self.pid.to_string(), "--net", "--mount", "--root", "--wd", "--", "/usr/sbin/sendmail"]);
        let mut sendmail = sendmail.args(["-f", &self.author()]).args(to).stdin(Stdio::piped()).spawn().unwrap();
        let letter = note(&self.author(), subject);
        sendmail
            .stdin
            .take()
            .unwrap()
            .write_all(String::from_utf8(letter).unwrap().replace('\r', "").as_bytes())
            .unwrap();
        assert!(sendmail.wait().unwrap().success());
    }

    fn log(&self) -> String {
        self.lab.host_log(self.kind.name()).unwrap()
    }

    /// What its log says last about this recipient.
    fn logged(&self, to: &str) -> Option<Fate> {
        let log = self.log();
        let mut about = log.lines().filter(|line| line.contains(to)).filter_map(|line| match self.kind {
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

    /// Plays a refusal, at the only MX of a domain or at the first of two. Gives the row of the table.
    fn play(&self, case: &Case, mxs: usize) -> String {
        let host = self.lab.namespace(self.kind.name()).unwrap();
        let proxy = Beside::start(&host, &[], &case.proxy(self.kind.address()));
        let holder = case.full.then(|| {
            let (dialogue, greeting) =
                inside(&host, || Dialogue::open(SocketAddr::from((case.first(mxs), 25)))).unwrap();
            assert!(greeting.starts_with("220"), "{greeting}");
            dialogue
        });
        let kind = self.kind.name();
        let to = |which: &str| format!("{kind}-{which}@{}", case.domain(mxs));
        let other = format!("{kind}-other@{}", case.other(mxs));
        let (one, two) = (to("one"), to("two"));
        let recipients: Vec<&str> = if case.other { vec![&one, &other] } else { vec![&one] };
        self.send(&recipients, "the first");
        let first = self.fate(&one, LONG);
        if case.other {
            let fate = self.fate(&other, LONG);
            assert_eq!(fate, Fate::Delivered, "{kind}, {}: the other recipient\n{}", case.name, self.log());
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
            _ if self.log().contains(&case.second().to_string()) => "yes",
            _ => "no",
        };
        self.send(&[&two], "the second");
        let second = self.fate(&two, QUIET);
        drop(holder);
        if case.reply.starts_with('4') {
            let back = self.lab.mailbox(&self.kind.domain(), "alice").messages().unwrap();
            assert!(back.is_empty() && first != Fate::Bounced && second != Fate::Bounced, "{kind}, {}", case.name);
        }
        if case.name == "unreachable" && mxs == 2 {
            assert_eq!((first, second), (Fate::Delivered, Fate::Delivered), "{kind}\n{}", self.log());
        }
        let mxs = if mxs == 1 { "only" } else { "first of two" };
        format!("| `{}` {} | {mxs} | {} | {next} | {first} | {second} |", case.reply, case.when, name(self.kind))
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
                    nft(&lab.namespace(kind.name()).unwrap(), RULES);
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

/// As in the proxy's README.
const RULES: &str = r#"table ip warren {
  chain output {
    type nat hook output priority -100;
    meta skuid != "warren-proxy" ip daddr != 127.0.0.0/8 tcp dport 25 redirect to :10025
  }
}
"#;
