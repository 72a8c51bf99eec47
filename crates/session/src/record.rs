//! The records: one type per table. Times inside a session are microseconds since its start.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, TenantName};

use warren_wire::client::TlsFacts;

use crate::{Class, SessionId, Text, Verdict, detect::EventKind};

/// One thing to remember. Every record names its session and its place in it, so writing it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// An MSA connected through a door.
    Start(SessionStart),
    /// The proxy dialled an MX. May be written again when more is known: the later one counts.
    Leg(Box<Leg>),
    /// A command or a reply passed by, or ended, or began at the proxy.
    Exchange(Exchange),
    /// One mail transaction. May be written again.
    Message(Message),
    /// One recipient of a message. May be written again.
    Recipient(Recipient),
    /// Something was noticed.
    Event(Box<Event>),
    /// The session is over.
    End(SessionEnd),
    /// Records are missing here.
    Gap(Gap),
}

/// Where a session came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// The exit door of a cell.
    Cell,
    /// A listener fed by nftables `redirect`.
    Redirect,
    /// A listener fed by nftables `tproxy`.
    Tproxy,
}

impl Door {
    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cell => "cell",
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// The first record of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStart {
    /// The session.
    pub id: SessionId,
    /// Whose mail it is.
    pub tenant: TenantName,
    /// The tenant's cell; none in standalone use.
    pub cell: Option<CellId>,
    /// Where it came in.
    pub door: Door,
    /// The address that the MSA dialled.
    pub mx: SocketAddr,
    /// The MX name that this address was answered for, where known.
    pub mx_name: Option<String>,
    /// Who operates the MX, where known.
    pub mx_operator: Option<String>,
    /// When the MSA's connection was accepted.
    pub at: SystemTime,
}

/// One dial of the proxy to the MX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// The session.
    pub id: SessionId,
    /// Which dial of the session this is, from 1.
    pub n: u16,
    /// The egress address it was dialled from.
    pub egress: IpAddr,
    /// When dialling began.
    pub started_us: u64,
    /// When the connection stood; none if it never did.
    pub connected_us: Option<u64>,
    /// TLS as negotiated; none in the clear.
    pub tls: Option<TlsFacts>,
    /// Why the dial or TLS failed.
    pub error: Option<String>,
    /// The name the proxy gave in EHLO.
    pub ehlo_name: Option<String>,
    /// The extensions that the MX announced last, one line each.
    pub extensions: Vec<String>,
    /// Why this egress address: candidates, scores, reasons. JSON, written already: sessions keep it for as long as they go on.
    pub decision: Box<str>,
}

/// Which way something went at the proxy, in the notation of the original research. The bar is the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dir {
    /// `<-`: a reply of the MX, passed to the MSA.
    #[serde(rename = "<-")]
    ReplyPassed,
    /// `->`: a command of the MSA, passed to the MX.
    #[serde(rename = "->")]
    CommandPassed,
    /// `|<`: a reply of the MX that ended at the proxy.
    #[serde(rename = "|<")]
    ReplyEnded,
    /// `|>`: a command that the proxy sent of its own.
    #[serde(rename = "|>")]
    SentByProxy,
    /// `>|`: a command of the MSA that ended at the proxy.
    #[serde(rename = ">|")]
    CommandEnded,
    /// `<|`: a reply that the proxy gave of its own.
    #[serde(rename = "<|")]
    AnsweredByProxy,
    /// `==`: nothing that was said; TLS with the MSA, say.
    #[serde(rename = "==")]
    Noted,
}

impl Dir {
    /// Every direction.
    pub const ALL: [Self; 7] = [
        Self::ReplyPassed,
        Self::CommandPassed,
        Self::ReplyEnded,
        Self::SentByProxy,
        Self::CommandEnded,
        Self::AnsweredByProxy,
        Self::Noted,
    ];

    /// The two characters of the notation.
    #[must_use]
    pub fn notation(self) -> &'static str {
        match self {
            Self::ReplyPassed => "<-",
            Self::CommandPassed => "->",
            Self::ReplyEnded => "|<",
            Self::SentByProxy => "|>",
            Self::CommandEnded => ">|",
            Self::AnsweredByProxy => "<|",
            Self::Noted => "==",
        }
    }

    /// The direction that these two characters stand for.
    #[must_use]
    pub fn from_notation(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dir| dir.notation() == text)
    }

    /// Whether this went to the MX, so that a reply of the MX will follow.
    #[must_use]
    pub fn reaches_mx(self) -> bool {
        matches!(self, Self::CommandPassed | Self::SentByProxy)
    }

    /// Whether this came from the MX.
    #[must_use]
    pub fn from_mx(self) -> bool {
        matches!(self, Self::ReplyPassed | Self::ReplyEnded)
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.notation())
    }
}

/// One command or reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The session.
    pub id: SessionId,
    /// Its place in the session, from 1; [`SessionLog`](crate::SessionLog) counts.
    pub seq: u32,
    /// The dial it belongs to; 0 before the first.
    pub leg: u16,
    /// When.
    pub at_us: u64,
    /// Which way.
    pub dir: Dir,
    /// The verb of a command, in upper case; of a reply, the verb it answers; `.` is the end of data.
    pub verb: String,
    /// The code of a reply; none for commands.
    pub code: Option<u16>,
    /// The enhanced status code of a reply.
    pub enhanced: Option<String>,
    /// The command as sent, or the reply's lines without their codes.
    pub text: Text,
    /// How long the MX took for this reply: since the command was sent or the previous reply came, whichever was later.
    pub took_us: Option<u64>,
}

