//! A session that ends here: the MSA's entrances, the receiver.
//!
//! ```text
//!   socket ─▶ receive(bytes)      next_event() ─▶ the program decides ─▶ accept() / reply(…)
//!   socket ◀─ take_output()       (None: read more bytes, or answer what is pending)
//! ```
//!
//! The machine keeps the order of commands, the limits, the line ends and the framing of content;
//! the program decides about what remains: every event that [`Event::wants_answer`] stops the
//! machine until [`Server::accept`] or [`Server::reply`] is called. The other events tell of
//! something that is settled.
//!
//! Promises:
//! - Nothing that came before the greeting, behind STARTTLS in the clear (CVE-2011-0411), behind DATA
//!   before the 354, or in the tail of an over-long line is ever taken for a command.
//! - Content with a bare CR or LF is never given to the program as complete: `550 5.6.11`.
//! - XCLIENT and every other extension exist only if the program offers them.
//!
//! The program bounds memory by not reading from the socket while [`Server::wants_input`] is false.

mod content;
mod session;

use crate::address::{ForwardPath, ReversePath};
use crate::body::BareLineEnd;
use crate::command::{MailParams, RcptParams, Xclient};
use crate::ehlo::Extensions;
use crate::line::{LineBuffer, MAX_COMMAND_LINE};
use crate::reply::Reply;

/// What a program sets for its sessions.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// In the greeting and the EHLO reply.
    pub hostname: String,
    /// What EHLO offers. `size` is also the limit that is kept; STARTTLS disappears inside TLS.
    pub extensions: Extensions,
    /// Accepted recipients in one transaction; the next gets `452 4.5.3`.
    pub max_recipients: usize,
    /// Refused or malformed commands in a session; the next gets 421.
    pub max_errors: u32,
    /// Commands without any message transferred between them, accepted recipients and chunks aside; the next gets 421.
    pub max_idle_commands: u32,
    /// Longest command line, CRLF included.
    pub max_line: usize,
}

impl ServerConfig {
    /// The usual limits.
    pub fn new(hostname: impl Into<String>, extensions: Extensions) -> Self {
        Self {
            hostname: hostname.into(),
            extensions,
            // RFC 5321 §4.5.3.1.8 asks for at least 100.
            max_recipients: 1_000,
            // As Postfix: enough for a bad address list, too few to search for users.
            max_errors: 20,
            // Room for a pipelined list of recipients that are put off (452).
            max_idle_commands: 1_000,
            max_line: MAX_COMMAND_LINE,
        }
    }
}

/// How content arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// `DATA`.
    Data,
    /// `BDAT`.
    Bdat,
}

/// Why a message was given up while it was being transferred. The client has its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// A bare CR or LF.
    LineEnd(BareLineEnd),
    /// More than the offered SIZE.
    TooLarge,
    /// RSET, EHLO or QUIT between two BDAT chunks.
    Reset,
}

/// Why the machine ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// QUIT.
    Quit,
    /// The program refused the connection, or answered 421.
    Refused,
    /// The client talked before it was greeted, or sent content before the 354.
    EarlyTalk,
    /// The client speaks another protocol.
    WrongProtocol,
    /// Too many errors, or commands without a message.
    Limit,
    /// Much more content than was offered.
    Flood,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new session. Accept: the greeting.
    Connected,
    /// EHLO (`extended`) or HELO. Accept: the extensions.
    Hello {
        /// The name that the client gave.
        name: String,
        /// EHLO.
        extended: bool,
    },
    /// STARTTLS; its 220 is in the output. Write it out, shake hands, call [`Server::tls_started`].
    StartTls {
        /// Bytes behind the command that were thrown away. An honest client sends none.
        discarded: usize,
    },
    /// AUTH. Answer with [`Server::challenge`] or [`Server::reply`].
    Auth {
        /// In upper case; one of those offered.
        mechanism: String,
        /// Base64 as sent.
        initial: Option<String>,
    },
    /// The client's line after a challenge, base64 as sent. Answer as for `Auth`.
    AuthResponse(String),
    /// The client gave up authentication; it has its answer.
    AuthCancelled,
    /// XCLIENT. Accept: the greeting again, and EHLO is expected.
    Xclient(Xclient),
    /// MAIL. Accept: 250.
    Mail {
        /// Where failures go.
        from: ReversePath,
        /// Its parameters, all of them offered.
        params: MailParams,
    },
    /// RCPT. Accept: 250.
    Rcpt {
        /// Where the message goes.
        to: ForwardPath,
        /// Its parameters, all of them offered.
        params: RcptParams,
    },
    /// Content is about to come, for at least one accepted recipient. Accept: 354, or silence for BDAT.
    ContentStart(Transfer),
    /// The next content, dots unstuffed.
    Content(Vec<u8>),
    /// The content is whole and legal. Whoever answers 2yz is now responsible for the message.
    ContentEnd,
    /// The content will not be whole: forget it.
    ContentAborted(Abort),
    /// The transaction was reset by RSET or EHLO.
    Reset,
    /// Write the output out and close.
    Closed(Close),
}

impl Event {
    /// Whether the machine waits for [`Server::accept`] or [`Server::reply`].
    pub fn wants_answer(&self) -> bool {
        !matches!(
            self,
            Self::StartTls { .. }
                | Self::AuthCancelled
                | Self::Content(_)
                | Self::ContentAborted(_)
                | Self::Reset
                | Self::Closed(_)
        )
    }
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Before the greeting.
    New,
    /// Before EHLO or HELO.
    Greeted,
    /// Outside a transaction.
    Ready,
    /// Inside one.
    Mail {
        smtputf8: bool,
        binary: bool,
        accepted: usize,
        tried: usize,
    },
    /// Between or inside chunks of content.
    Content(content::Content),
    /// Waiting for a line of an AUTH exchange.
    Auth,
    /// 220 to STARTTLS was written.
    Handshake,
    Closed,
}

