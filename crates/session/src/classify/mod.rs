//! What a reply means: a table, read from above; the first rule that matches decides.
//!
//! Pure, so that a new rule can be replayed over recorded sessions before it is put to work. Codes alone say little: `550 5.7.1`
//! stands for unknown users, block lists, content and policy at different operators, so most rules look for words.
//! [`Class::Tarpit`] is told by time, not by words, except where a server says so itself.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// What a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The message was taken over.
    Delivered,
    /// A positive reply on the way there.
    Accepted,
    /// There is no such mailbox, or no longer.
    UnknownUser,
    /// The mailbox is there, and full.
    MailboxFull,
    /// Come back later, to prove that you queue.
    Greylisted,
    /// Too much or too fast.
    RateLimited,
    /// On a list, or of bad reputation; [`Verdict::about`] says what is.
    BlockListed,
    /// A rule of the site that none of the others names: sizes, names, rights.
    Policy,
    /// SPF, DKIM or DMARC, or forward-confirmed reverse DNS.
    Authentication,
    /// The message itself displeased: spam, malware, form.
    Content,
    /// This server takes no mail for that domain from us.
    Relay,
    /// TLS is demanded, or does not work.
    Tls,
    /// Answers are slowed on purpose.
    Tarpit,
    /// A connection or a deadline broke.
    Network,
    /// The site has a problem of its own: disk full, lookup failed, going down.
    Trouble,
    /// One side does not follow the protocol, as the other sees it.
    Protocol,
    /// None of these.
    Other,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 17] = [
        Self::Delivered,
        Self::Accepted,
        Self::UnknownUser,
        Self::MailboxFull,
        Self::Greylisted,
        Self::RateLimited,
        Self::BlockListed,
        Self::Policy,
        Self::Authentication,
        Self::Content,
        Self::Relay,
        Self::Tls,
        Self::Tarpit,
        Self::Network,
        Self::Trouble,
        Self::Protocol,
        Self::Other,
    ];

    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Accepted => "accepted",
            Self::UnknownUser => "unknown_user",
            Self::MailboxFull => "mailbox_full",
            Self::Greylisted => "greylisted",
            Self::RateLimited => "rate_limited",
            Self::BlockListed => "block_listed",
            Self::Policy => "policy",
            Self::Authentication => "authentication",
            Self::Content => "content",
            Self::Relay => "relay",
            Self::Tls => "tls",
            Self::Tarpit => "tarpit",
            Self::Network => "network",
            Self::Trouble => "trouble",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whom or what a reply objects to. Decides what would help: another address, another sender, another message, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The address that we came from: another one may do better.
    Egress,
    /// The sender: its domain, its address, or what it publishes in DNS.
    Sender,
    /// The message.
    Content,
    /// The recipient.
    Recipient,
    /// The session: its commands, its TLS.
    Session,
    /// The receiving site itself.
    Site,
    /// It does not say.
    #[default]
    Unclear,
}

impl About {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Egress,
        Self::Sender,
        Self::Content,
        Self::Recipient,
        Self::Session,
        Self::Site,
        Self::Unclear,
    ];

    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Sender => "sender",
            Self::Content => "content",
            Self::Recipient => "recipient",
            Self::Session => "session",
            Self::Site => "site",
            Self::Unclear => "unclear",
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a reply means, which list it names, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The class.
    pub class: Class,
    /// The block list or reputation service that the reply names.
    pub list: Option<String>,
    /// Whom or what it objects to.
    #[serde(default)]
    pub about: About,
    /// The rule that said so; empty where none was needed.
    #[serde(default)]
    pub rule: Cow<'static, str>,
}

impl Verdict {
    /// A verdict that no rule gave.
    #[must_use]
    pub const fn of(class: Class) -> Self {
        Self { class, list: None, about: About::Unclear, rule: Cow::Borrowed("") }
    }

    /// Whether it was the egress address that was refused for its reputation: the one refusal that another address of the
    /// same node may not meet.
    #[must_use]
    pub fn rejects_egress(&self) -> bool {
        self.class == Class::BlockListed && self.about == About::Egress
    }
}

/// A reply, and what it answers.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The verb in upper case; `.` for the end of data, empty for the greeting.
    pub verb: &'a str,
    /// The reply code.
    pub code: u16,
    /// The enhanced status code.
    pub enhanced: Option<&'a str>,
    /// The text of all lines.
    pub text: &'a str,
}

