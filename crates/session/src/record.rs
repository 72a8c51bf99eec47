//! The records: one type per table. Times inside a session are microseconds since its start.

mod dir;
mod mail;
mod outcome;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use warren_launcher_api::{CellId, TenantName};
use warren_wire::client::{PolicyFacts, TlsFacts};

use crate::{Class, SessionId, Verdict, detect::EventKind};
pub use dir::Dir;
pub use mail::Mail;
pub use outcome::Outcome;

/// One thing to remember of a session. Each has its place in it, so writing it twice changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<'a> {
    /// An MSA connected through a door.
    Start(Cow<'a, SessionStart>),
    /// Something became known of a dial.
    Leg(u16, LegNews<'a>),
    /// A command or a reply passed by, or ended, or began at the proxy.
    Exchange(Exchange<'a>),
    /// One mail transaction. May be told again: the later one counts.
    Message(Cow<'a, Message>),
    /// One recipient of a message. May be told again.
    Recipient(Recipient<'a>),
    /// A mail transaction that came to a good end, with its recipients. Told once, and nothing else is told of it or of them.
    Mail(Mail<'a>),
    /// Something was noticed.
    Event(Event<'a>),
    /// The session is over.
    End(SessionEnd),
    /// Records are missing here. Belongs to no session.
    Gap(Gap),
}

/// Where a session came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The exit door of a cell.
    Cell,
    /// A listener fed by nftables `redirect`.
    Redirect,
    /// A listener fed by nftables `tproxy`.
    Tproxy,
}

impl Door {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Cell, Self::Redirect, Self::Tproxy];

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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What becomes known of a dial of the proxy to the MX, as it does. Dials of a session are counted from 1.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a record is written down or taken apart where it is made, and never kept"
)]
pub enum LegNews<'a> {
    /// It began.
    Dialled(Dialled<'a>),
    /// The connection stands, since then.
    Connected(u64),
    /// Nothing is dialled: the connection of this session goes on.
    TakenOver(SessionId),
    /// TLS as negotiated.
    Secured(Cow<'a, TlsFacts>),
    /// The extensions that the MX announced last, one line each.
    Offered(Cow<'a, [String]>),
    /// Why the dial or TLS failed, or what was wrong with it.
    Failed(&'a str),
    /// What its TLS was worth to each recipient domain; all of them every time.
    Judged(Cow<'a, [PolicyFacts]>),
}

/// A dial begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialled<'a> {
    /// When.
    pub at_us: u64,
    /// The egress address it is dialled from.
    pub egress: IpAddr,
    /// The name that the proxy gives in EHLO.
    pub ehlo_name: &'a str,
    /// Why this egress address: candidates, scores, reasons. JSON.
    pub decision: &'a str,
}

/// One command or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// Its place in the session, from 1; [`SessionLog`](crate::SessionLog) counts.
    pub seq: u32,
    /// The dial it belongs to; 0 before the first.
    pub leg: u16,
    /// When.
    pub at_us: u64,
    /// Which way.
    pub dir: Dir,
    /// The verb of a command, in upper case; of a reply, the verb it answers; `.` is the end of data.
    pub verb: &'a str,
    /// The code of a reply; none for commands.
    pub code: Option<u16>,
    /// The command as sent, or the reply's lines without their codes.
    pub text: &'a str,
    /// How long the MX took for this reply: since the command was sent or the previous reply came, whichever was later.
    pub took_us: Option<u64>,
}

/// One mail transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// The message, as in [`Message::n`].
    pub message: u32,
    /// Which recipient of the message, from 1.
    pub n: u32,
    /// The forward-path, without angle brackets.
    pub forward_path: &'a str,
    /// What became of it: the refusal of RCPT if it was refused, the message's verdict otherwise.
    pub verdict: Cow<'a, Verdict>,
    /// The code of the deciding reply.
    pub code: Option<u16>,
    /// Its enhanced status code.
    pub enhanced: Option<&'a str>,
    /// Its text.
    pub text: &'a str,
    /// When the deciding reply came.
    pub reply_us: Option<u64>,
}

/// Something that was noticed in a session about the MX; see [`detect`](crate::detect).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Which event of the session, from 1; [`SessionLog`](crate::SessionLog) counts.
    pub n: u32,
    /// The dial in which it was noticed.
    pub leg: u16,
    /// When.
    pub at_us: u64,
    /// What.
    pub kind: EventKind,
    /// Who operates the MX.
    pub operator: &'a str,
    /// The address that we came from.
    pub egress: IpAddr,
    /// The verb whose reply showed it; `.` is the end of data, empty the greeting.
    pub verb: &'a str,
    /// The code of that reply.
    pub code: Option<u16>,
    /// The list that the reply named.
    pub list: Option<&'a str>,
    /// What it is concluded from. JSON.
    pub evidence: &'a str,
}

/// The last record of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnd {
    /// When it ended.
    pub at_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of message content passed to the MX.
    pub bytes: u64,
}

/// Records that were lost: neither the store nor the spool could take them.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub fn begun(n: u32, leg: u16, reverse_path: String, mail_us: u64) -> Self {
        Self {
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
