//! Commands and answers.

use super::content::Content;
use super::{Abort, Close, Event, Pending, Phase, Server, Transfer};
use crate::address::{ForwardPath, ReversePath};
use crate::body::BdatCounter;
use crate::command::{BodyType, Command, MailParams, RcptParams};
use crate::line::LineError;
use crate::reply::{Reply, Severity};

/// First words of other protocols, which would go on with lines that look like commands.
const OTHER_PROTOCOLS: [&str; 8] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH"];

impl Server {
    /// Does the next thing that the input allows; false: nothing more to do now.
    pub(super) fn advance(&mut self) -> bool {
        if let Some((counter, _)) = &mut self.swallow {
            let taken = counter.take(self.input.len());
            self.input.consume(taken);
            if !counter.is_done() {
                return false;
            }
            if let Some((_, reply)) = self.swallow.take() {
                self.refuse(reply);
            }
            return true;
        }
        match self.phase {
            Phase::New | Phase::Handshake | Phase::Closed => false,
            Phase::Content(ref mut content) if content.wants_bytes() => self.content(),
            _ => match self.input.next_line() {
                None => false,
                Some(line) => {
                    self.line(line);
                    true
                }
            },
        }
    }

    fn line(&mut self, line: Result<Vec<u8>, LineError>) {
        if self.phase == Phase::Auth {
            return self.auth_line(line);
        }
        self.idle_commands += 1;
        if self.idle_commands > self.config.max_idle_commands {
            self.write(&Reply::new(421, (4, 7, 0), "too many commands"));
            return self.end(Close::Limit);
        }
        match line.map(|line| Command::parse(&line)) {
            Err(error) => self.refuse(Reply::new(500, (5, 5, 2), error.to_string())),
            Ok(Err(error)) => self.refuse(error.reply()),
            Ok(Ok(command)) => self.command(command),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail { from, params } => self.mail(from, params),
            Command::Rcpt { to, params } => self.rcpt(to, params),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Rset => {
                self.reset();
                self.write(&Reply::new(250, (2, 0, 0), "ok"));
            }
            Command::Noop => self.write(&Reply::new(250, (2, 0, 0), "ok")),
            Command::Help => self.write(&Reply::new(214, (2, 0, 0), "see RFC 5321")),
            Command::Vrfy(_) => self.write(&Reply::new(252, (2, 5, 2), "send some mail, then it shows")),
            Command::Expn(_) => self.refuse(Reply::new(502, (5, 5, 1), "not provided")),
            Command::Quit => {
                self.abort_content();
                self.write(&Reply::new(221, (2, 0, 0), "bye"));
                self.end(Close::Quit);
            }
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Xclient(attributes) => match self.phase {
                _ if self.config.extensions.xclient.is_empty() => self.refuse(unknown()),
                Phase::Greeted | Phase::Ready => self.ask(Event::Xclient(attributes), Pending::Xclient),
                _ => self.refuse(order("a transaction is open")),
            },
            Command::Unknown(verb) => {
                // A header line of HTTP ends its first word in a colon.
                if OTHER_PROTOCOLS.contains(&verb.as_str()) || verb.len() > 1 && verb.ends_with(':') {
                    self.write(&Reply::new(421, (4, 7, 0), "this is SMTP"));
                    return self.end(Close::WrongProtocol);
                }
                self.refuse(unknown());
            }
        }
    }

    fn hello(&mut self, name: String, extended: bool) {
        self.reset();
        self.ask(Event::Hello { name, extended }, Pending::Hello { extended });
    }

    fn mail(&mut self, from: ReversePath, params: MailParams) {
        match self.phase {
            Phase::Ready => {}
            Phase::Greeted => return self.refuse(order("EHLO first")),
            _ => return self.refuse(order("a transaction is open")),
        }
        let offered = &self.config.extensions;
        let utf8 = from.mailbox().is_some_and(|mailbox| mailbox.needs_smtputf8());
        let parameters_offered = params.other.is_empty()
            && (params.size.is_none() || offered.size.is_some())
            && (params.body.is_none() || offered.eight_bit_mime)
            && (params.body != Some(BodyType::BinaryMime) || offered.binarymime)
            && (!params.smtputf8 || offered.smtputf8)
            && (!params.require_tls || offered.requiretls && self.tls)
            && (params.ret.is_none() && params.envid.is_none() || offered.dsn)
            && (params.auth.is_none() || !offered.auth.is_empty() || !offered.xclient.is_empty());
        if !parameters_offered {
            return self.refuse(Reply::new(555, (5, 5, 4), "parameter not offered"));
        }
        if utf8 && !params.smtputf8 {
            return self.refuse(Reply::new(550, (5, 6, 7), "address needs SMTPUTF8"));
        }
        if params.size.is_some_and(|size| self.exceeds(size)) {
            return self.refuse(Reply::new(552, (5, 3, 4), "message too large"));
        }
        let pending = Pending::Mail { smtputf8: params.smtputf8, binary: params.body == Some(BodyType::BinaryMime) };
        self.ask(Event::Mail { from, params }, pending);
    }