/// When a rule speaks.
#[derive(Clone, Copy, PartialEq)]
enum When {
    Always,
    /// The reply follows content.
    AfterContent,
    /// The reply refuses for good.
    Permanent,
    /// The reply refuses for now.
    Temporary,
    /// The reply refuses a recipient for good.
    RcptPermanent,
}

/// One line of the table. `words`: one of them occurs in the text, in lower case. `status`: the enhanced code ends so. An
/// empty list asks nothing.
struct Rule {
    when: When,
    words: &'static [&'static str],
    status: &'static [&'static str],
    class: Class,
}

const fn words(class: Class, when: When, words: &'static [&'static str]) -> Rule {
    Rule { when, words, status: &[], class }
}

const fn status(class: Class, when: When, status: &'static [&'static str]) -> Rule {
    Rule { when, words: &[], status, class }
}

/// Services that replies name, by what they write.
const LISTS: &[(&str, &[&str])] = &[
    ("spamhaus", &["spamhaus"]),
    ("spamcop", &["spamcop"]),
    ("barracuda", &["barracudacentral", "barracuda reputation"]),
    ("sorbs", &["sorbs.net"]),
    ("uceprotect", &["uceprotect"]),
    ("cbl", &["cbl.abuseat.org"]),
    ("proofpoint", &["proofpoint.com", "proofpoint dynamic reputation"]),
    ("cloudmark", &["csi.cloudmark.com", "cloudmark sender"]),
    ("mailspike", &["mailspike"]),
    ("psbl", &["psbl.surriel", "psbl.org"]),
    ("invaluement", &["invaluement"]),
    ("trendmicro", &["ers.trendmicro", "mail-abuse.com"]),
    ("senderscore", &["senderscore", "returnpath.net"]),
    ("manitu", &["ix.dnsbl.manitu", "nixspam"]),
    ("0spam", &["0spam.org"]),
    ("spfbl", &["spfbl.net"]),
    ("hostkarma", &["hostkarma", "junkemailfilter"]),
    ("microsoft", &["(s3140)", "(s3150)", "banned sending ip", "delist@microsoft", "delist@messaging.microsoft"]),
    ("t-online", &["tosa@rx.t-online.de"]),
    ("google", &["very low reputation of the sending ip"]),
];

