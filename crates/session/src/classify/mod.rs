//! What a reply means: a table, read from above; the first rule that matches decides.
//!
//! Pure, so that a new rule can be replayed over recorded sessions before it is put to work
//! ([`Reader::reclassify`](crate::Reader::reclassify)). `rules` is the table, `lists.rs` the block lists, `samples.txt` what real servers say
//! and what it has to be taken for. Codes alone say little: `550 5.7.1`
//! stands for unknown users, block lists, content and policy at different operators, so most rules look for words.
//! [`Class::Tarpit`] is told by time, not by words, except where a server says so itself.

mod lists;
mod rules;

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::log::enhanced;
use rules::{Rule, SITES, WORDS};

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
    pub const ALL: [Self; 7] =
        [Self::Egress, Self::Sender, Self::Content, Self::Recipient, Self::Session, Self::Site, Self::Unclear];

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
    /// The reply refuses a recipient.
    Rcpt,
    /// The reply refuses a recipient for good.
    RcptPermanent,
    /// The reply refuses a recipient for now.
    RcptTemporary,
    /// The reply refuses a sender for good.
    MailPermanent,
}

/// What `said` means.
#[must_use]
pub fn classify(said: &Said<'_>) -> Verdict {
    let after_content = matches!(said.verb, "." | "BDAT");
    match said.code {
        200..=299 if after_content => return Verdict::of(Class::Delivered),
        200..=399 => return Verdict::of(Class::Accepted),
        _ => {}
    }
    let text = flat(said.text);
    let rule = SITES.iter().chain(WORDS).find(|rule| rule.matches(said, &text));
    let (class, about, name) =
        rule.map_or((Class::Other, About::Unclear, ""), |rule| (rule.class, rule.about, rule.name));
    let own = rule.and_then(|rule| rule.list);
    match lists::named(&text) {
        // Who names a list means it, unless the message itself or its pace was at fault.
        Some(list) if own.is_none() && !matches!(class, Class::Content | Class::RateLimited | Class::Greylisted) => {
            let class = if list.about == About::Content { Class::Content } else { Class::BlockListed };
            Verdict { class, list: Some(list.name.into()), about: list.about, rule: Cow::Borrowed("named-list") }
        }
        named => {
            let listed = class == Class::BlockListed;
            let list = own.or(named.map(|list| list.name)).or(listed.then(|| lists::zone(&text)).flatten());
            let list = list.map(str::to_owned);
            Verdict { class, list, about, rule: Cow::Borrowed(name) }
        }
    }
}

impl Rule {
    fn matches(&self, said: &Said<'_>, text: &str) -> bool {
        let permanent = (500..=599).contains(&said.code);
        let when = match self.when {
            When::Always => true,
            When::AfterContent => matches!(said.verb, "." | "BDAT"),
            When::Permanent => permanent,
            When::Temporary => !permanent,
            When::Rcpt => said.verb == "RCPT",
            When::RcptPermanent => permanent && said.verb == "RCPT",
            When::RcptTemporary => !permanent && said.verb == "RCPT",
            When::MailPermanent => permanent && said.verb == "MAIL",
        };
        when && (self.words.is_empty() || self.words.iter().any(|word| contains_word(text, word)))
            && (self.status.is_empty() || said.enhanced.is_some_and(|code| self.status.contains(&after_class(code))))
    }
}

/// The lines as one, in lower case, without the enhanced codes in front of them: sentences do not end where lines do.
fn flat(text: &str) -> String {
    let lines = text.lines().map(|line| line.strip_prefix(enhanced(line).unwrap_or("")).unwrap_or(line));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").to_lowercase()
}

/// `.7.1` of `5.7.1`.
fn after_class(enhanced: &str) -> &str {
    enhanced.find('.').map_or("", |dot| &enhanced[dot..])
}

/// Whether `text` has `word` where a word begins: "rbl" occurs in "gorblimey.example" without meaning anything.
fn contains_word(text: &str, word: &str) -> bool {
    let inside = |at: usize| text[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
    let open = !word.starts_with(|first: char| first.is_ascii_alphanumeric());
    text.match_indices(word).any(|(at, _)| open || !inside(at))
}

#[cfg(test)]
mod tests;
