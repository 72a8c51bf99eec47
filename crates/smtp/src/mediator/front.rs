//! The client's side: bytes to lines, lines to commands, content through.

use super::content::Verdict;
use super::event::{Ending, Event, Flow, Topic};
use super::machine::{Back, Context, Mediator};
use super::replies;
use super::settings::{HIGH_WATER, MAX_ERRORS, MAX_FRUITLESS, MAX_HELD, MAX_PIPELINE, MAX_READ};
use super::stand_in::Absent;
use super::waiting::{Awaited, By, Line, Turn};
use crate::Reply;
use crate::body::{BdatCounter, DataScanner};
use crate::command::{Command, Verb};
use crate::line::{LineBuffer, LineError, MAX_COMMAND_LINE};

/// Where the client's side stands.
#[derive(Debug)]
pub(super) enum Front {
    /// Held: the greeting is not there yet, or the answer to this EHLO or HELO.
    Waiting { hello: Option<Verb> },
    /// Greeted; EHLO comes next.
    Hello,
    /// Between commands.
    Commands,
    /// STARTTLS waits for its turn.
    StartTls,
    /// STARTTLS was answered with 220: the driver is at it.
    Handshake,
    /// DATA was passed: its reply decides what the next bytes are.
    DataAsked,
    /// In content that a dot ends. With a verdict it is swallowed, and the verdict is the answer.
    Body { scanner: DataScanner, verdict: Option<Box<Verdict>> },
    /// In the content of a BDAT.
    Chunk { left: BdatCounter, last: bool, verdict: Option<Box<Verdict>> },
    /// QUIT was passed.
    Quitting,
    /// Closed.
    Done,
}

impl Front {
    /// Whether a QUIT to the server would not be taken for content.
    pub(super) fn between_messages(&self) -> bool {
        !matches!(self, Self::DataAsked | Self::Body { .. } | Self::Chunk { .. })
    }
}