    fn rcpt(&mut self, to: ForwardPath, params: RcptParams) {
        let Phase::Mail { smtputf8, accepted, ref mut tried, .. } = self.phase else {
            return self.refuse(order("MAIL first"));
        };
        *tried += 1;
        if !params.other.is_empty()
            || (params.notify.is_some() || params.orcpt.is_some()) && !self.config.extensions.dsn
        {
            return self.refuse(Reply::new(555, (5, 5, 4), "parameter not offered"));
        }
        if !smtputf8 && to.mailbox().is_some_and(|mailbox| mailbox.needs_smtputf8()) {
            return self.refuse(Reply::new(553, (5, 6, 7), "address needs SMTPUTF8"));
        }
        if accepted >= self.config.max_recipients {
            // 452, not 550: the client brings the rest in another transaction. Not an error of its.
            return self.write(&Reply::new(452, (4, 5, 3), "too many recipients"));
        }
        self.ask(Event::Rcpt { to, params }, Pending::Rcpt);
    }

    /// Whether content may begin; if not, what to say.
    fn may_start(&self) -> Result<(), Reply> {
        match self.phase {
            Phase::Mail { accepted: 0, tried: 0, .. } => Err(order("RCPT first")),
            Phase::Mail { accepted: 0, .. } => Err(Reply::new(554, (5, 5, 1), "no valid recipients")),
            Phase::Mail { .. } => Ok(()),
            _ => Err(order("MAIL first")),
        }
    }

    fn data(&mut self) {
        if let Err(reply) = self.may_start() {
            return self.refuse(reply);
        }
        if matches!(self.phase, Phase::Mail { binary: true, .. }) {
            return self.refuse(order("BINARYMIME needs BDAT"));
        }
        if !self.input.is_empty() {
            // Its next lines may be content: nothing of it can be understood safely.
            self.write(&Reply::new(503, (5, 5, 0), "content before 354"));
            return self.end(Close::EarlyTalk);
        }
        self.ask(Event::ContentStart(Transfer::Data), Pending::ContentStart { chunk: None });
    }

    fn bdat(&mut self, size: u64, last: bool) {
        if !self.config.extensions.chunking {
            return self.refuse_chunk(size, unknown());
        }
        if let Phase::Content(content) = &mut self.phase {
            content.start_chunk(size, last);
            return;
        }
        match self.may_start() {
            Ok(()) => {
                self.ask(Event::ContentStart(Transfer::Bdat), Pending::ContentStart { chunk: Some((size, last)) })
            }
            Err(reply) => self.refuse_chunk(size, reply),
        }
    }

    /// A refused chunk is still on its way: swallow it, or its lines would run as commands.
    pub(super) fn refuse_chunk(&mut self, size: u64, reply: Reply) {
        if self.is_flood(size) {
            self.write(&Reply::new(552, (5, 3, 4), "message too large"));
            return self.end(Close::Flood);
        }
        self.swallow = Some((BdatCounter::new(size), reply));
    }

    fn start_tls(&mut self) {
        if !self.offered().starttls {
            return self.refuse(if self.tls { order("TLS is on") } else { unknown() });
        }
        if !matches!(self.phase, Phase::Ready | Phase::Greeted) {
            return self.refuse(order("a transaction is open"));
        }
        let discarded = self.input.clear();
        self.write(&Reply::new(220, (2, 0, 0), "go ahead"));
        self.phase = Phase::Handshake;
        self.events.push_back(Event::StartTls { discarded });
    }

    fn auth(&mut self, mechanism: String, initial: Option<String>) {
        if self.phase != Phase::Ready || !self.extended || self.authenticated {
            return self.refuse(order("AUTH is not possible now"));
        }
        if !self.config.extensions.auth.contains(&mechanism) {
            return self.refuse(Reply::new(504, (5, 5, 4), "mechanism not offered"));
        }
        self.ask(Event::Auth { mechanism, initial }, Pending::Auth);
    }

