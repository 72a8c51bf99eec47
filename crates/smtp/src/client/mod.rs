//! A session that delivers: the MSA to a destination's MX, the receiver to a relay entrance.
//!
//! ```text
//!   connect ─▶ Client::new ─▶ next_event(): Ready ─▶ send(envelope)
//!     Recipient(i, reply) …  Content ─▶ content(bytes)… finish() ─▶ Done(reply) ─▶ Ready again
//!     quit() ─▶ Closed
//! ```
//!
//! The caller moves bytes: [`Client::take_output`] to the socket, [`Client::receive`] from it,
//! [`Client::disconnected`] at its end. [`Client::deadline`] says how long the next step may take.
//!
//! Promises:
//! - An end of data is written by [`Client::finish`] only; a session that is dropped before leaves no message behind.
//! - Parameters go out only if the server offers their extension; a message that *needs* one which is not
//!   offered is refused here (SMTPUTF8, SIZE) with the reply that the server would have given.
//! - MAIL and RCPT go out together where PIPELINING is offered (RFC 2920), and every recipient gets its own
//!   reply either way. DATA waits for them, so that a 354 is never given for nobody.
//! - A server that stops making sense ends the session with [`Failure`], never with a false success.

mod machine;

use std::time::Duration;

use crate::address::{ForwardPath, ReversePath};
use crate::body::BareLineEnd;
use crate::command::{MailParams, RcptParams, Xclient};
use crate::ehlo::Extensions;
use crate::reply::{Reply, ReplyError};

pub use machine::Client;

/// What a program sets for its sessions.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Our name in EHLO.
    pub hostname: String,
    /// Sent before the first message, if the server offers XCLIENT.
    pub xclient: Option<Xclient>,
}

/// One message's envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where failures go.
    pub from: ReversePath,
    /// Sent as far as the server offers them. `size`, if set, must be the exact size of the content: the message
    /// is not ended with any other. Set `body` to what the content is, `smtputf8` if the header or an address needs it.
    pub params: MailParams,
    /// At least one.
    pub recipients: Vec<(ForwardPath, RcptParams)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The session is open and no transaction is: call [`Client::send`] or [`Client::quit`].
    Ready,
    /// The server's answer to one recipient, by its place in the envelope. Every recipient gets exactly one
    /// before `Content` or `Done`; a refusal of MAIL is told as each recipient's.
    Recipient(usize, Reply),
    /// At least one recipient was accepted and the server waits: call [`Client::content`] and [`Client::finish`].
    Content,
    /// The server's answer to the content (or to DATA), for all recipients that were accepted. `None`: no recipient
    /// was accepted and nothing was transferred.
    Done(Option<Reply>),
    /// The session is over: after [`Client::quit`], or because of the failure. Recipients without an answer are to
    /// be tried again, except as the failure says.
    Closed(Option<Failure>),
}

/// Why a session ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server refused the session: greeting, EHLO and HELO, XCLIENT, or a 421 at any time.
    #[error("refused at {during}: {reply}")]
    Refused {
        /// What it answers to.
        during: Step,
        /// Its words.
        reply: Reply,
    },
    /// The server sent something that is no reply.
    #[error("protocol error at {during}: {source}")]
    Protocol {
        /// What was awaited.
        during: Step,
        /// What is wrong.
        source: ReplyError,
    },
    /// The server sent a reply that nothing asked for, or one that does not answer the command.
    #[error("unexpected reply at {during}: {reply}")]
    Unexpected {
        /// What was awaited.
        during: Step,
        /// Its words.
        reply: Reply,
    },
    /// The connection ended.
    #[error("connection lost at {during}")]
    Lost {
        /// What was awaited.
        during: Step,
    },
    /// [`Client::finish`] was called with less or more content than the envelope's size. Nothing was delivered.
    #[error("content of {got} bytes where {expected} were announced")]
    Incomplete {
        /// The envelope's size.
        expected: u64,
        /// What was given.
        got: u64,
    },
    /// The content cannot be sent by DATA. Trying again does not help.
    #[error("content refused: {0}")]
    Content(#[from] BareLineEnd),
}

/// What is awaited from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The first 220.
    Greeting,
    /// The answer to EHLO or HELO.
    Hello,
    /// The answer to XCLIENT.
    Xclient,
    /// Nothing: the session is open.
    Idle,
    /// The answer to MAIL.
    Mail,
    /// The answer to RCPT.
    Rcpt,
    /// The answer to DATA.
    Data,
    /// That the server takes our content.
    Content,
    /// The answer to the end of data.
    End,
    /// The answer to RSET.
    Rset,
    /// The answer to QUIT.
    Quit,
}

impl Step {
    /// How long to wait for it (RFC 5321 §4.5.3.2). For `Content` the time for each block.
    pub const fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Greeting | Self::Hello | Self::Xclient | Self::Mail | Self::Rcpt | Self::Rset | Self::Idle => 300,
            Self::Data => 120,
            Self::Content => 180,
            Self::End => 600,
            // The message is settled; politeness has its limits.
            Self::Quit => 10,
        })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::Xclient => "XCLIENT",
            Self::Idle => "rest",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "content",
            Self::End => "end of data",
            Self::Rset => "RSET",
            Self::Quit => "QUIT",
        })
    }
}

/// The empty set, before EHLO is answered.
static NOTHING: std::sync::LazyLock<Extensions> = std::sync::LazyLock::new(Extensions::default);

#[cfg(test)]
mod tests;