/// One mail transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The session.
    pub id: SessionId,
    /// Which transaction of the session, from 1.
    pub n: u32,
    /// The dial that carried it.
    pub leg: u16,
    /// The reverse-path, without angle brackets; empty for `<>`.
    pub reverse_path: String,
    /// Bytes of content that were passed.
    pub size: u64,
    /// Its Message-ID, where it was seen.
    pub message_id: Option<String>,
    /// When MAIL was passed.
    pub mail_us: Option<u64>,
    /// When DATA or the first BDAT was passed.
    pub data_us: Option<u64>,
    /// When the first byte of content was passed.
    pub content_us: Option<u64>,
    /// When the last byte of content was passed.
    pub sent_us: Option<u64>,
    /// When the final reply came.
    pub reply_us: Option<u64>,
    /// What became of it: the final reply, or the refusal of MAIL or DATA.
    pub verdict: Verdict,
    /// The code of that reply.
    pub code: Option<u16>,
}

/// One recipient of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipient {
    /// The session.
    pub id: SessionId,
    /// The message, as in [`Message::n`].
    pub message: u32,
    /// Which recipient of the message, from 1.
    pub n: u32,
    /// The forward-path, without angle brackets.
    pub forward_path: String,
    /// What became of it: the refusal of RCPT if it was refused, the message's verdict otherwise.
    pub verdict: Verdict,
    /// The code of the deciding reply.
    pub code: Option<u16>,
    /// Its enhanced status code.
    pub enhanced: Option<String>,
    /// Its text.
    pub text: Text,
    /// When the deciding reply came.
    pub reply_us: Option<u64>,
}

/// Something that was noticed in a session about the MX; see [`detect`](crate::detect).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The session.
    pub id: SessionId,
    /// Which event of the session, from 1; [`SessionLog`](crate::SessionLog) counts.
    pub n: u32,
    /// The dial in which it was noticed.
    pub leg: u16,
    /// When.
    pub at_us: u64,
    /// What.
    pub kind: EventKind,
    /// Who operates the MX.
    pub operator: String,
    /// The address that we came from.
    pub egress: IpAddr,
    /// The verb whose reply showed it; `.` is the end of data, empty the greeting.
    pub verb: String,
    /// The code of that reply.
    pub code: Option<u16>,
    /// The list that the reply named.
    pub list: Option<String>,
    /// What it is concluded from.
    pub evidence: serde_json::Value,
}

/// How a session ended, seen as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every recipient got the mail.
    Delivered,
    /// Some recipients got the mail.
    Partly,
    /// The MX refused for good.
    Refused,
    /// The MX refused for now.
    Deferred,
    /// The session ended in order and no mail was tried.
    Unused,
    /// The proxy may not dial this address.
    Forbidden,
    /// The MX could not be reached.
    Unreachable,
    /// TLS was required and not to be had.
    TlsFailed,
    /// The connection to the MX broke off.
    MxLost,
    /// The connection of the MSA broke off.
    MsaLost,
    /// The proxy broke off: a limit, a deadline, a protocol violation, or its own end.
    Cut,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 11] = [
        Self::Delivered,
        Self::Partly,
        Self::Refused,
        Self::Deferred,
        Self::Unused,
        Self::Forbidden,
        Self::Unreachable,
        Self::TlsFailed,
        Self::MxLost,
        Self::MsaLost,
        Self::Cut,
    ];

    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Partly => "partly",
            Self::Refused => "refused",
            Self::Deferred => "deferred",
            Self::Unused => "unused",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::TlsFailed => "tls_failed",
            Self::MxLost => "mx_lost",
            Self::MsaLost => "msa_lost",
            Self::Cut => "cut",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The last record of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// The session.
    pub id: SessionId,
    /// When it ended.
    pub at_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of message content passed to the MX.
    pub bytes: u64,
}

/// Records that were lost: neither the store nor the spool could take them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// When the first was lost, in microseconds of Unix time.
    pub from_us: i64,
    /// When the last was lost.
    pub until_us: i64,
    /// How many.
    pub records: u64,
    /// What stood in the way.
    pub reason: String,
}

impl Message {
    /// A message that has just begun with MAIL.
    #[must_use]
    pub fn begun(id: SessionId, n: u32, leg: u16, reverse_path: String, mail_us: u64) -> Self {
        Self {
            id,
            n,
            leg,
            reverse_path,
            size: 0,
            message_id: None,
            mail_us: Some(mail_us),
            data_us: None,
            content_us: None,
            sent_us: None,
            reply_us: None,
            verdict: Verdict::of(Class::Other),
            code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_reads_back() {
        for dir in Dir::ALL {
            assert_eq!(Dir::from_notation(dir.notation()), Some(dir));
            assert_eq!(serde_json::to_value(dir).unwrap(), dir.notation());
        }
        assert_eq!(Dir::from_notation("=>"), None);
    }

    #[test]
    fn an_outcome_has_one_name_everywhere() {
        for outcome in [Outcome::Delivered, Outcome::TlsFailed, Outcome::MxLost, Outcome::Unused] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
    }
}