    fn auth_line(&mut self, line: Result<Vec<u8>, LineError>) {
        self.phase = Phase::Ready;
        self.input.set_max(self.config.max_line);
        let text = line.ok().and_then(|line| String::from_utf8(line).ok()).filter(|text| text.is_ascii());
        match text {
            Some(text) if text != "*" => self.ask(Event::AuthResponse(text), Pending::Auth),
            other => {
                let why = if other.is_some() { "authentication cancelled" } else { "malformed response" };
                self.events.push_back(Event::AuthCancelled);
                self.refuse(Reply::new(501, (5, 7, 0), why));
            }
        }
    }

    /// Carries out what an answer means.
    pub(super) fn answer(&mut self, pending: Pending, reply: Reply) {
        let positive = reply.is_positive();
        if pending == Pending::Connected && positive && !self.input.is_empty() {
            self.write(&Reply::new(554, (5, 5, 0), "talked before the greeting"));
            return self.end(Close::EarlyTalk);
        }
        if reply.code == 421 {
            self.write(&reply);
            return self.end(Close::Refused);
        }
        match pending {
            Pending::Connected | Pending::Xclient if positive => {
                self.phase = Phase::Greeted;
                self.extended = false;
            }
            Pending::Connected => {
                self.write(&reply);
                return self.end(Close::Refused);
            }
            Pending::Hello { extended } if positive => {
                self.phase = Phase::Ready;
                self.extended = extended;
            }
            Pending::Auth if positive => self.authenticated = true,
            Pending::Mail { smtputf8, binary } if positive => {
                self.phase = Phase::Mail { smtputf8, binary, accepted: 0, tried: 0 }
            }
            Pending::Rcpt if positive => {
                if let Phase::Mail { accepted, .. } = &mut self.phase {
                    *accepted += 1;
                    // Bounded by max_recipients.
                    self.idle_commands = self.idle_commands.saturating_sub(1);
                }
            }
            Pending::ContentStart { chunk }
                if matches!(reply.severity(), Severity::Positive | Severity::Intermediate) =>
            {
                self.phase = Phase::Content(Content::new(chunk));
                if chunk.is_some() {
                    return;
                }
            }
            Pending::ContentStart { chunk } => {
                self.phase = Phase::Ready;
                if let Some((size, _)) = chunk {
                    return self.refuse_chunk(size, reply);
                }
            }
            Pending::ContentEnd => {
                self.phase = Phase::Ready;
                self.idle_commands = 0;
            }
            _ => {}
        }
        if reply.is_permanent() { self.refuse(reply) } else { self.write(&reply) }
    }

    pub(super) fn ask(&mut self, event: Event, pending: Pending) {
        self.events.push_back(event);
        self.pending = Some(pending);
    }

    pub(super) fn write(&mut self, reply: &Reply) {
        reply.write_to(&mut self.output);
    }

    /// Writes a negative reply and counts it.
    pub(super) fn refuse(&mut self, reply: Reply) {
        self.write(&reply);
        self.errors += 1;
        if self.errors > self.config.max_errors {
            self.write(&Reply::new(421, (4, 7, 0), "too many errors"));
            self.end(Close::Limit);
        }
    }

    /// Ends the open transaction.
    fn reset(&mut self) {
        self.abort_content();
        if matches!(self.phase, Phase::Mail { .. }) {
            self.phase = Phase::Ready;
            self.events.push_back(Event::Reset);
        }
    }

    fn abort_content(&mut self) {
        if matches!(self.phase, Phase::Content(_)) {
            self.phase = Phase::Ready;
            self.events.push_back(Event::ContentAborted(Abort::Reset));
        }
    }

    pub(super) fn end(&mut self, why: Close) {
        self.phase = Phase::Closed;
        self.pending = None;
        self.swallow = None;
        self.input.clear();
        self.events.push_back(Event::Closed(why));
    }

    pub(super) fn exceeds(&self, size: u64) -> bool {
        self.config.extensions.size.is_some_and(|max| max > 0 && size > max)
    }

    /// Content that is refused anyway is read for politeness, up to here.
    pub(super) fn is_flood(&self, size: u64) -> bool {
        const GRACE: u64 = 64 << 20;
        size > self.config.extensions.size.unwrap_or(0).saturating_mul(2).saturating_add(GRACE)
    }
}

fn order(what: &str) -> Reply {
    Reply::new(503, (5, 5, 1), what)
}

fn unknown() -> Reply {
    Reply::new(500, (5, 5, 1), "command not recognised")
}