/// The rules. What is most specific stands first: a server that says "greylisted" and "policy" means the former.
const RULES: &[Rule] = &[
    words(
        Class::Greylisted,
        When::Temporary,
        &["greylist", "graylist", "grey list", "gray list", "grey-list", "postgrey", "milter-greylist"],
    ),
    words(
        Class::Tls,
        When::Always,
        &[
            "must issue a starttls",
            "starttls required",
            "starttls is required",
            "tls required",
            "tls is required",
            "tls not available",
            "tls currently unavailable",
            "requires tls",
            "encryption required",
            "encryption needed",
            "use starttls",
            "session must be encrypted",
        ],
    ),
    status(Class::Tls, When::Always, &[".7.10", ".7.11"]),
    words(Class::Policy, When::Always, &["too many recipients", "too many hops", "mail loop"]),
    status(Class::RateLimited, When::Always, &[".7.28", ".7.650"]),
    words(
        Class::RateLimited,
        When::Always,
        &[
            "rate limit",
            "rate-limit",
            "ratelimit",
            "unusual rate",
            "throttl",
            "slow down",
            "too many",
            "too fast",
            "too much mail",
            "unexpected volume",
            "exceeded the maximum",
            "limit exceeded",
            "exceeds limit",
            "connection limit",
            "sending limit",
            "receiving mail at a rate",
            "server busy",
            "concurrent connections",
        ],
    ),
    words(
        Class::BlockListed,
        When::Always,
        &[
            "blacklist",
            "black list",
            "black-list",
            "blocklist",
            "block list",
            "block-list",
            "dnsbl",
            "rbl",
            "client host",
            "poor reputation",
            "bad reputation",
            "low reputation",
            "reputation of the sending ip",
            "ip reputation",
            "sending ip",
            "ip has been blocked",
            "ip address has been blocked",
            "ip is blocked",
        ],
    ),
    words(Class::Tarpit, When::Always, &["tarpit", "teergrube"]),
    words(
        Class::Policy,
        When::Always,
        &[
            "spf",
            "dkim",
            "dmarc",
            "relay access denied",
            "relaying denied",
            "relay not permitted",
            "relaying not allowed",
            "reverse dns",
            "reverse hostname",
            "ptr record",
            "helo command rejected",
            "ehlo command rejected",
            "sender address rejected",
            "sender verify failed",
            "sender rejected",
            "domain not found",
            "authentication required",
            "authentication-results",
            "exceeds size limit",
            "exceeds fixed limit",
            "message too large",
            "message size exceeds",
            "policy restrictions",
        ],
    ),
    words(
        Class::UnknownUser,
        When::RcptPermanent,
        &[
            "user unknown",
            "unknown user",
            "no such user",
            "no such recipient",
            "no such mailbox",
            "no such address",
            "no such person",
            "does not exist",
            "doesn't exist",
            "unknown recipient",
            "recipient unknown",
            "unknown address",
            "unknown mailbox",
            "invalid recipient",
            "invalid mailbox",
            "recipient not found",
            "user not found",
            "mailbox not found",
            "mailbox unavailable",
            "no mailbox here",
            "unrouteable address",
            "recipient address rejected: undeliverable",
            "not a valid recipient",
            "not our customer",
            "account is disabled",
            "account that you tried to reach is disabled",
            "account is inactive",
        ],
    ),
    status(Class::UnknownUser, When::RcptPermanent, &[".1.1", ".1.6", ".1.10", ".2.1"]),
    words(Class::UnknownUser, When::Permanent, &["user unknown", "unknown user", "no such user", "recipientnotfound"]),
    words(
        Class::Content,
        When::AfterContent,
        &[
            "spam",
            "unsolicited",
            "virus",
            "malware",
            "phish",
            "attachment",
            "content",
            "infected",
            "junk",
            "bulk mail",
            "blocked because of its",
            "suspicious",
            "header",
            "not rfc",
        ],
    ),
    status(Class::Content, When::AfterContent, &[".6.0", ".6.1", ".6.2", ".6.3", ".6.6", ".6.7", ".7.7"]),
    words(
        Class::Network,
        When::Always,
        &[
            "timeout",
            "timed out",
            "time-out",
            "lost connection",
            "connection lost",
            "connection reset",
            "network is unreachable",
            "no route to host",
            "connection refused",
        ],
    ),
    status(Class::Network, When::Always, &[".4.1", ".4.2"]),
    words(
        Class::Policy,
        When::Always,
        &[
            "policy",
            "access denied",
            "not allowed",
            "not permitted",
            "not authorized",
            "not authorised",
            "rejected by",
            "spam",
            "prohibited",
            "relay",
        ],
    ),
    status(
        Class::Policy,
        When::Always,
        &[
            ".3.4", ".5.3", ".7.0", ".7.1", ".7.20", ".7.21", ".7.22", ".7.23", ".7.24", ".7.25", ".7.26", ".7.27",
            ".1.8",
        ],
    ),
];

/// What `said` means.
#[must_use]
pub fn classify(said: &Said<'_>) -> Verdict {
    let after_content = matches!(said.verb, "." | "BDAT");
    match said.code {
        200..=299 if after_content => return Verdict::of(Class::Delivered),
        200..=399 => return Verdict::of(Class::Accepted),
        _ => {}
    }
    let text = said.text.to_lowercase();
    let class = RULES.iter().find(|rule| rule.matches(said, &text)).map_or(Class::Other, |rule| rule.class);
    let list = LISTS
        .iter()
        .find(|(_, marks)| marks.iter().any(|mark| text.contains(mark)))
        .map(|(name, _)| (*name).to_owned());
    // Who names a list means it, unless the message itself or its pace was at fault.
    let class = match (&list, class) {
        (Some(_), Class::Content | Class::RateLimited | Class::Greylisted) | (None, _) => class,
        (Some(_), _) => Class::BlockListed,
    };
    Verdict { list, ..Verdict::of(class) }
}

impl Rule {
    fn matches(&self, said: &Said<'_>, text: &str) -> bool {
        let permanent = (500..=599).contains(&said.code);
        let when = match self.when {
            When::Always => true,
            When::AfterContent => matches!(said.verb, "." | "BDAT"),
            When::Permanent => permanent,
            When::Temporary => !permanent,
            When::RcptPermanent => permanent && said.verb == "RCPT",
        };
        when && (self.words.is_empty() || self.words.iter().any(|word| contains_word(text, word)))
            && (self.status.is_empty() || said.enhanced.is_some_and(|code| self.status.contains(&after_class(code))))
    }
}

/// `.7.1` of `5.7.1`.
fn after_class(enhanced: &str) -> &str {
    enhanced.find('.').map_or("", |dot| &enhanced[dot..])
}

/// Whether `text` has `word` where a word begins: "rbl" occurs in "gorblimey.example" without meaning anything.
fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric()))
}

#[cfg(test)]
#[path = "samples.rs"]
mod tests;