impl Mediator {
    /// Takes in `bytes` and goes as far as it can with what is there.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) {
        loop {
            match self.front {
                Front::Body { .. } | Front::Chunk { .. } => {
                    if self.input.is_empty() {
                        if bytes.is_empty() {
                            return;
                        }
                        let content = self.content(cx, bytes);
                        self.pass_content(&content);
                        bytes = &bytes[content.taken..];
                    } else {
                        // Aside for a moment; not copied, or a thousand small chunks would cost a thousand copies of the rest.
                        let mut held = std::mem::replace(&mut self.input, LineBuffer::new(MAX_COMMAND_LINE));
                        let content = self.content(cx, held.rest());
                        self.pass_content(&content);
                        let taken = content.taken;
                        held.consume(taken);
                        if !matches!(self.front, Front::Done) {
                            self.input = held;
                        }
                        if !self.input.is_empty() {
                            self.input.push(bytes);
                            bytes = &[];
                        }
                    }
                }
                Front::Waiting { .. } => {
                    self.input.push(bytes);
                    return self.bound_held(cx, "too much sent before EHLO was answered");
                }
                Front::DataAsked => {
                    self.input.push(bytes);
                    // Were it held, it would be content or commands depending on the server's answer.
                    if !self.input.is_empty() {
                        self.give_up(cx, Ending::Violation("content before 354"), replies::talked_before_354());
                    }
                    return;
                }
                Front::Hello | Front::Commands => {
                    self.input.push(bytes);
                    bytes = &[];
                    // While the session moves, whatever went out would reach a server that expects EHLO.
                    if self.moving.is_some() || self.waiting.holds_back() {
                        return self.bound_held(cx, "too much sent before MAIL or RCPT was answered");
                    }
                    if self.waiting.len() >= MAX_PIPELINE || self.to_server.len() >= HIGH_WATER {
                        return;
                    }
                    match self.input.next_line() {
                        None => return,
                        Some(line) => self.line(cx, line),
                    }
                    if self.fruitless > MAX_FRUITLESS {
                        self.give_up(cx, Ending::Violation("too many commands"), replies::too_many_commands());
                    }
                }
                Front::StartTls => {
                    self.input.push(bytes);
                    bytes = &[];
                    if !self.waiting.is_empty() {
                        return self.bound_held(cx, "too much sent behind STARTTLS");
                    }
                    self.answer_start_tls(cx);
                }
                Front::Handshake | Front::Quitting | Front::Done => {
                    self.input.clear();
                    return;
                }
            }
        }
    }

    /// A driver that heeds [`Mediator::wants_client`] never gets here.
    fn bound_held(&mut self, cx: &mut Context<'_>, what: &'static str) {
        if self.input.len() > MAX_HELD + MAX_READ {
            self.give_up(cx, Ending::Violation(what), replies::too_much_held());
        }
    }

    /// What follows from a client that closed, or from our own end, once everything at hand is done.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        if self.client_closed {
            let over = match self.front {
                // Behind EHLO it waits for the answer: it may have closed its own direction only.
                Front::Waiting { hello } => hello.is_none() && self.input.is_empty(),
                Front::Hello | Front::Commands | Front::StartTls => self.waiting.is_empty(),
                Front::Body { .. } | Front::Chunk { .. } => true,
                Front::DataAsked | Front::Handshake | Front::Quitting | Front::Done => false,
            };
            if over {
                self.end(cx, Ending::ClientLost);
                self.leave_server(cx);
                self.close_client();
            }
        }
        if self.draining
            && !self.envelope.open
            && self.waiting.is_empty()
            && matches!(self.front, Front::Hello | Front::Commands)
        {
            self.give_up(cx, Ending::Drained, replies::draining());
        }
    }

    fn line(&mut self, cx: &mut Context<'_>, line: Result<Vec<u8>, LineError>) {
        self.client_heard = cx.now;
        let line = match line {
            Ok(line) => line,
            Err(error) => return self.refuse(cx, Verb::Unknown, b"", replies::bad_line(error)),
        };
        let verb = Verb::of(&line);
        let command = match Command::parse(&line) {
            Ok(command) => command,
            // Where the chunk ends is unknown, so is where the next command begins.
            Err(_) if verb == Verb::Bdat => {
                self.ended_here(cx, verb, &line);
                return self.give_up(cx, Ending::Violation("malformed BDAT"), replies::bad_chunk());
            }
            Err(error) => return self.refuse(cx, verb, &line, error.reply()),
        };
        if let Some(absent) = &self.absent {
            let absent = Absent::clone(absent);
            return self.serve(cx, absent, &command, &line);
        }
        match self.front {
            Front::Hello => self.before_hello(cx, &command, &line),
            _ => self.command(cx, &command, &line),
        }
    }

    fn before_hello(&mut self, cx: &mut Context<'_>, command: &Command, line: &[u8]) {
        let verb = command.verb();
        match (command, &self.refusal) {
            (Command::Quit, _) if matches!(self.back, Back::Opening { connected: false, .. }) => {
                self.answer(cx, verb, line, replies::bye());
                self.end(cx, Ending::Quit);
                self.drop_server();
                self.close_client();
            }
            (Command::Quit, _) => {
                self.back = Back::Relaying;
                self.quit(cx, line);
            }
            (Command::Noop | Command::Rset, _) => self.answer(cx, verb, line, replies::ok()),
            (Command::Ehlo(_) | Command::Helo(_), Some(refusal)) => {
                let refusal = Reply::clone(refusal);
                self.refuse(cx, verb, line, refusal);
            }
            (Command::Ehlo(_) | Command::Helo(_), None) if self.shield.is_up() => {
                self.front = Front::Commands;
                self.hello_again(cx, verb, line);
            }
            (Command::Ehlo(_) | Command::Helo(_), None) => {
                self.ended_here(cx, verb, line);
                self.front = Front::Waiting { hello: Some(verb) };
                if let Back::Opening { opening, .. } = &mut self.back {
                    let step = opening.hello();
                    self.perform(cx, step, None);
                }
            }
            // Its content follows, whatever the answer: it must not run as commands.
            (Command::Bdat { .. }, _) => {
                self.ended_here(cx, verb, line);
                self.give_up(cx, Ending::Violation("BDAT before EHLO"), replies::bad_chunk());
            }
            (_, Some(_)) => self.refuse(cx, verb, line, replies::session_refused()),
            (_, None) => self.refuse(cx, verb, line, replies::say_hello_first()),
        }
    }

    fn command(&mut self, cx: &mut Context<'_>, command: &Command, line: &[u8]) {
        let verb = command.verb();
        match command {
            Command::Bdat { size, last } if self.must_encrypt(command) => {
                self.refuse_chunk(cx, *size, *last, line, replies::starttls_first());
            }
            _ if self.must_encrypt(command) => self.refuse(cx, verb, line, replies::starttls_first()),
            Command::Mail { from, .. } => self.mail(cx, from, command, line),
            Command::Rcpt { to, .. } => self.rcpt(cx, to, command, line),
            Command::Data => self.data(cx, line),
            Command::Bdat { size, last } => self.bdat(cx, *size, *last, line),
            Command::Quit => self.quit(cx, line),
            Command::Ehlo(_) | Command::Helo(_) => self.hello_again(cx, verb, line),
            Command::Rset => {
                self.forget_envelope();
                self.pass(cx, Topic::Command(verb), line);
            }
            Command::Noop | Command::Vrfy(_) | Command::Expn(_) | Command::Help => {
                self.pass(cx, Topic::Command(verb), line);
            }
            Command::StartTls => self.start_tls(cx, line),
            Command::Auth { .. } => self.refuse(cx, verb, line, replies::no_auth_here()),
            Command::Xclient(_) => self.refuse(cx, verb, line, replies::no_xclient_here()),
            Command::Unknown(_) => self.refuse(cx, verb, line, replies::unknown_command()),
        }
    }

    fn quit(&mut self, cx: &mut Context<'_>, line: &[u8]) {
        if self.may_be_kept() && cx.host.keep() {
            self.keeping.leaving = true;
            self.hold_back(cx, Topic::Command(Verb::Quit), line);
            self.front = Front::Quitting;
            self.input.clear();
            return self.quit_in_turn(cx);
        }
        self.pass(cx, Topic::Command(Verb::Quit), line);
        self.front = Front::Quitting;
        self.input.clear();
    }

    /// EHLO resets the transaction; for the server that is a RSET (RFC 5321 §4.1.4).
    pub(super) fn hello_again(&mut self, cx: &mut Context<'_>, verb: Verb, line: &[u8]) {
        self.answer_hello(cx, verb, line);
        self.forget_envelope();
        self.send(cx, Verb::Rset, "RSET");
        let line = self.remembered(b"RSET");
        self.waiting.push(Awaited { topic: Topic::Command(Verb::Rset), since: cx.now, by: By::ServerForUs, line });
    }

    /// What the client said of its envelope without the server having heard it.
    fn forget_envelope(&mut self) {
        (self.envelope.held, self.envelope.void) = (None, None);
    }

    /// With a policy that was asked, the server gets what was understood: two parsers may differ, one value cannot.
    pub(super) fn pass_envelope(&mut self, cx: &mut Context<'_>, command: &Command, line: &[u8]) {
        let topic = Topic::Command(command.verb());
        if self.exact { self.pass(cx, topic, command.to_string().as_bytes()) } else { self.pass(cx, topic, line) }
    }

    pub(super) fn pass(&mut self, cx: &mut Context<'_>, topic: Topic, line: &[u8]) {
        cx.tell(Event::Command { flow: Flow::CommandPassed, topic, line });
        self.to_server.push(line);
        self.to_server.push(b"\r\n");
        let again = !matches!(topic, Topic::Command(Verb::Bdat) | Topic::LastChunk);
        if again && topic != Topic::Command(Verb::Rcpt) {
            self.fruitless += 1;
        }
        let line = if again { self.remembered(line) } else { None };
        self.waiting.push(Awaited { topic, since: cx.now, by: By::Server, line });
    }

    /// A line that was sent, if it may have to be sent again.
    fn remembered(&self, line: &[u8]) -> Option<Line> {
        let keep = self.home.is_some() && !self.failed_over && self.waiting.has_room(line.len());
        keep.then(|| Line { bytes: line.into(), turn: Turn::Sent })
    }

    pub(super) fn ended_here(&mut self, cx: &mut Context<'_>, verb: Verb, line: &[u8]) {
        let line = if verb == Verb::Auth { redacted(line) } else { line };
        self.fruitless += 1;
        cx.tell(Event::Command { flow: Flow::CommandEnded, topic: Topic::Command(verb), line });
    }

    /// Answers a command here; the answer takes its turn.
    pub(super) fn answer(&mut self, cx: &mut Context<'_>, verb: Verb, line: &[u8], reply: Reply) {
        self.ended_here(cx, verb, line);
        self.say_in_turn(cx, Topic::Command(verb), reply);
    }

    pub(super) fn say_in_turn(&mut self, cx: &mut Context<'_>, topic: Topic, reply: Reply) {
        if self.waiting.is_empty() {
            self.say(cx, Flow::ReplyMade, topic, &reply);
        } else {
            self.waiting.push(Awaited { topic, since: cx.now, by: By::Us(reply), line: None });
        }
    }

    /// Says what of our own has its turn.
    pub(super) fn say_ours(&mut self, cx: &mut Context<'_>) {
        while let Some((topic, reply)) = self.waiting.next_of_ours() {
            self.say(cx, Flow::ReplyMade, topic, &reply);
            self.data_refused(topic);
        }
    }

    pub(super) fn data_refused(&mut self, topic: Topic) {
        if topic == Topic::Command(Verb::Data) && matches!(self.front, Front::DataAsked) {
            self.front = Front::Commands;
        }
    }

    pub(super) fn refuse(&mut self, cx: &mut Context<'_>, verb: Verb, line: &[u8], reply: Reply) {
        self.answer(cx, verb, line, reply);
        self.count_error(cx);
    }

    pub(super) fn count_error(&mut self, cx: &mut Context<'_>) {
        self.errors += 1;
        if self.errors > MAX_ERRORS {
            self.give_up(cx, Ending::Violation("too many errors"), replies::too_many_errors());
        }
    }
}

/// The verb and mechanism of an AUTH, without what follows.
fn redacted(line: &[u8]) -> &[u8] {
    let mut blanks = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    match blanks.nth(1) {
        Some(end) => &line[..end],
        None => line,
    }
}