/// The event that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    Connected,
    Hello { extended: bool },
    Auth,
    Xclient,
    Mail { smtputf8: bool, binary: bool },
    Rcpt,
    ContentStart { chunk: Option<(u64, bool)> },
    ContentEnd,
}

/// One session.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    input: LineBuffer,
    output: Vec<u8>,
    phase: Phase,
    pending: Option<Pending>,
    events: std::collections::VecDeque<Event>,
    tls: bool,
    extended: bool,
    authenticated: bool,
    errors: u32,
    idle_commands: u32,
    /// Content of refused chunks still to be swallowed, and the answer behind it.
    swallow: Option<(crate::body::BdatCounter, Reply)>,
}

impl Server {
    /// A new session; its first event is [`Event::Connected`].
    pub fn new(config: ServerConfig) -> Self {
        let input = LineBuffer::new(config.max_line);
        Self {
            config,
            input,
            output: Vec::new(),
            phase: Phase::New,
            pending: Some(Pending::Connected),
            events: [Event::Connected].into(),
            tls: false,
            extended: false,
            authenticated: false,
            errors: 0,
            idle_commands: 0,
            swallow: None,
        }
    }

    /// A new session inside TLS from its first byte (RFC 8314).
    pub fn new_in_tls(config: ServerConfig) -> Self {
        Self { tls: true, ..Self::new(config) }
    }

    /// Takes bytes read from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.phase, Phase::Closed | Phase::Handshake) {
            self.input.push(bytes);
        }
    }

    /// Whether reading from the client makes sense now: nothing waits for an answer.
    pub fn wants_input(&self) -> bool {
        self.pending.is_none() && self.events.is_empty() && !matches!(self.phase, Phase::Closed | Phase::Handshake)
    }

    /// The next event; `None`: answer what is pending, or read more.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.pending.is_some() || !self.advance() {
                return None;
            }
        }
    }

    /// Answers the pending event with the usual positive reply.
    ///
    /// # Panics
    /// Never; without a pending event it does nothing.
    pub fn accept(&mut self) {
        let reply = match &self.pending {
            None => return,
            Some(Pending::Connected | Pending::Xclient) => Reply::plain(220, format!("{} ESMTP", self.config.hostname)),
            Some(Pending::Hello { extended: true }) => self.offered().to_reply(&self.config.hostname),
            Some(Pending::Hello { extended: false }) => Reply::plain(250, self.config.hostname.clone()),
            Some(Pending::Auth) => Reply::new(235, (2, 7, 0), "authenticated"),
            Some(Pending::Mail { .. }) => Reply::new(250, (2, 1, 0), "sender ok"),
            Some(Pending::Rcpt) => Reply::new(250, (2, 1, 5), "recipient ok"),
            Some(Pending::ContentStart { .. }) => Reply::plain(354, "go on, end with a dot"),
            Some(Pending::ContentEnd) => Reply::new(250, (2, 0, 0), "accepted"),
        };
        self.reply(reply);
    }

    /// Answers the pending event. A 421 ends the session; without a pending event it does nothing.
    pub fn reply(&mut self, reply: Reply) {
        if let Some(pending) = self.pending.take() {
            self.answer(pending, reply);
        }
    }

    /// Answers a pending [`Event::Auth`] or [`Event::AuthResponse`] with a challenge (base64).
    pub fn challenge(&mut self, base64: &str) {
        if self.pending == Some(Pending::Auth) {
            self.pending = None;
            self.phase = Phase::Auth;
            self.input.set_max(crate::line::MAX_AUTH_LINE);
            // Not a Reply: those cut long lines, and a challenge must arrive whole.
            let challenge = base64.bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
            self.output.extend_from_slice(b"334 ");
            self.output.extend(challenge);
            self.output.extend_from_slice(b"\r\n");
        }
    }

    /// The TLS handshake behind [`Event::StartTls`] is done: everything learnt before is forgotten.
    pub fn tls_started(&mut self) {
        if self.phase == Phase::Handshake {
            self.input.clear();
            self.tls = true;
            self.extended = false;
            self.authenticated = false;
            self.phase = Phase::Greeted;
        }
    }

    /// Ends the session from our side, for example `421 4.3.2` at shutdown or `421 4.4.2` when a
    /// deadline passed. Unanswered events are void.
    pub fn close(&mut self, reply: &Reply) {
        if self.phase != Phase::Closed {
            self.write(reply);
            self.end(Close::Refused);
        }
    }

    /// Bytes to write to the client. Write them before waiting for more input.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Replaces what EHLO offers, for example AUTH once TLS is on.
    pub fn set_extensions(&mut self, extensions: Extensions) {
        self.config.extensions = extensions;
    }

    /// Whether the session is inside TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the client said EHLO and not HELO.
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// Whether the session is over once the output is written.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether no transaction is open and nothing waits: the moment to end a session politely.
    pub fn is_idle(&self) -> bool {
        self.pending.is_none() && matches!(self.phase, Phase::Greeted | Phase::Ready)
    }

    /// Bytes that came behind the last command and belong to whoever carries the session on.
    pub fn take_input(&mut self) -> Vec<u8> {
        self.input.take_rest()
    }

    fn offered(&self) -> Extensions {
        let mut offered = self.config.extensions.clone();
        offered.starttls &= !self.tls;
        if self.authenticated {
            offered.auth.clear();
        }
        offered
    }
}

#[cfg(test)]
mod tests;
