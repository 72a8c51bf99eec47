//! What a lab can be asked for.
//!
//! The owner builds a [`LabConfig`]; it travels to the lab as JSON. Defaults are the lab that README.md draws.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A lab to be started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabConfig {
    /// Domains whose MX is the node. `acme.example` and `globex.example` unless told otherwise.
    pub node_domains: Vec<String>,
    /// Which of the real MX programs run. All, unless told otherwise.
    pub mtas: Vec<MtaKind>,
    /// How long the tarpit takes for each character that it writes.
    pub tarpit_delay: Duration,
    /// Personas beside the three that every lab has (`tarpit`, `later`, `plain`).
    pub personas: Vec<Persona>,
    /// The ready-made personas of [`crate::persona::catalogue`], too.
    #[serde(default)]
    pub catalogue: bool,
    /// MTA-STS policies, which a host of the lab serves over HTTPS.
    #[serde(default)]
    pub policies: Vec<StsPolicy>,
    /// Records beside those that the map makes.
    pub records: Vec<Record>,
    /// How long all hosts together may take to answer.
    pub start_deadline: Duration,
}

impl Default for LabConfig {
    fn default() -> Self {
        LabConfig {
            node_domains: vec!["acme.example".into(), "globex.example".into()],
            mtas: vec![MtaKind::Postfix, MtaKind::Exim, MtaKind::Opensmtpd],
            // A greeting of some 40 characters then takes 8 s: it hurts, and a test can still wait for it.
            tarpit_delay: Duration::from_millis(200),
            personas: Vec::new(),
            catalogue: false,
            policies: Vec::new(),
            records: Vec::new(),
            start_deadline: Duration::from_secs(60),
        }
    }
}

impl LabConfig {
    /// A lab without the real MX programs: starts in a fraction of a second.
    pub fn personas_only() -> Self {
        LabConfig { mtas: Vec::new(), ..Self::default() }
    }
}

/// What a domain's `mta-sts.` host says (RFC 8461), announced by the domain's TXT record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StsPolicy {
    /// The domain.
    pub domain: String,
    /// The policy's text, as it is sent.
    pub text: String,
}

/// A real MX program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtaKind {
    /// `postfix.example`
    Postfix,
    /// `exim.example`
    Exim,
    /// `opensmtpd.example`
    Opensmtpd,
}

/// A record of the lab's DNS.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Owner name, without the final dot.
    pub name: String,
    /// What it says.
    pub data: RecordData,
}

/// The types that the lab serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordData {
    /// Address; also makes the PTR unless another name has it already.
    A(Ipv4Addr),
    /// Any address, for what must never be dialled (loopback, v4-mapped …).
    Aaaa(std::net::Ipv6Addr),
    /// Preference and exchange; `.` is the null MX of RFC 7505.
    Mx(u16, String),
    /// Another name.
    Cname(String),
    /// Reverse name, for owner names under `in-addr.arpa`.
    Ptr(String),
    /// Text.
    Txt(String),
    /// Every question for this name, or one below it, is answered SERVFAIL.
    ServFail,
}

impl Record {
    /// A record of `name`.
    pub fn new(name: impl Into<String>, data: RecordData) -> Self {
        Record { name: name.into(), data }
    }
}

/// A scripted MX host. What no rule catches is accepted; an accepted message is stored for each of its recipients exactly
/// as it came, under its own address (see [`crate::Lab::mailbox`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Persona {
    /// Name, in the log and in the greeting (`mx1.<first domain>` if it has domains).
    pub name: String,
    /// Where it listens on port 25; must be in 198.51.100.0/24 and nobody else's.
    pub address: Ipv4Addr,
    /// Domains whose only MX it is. More can be given by [`LabConfig::records`].
    pub domains: Vec<String>,
    /// What STARTTLS meets.
    pub tls: Tls,
    /// Time for each character written.
    pub delay: Duration,
    /// EHLO keywords, less STARTTLS which `tls` decides.
    pub extensions: Vec<String>,
    /// The first rule that fits a step decides.
    pub rules: Vec<Rule>,
}

impl Persona {
    /// Accepts everything, with TLS, at once.
    pub fn new(name: impl Into<String>, address: Ipv4Addr, domains: &[&str]) -> Self {
        Persona {
            name: name.into(),
            address,
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            tls: Tls::Good,
            delay: Duration::ZERO,
            extensions: ["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"]
                .map(str::to_owned)
                .to_vec(),
            rules: Vec::new(),
        }
    }

    /// Adds a rule at the end.
    pub fn rule(mut self, at: Step, when: When, act: Act) -> Self {
        self.rules.push(Rule { at, when, act });
        self
    }
}

/// What STARTTLS meets at a persona.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Not offered.
    Off,
    /// A certificate of the lab's CA for the persona's own name.
    Good,
    /// The same of an authority that nobody knows.
    Untrusted,
    /// Offered, then `454 4.7.0`.
    Refused,
    /// Offered, 220, then bytes that are no TLS.
    Broken,
    /// Offered, 220, then silence.
    Stalled,
    /// Offered, 220, then a fatal alert: `handshake_failure`.
    Alert,
}

/// One line of a persona's script.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// At which step.
    pub at: Step,
    /// Under which condition.
    pub when: When,
    /// What happens then.
    pub act: Act,
}

/// The steps of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Connection accepted, before the greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    Starttls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, before 354.
    Data,
    /// After the final dot.
    Content,
    /// QUIT.
    Quit,
}

/// Conditions of a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Each time.
    Always,
    /// The first time that this (reverse-path, forward-path) is seen here: greylisting. Before RCPT: the first time at all.
    FirstOfPair,
    /// From the (n+1)-th time on that this step is reached here, over all sessions.
    After(u64),
    /// The first n times.
    Until(u64),
    /// The peer has one of these addresses: a block list.
    Peer(Vec<IpAddr>),
    /// The peer is on the list of this name, as it stands at that moment: see [`Lab::set_list`](crate::Lab::set_list).
    Listed(String),
    /// There is no TLS.
    InTheClear,
    /// The command's line contains this, in any case.
    Line(String),
}

/// What a rule does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Replies, one line for each entry, code included: `"451 4.7.1 come back later"`. The session goes on.
    Reply(Vec<String>),
    /// Replies, then closes.
    ReplyAndClose(Vec<String>),
    /// Closes without a word.
    Drop,
    /// Ends the connection with a reset.
    Reset,
    /// Says nothing for this long, then goes on as if the rule were not there.
    Stall(Duration),
    /// Accepts, whatever later rules say.
    Accept,
}

impl Act {
    /// A one-line reply.
    pub fn reply(line: &str) -> Self {
        Act::Reply(vec![line.to_owned()])
    }
}
