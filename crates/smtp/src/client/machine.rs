//! The client machine: replies are matched to what they answer by a queue.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ClientConfig, Envelope, Event, Failure, NOTHING, Step};
use crate::body::DataEncoder;
use crate::command::{Command, MailParams, RcptParams};
use crate::ehlo::Extensions;
use crate::reply::{Reply, ReplyParser};

/// Most commands without their reply. Replies to more could fill both sockets' buffers while both sides write.
const WINDOW: usize = 100;

/// Where a session is.
#[derive(Debug)]
enum Phase {
    /// Before `Ready`.
    Opening {
        helo: bool,
    },
    Idle,
    Envelope(Transaction),
    /// 354 was given.
    Content(Transaction, DataEncoder, u64),
    /// The end of data was written.
    End,
    /// RSET was written: no recipient was accepted, or DATA was refused.
    Resetting,
    Closing,
    Closed,
}

/// A message before its content.
#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    /// Commands to be written: 0 is MAIL, then recipients.
    next: usize,
    answered: usize,
    accepted: usize,
    refused: Option<Reply>,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    replies: ReplyParser,
    output: Vec<u8>,
    events: VecDeque<Event>,
    awaited: VecDeque<Step>,
    phase: Phase,
    extensions: Option<Extensions>,
    greeting: Option<Reply>,
}

impl Client {
    /// A new session; the greeting is awaited.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            replies: ReplyParser::new(),
            output: Vec::new(),
            events: VecDeque::new(),
            awaited: [Step::Greeting].into(),
            phase: Phase::Opening { helo: false },
            extensions: None,
            greeting: None,
        }
    }

    /// Takes bytes read from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.replies.push(bytes);
        loop {
            if matches!(self.phase, Phase::Closed) {
                return;
            }
            match self.replies.next_reply() {
                Ok(Some(reply)) => self.reply(reply),
                Ok(None) => return,
                Err(source) => return self.fail(Failure::Protocol { during: self.step(), source }),
            }
        }
    }

    /// The server closed the connection, or it broke.
    pub fn disconnected(&mut self) {
        match self.phase {
            Phase::Closed => {}
            // Some servers close without a 221; the work is done.
            Phase::Closing => self.close(None),
            _ => self.fail(Failure::Lost { during: self.step() }),
        }
    }

    /// The next event; `None`: read more, or do what the last event asked for.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes to write to the server.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What is awaited.
    pub fn step(&self) -> Step {
        match self.phase {
            Phase::Content(..) => Step::Content,
            _ => self.awaited.front().copied().unwrap_or(Step::Idle),
        }
    }

    /// What is awaited, and how long it may take from now or from the last progress. Past it, drop the session.
    pub fn deadline(&self) -> (Step, Duration) {
        (self.step(), self.step().timeout())
    }

    /// What the server offers; nothing before EHLO is answered.
    pub fn extensions(&self) -> &Extensions {
        self.extensions.as_ref().unwrap_or(&NOTHING)
    }

    /// The server's first reply.
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// Whether [`Client::send`] may be called.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Begins a message. Only after [`Event::Ready`]; otherwise it does nothing.
    pub fn send(&mut self, envelope: Envelope) {
        if !self.is_ready() {
            return;
        }
        let refused = self.unsendable(&envelope);
        let mut transaction = Transaction { envelope, next: 0, answered: 0, accepted: 0, refused: None };
        if let Some(reply) = refused
            .or_else(|| transaction.envelope.recipients.is_empty().then(|| Reply::new(554, (5, 5, 1), "no recipients")))
        {
            for index in 0..transaction.envelope.recipients.len() {
                self.events.push_back(Event::Recipient(index, reply.clone()));
            }
            self.events.extend([Event::Done(None), Event::Ready]);
            return;
        }
        transaction.envelope.params = self.offered_mail(&transaction.envelope.params);
        self.phase = Phase::Envelope(transaction);
        self.pump();
    }

    /// The next content, with CRLF line ends and without dot stuffing. Only after [`Event::Content`]. Write the
    /// output out between calls: that is what bounds memory.
    pub fn content(&mut self, bytes: &[u8]) {
        let Phase::Content(_, encoder, size) = &mut self.phase else { return };
        *size += bytes.len() as u64;
        if let Err(fault) = encoder.encode(bytes, &mut self.output) {
            self.abandon(Failure::Content(fault));
        }
    }

    /// The content is complete: writes the end of data.
    pub fn finish(&mut self) {
        let Phase::Content(transaction, encoder, got) = &self.phase else { return };
        if let Some(expected) = transaction.envelope.params.size.filter(|expected| expected != got) {
            let got = *got;
            return self.abandon(Failure::Incomplete { expected, got });
        }
        match encoder.clone().finish(&mut self.output) {
            Ok(()) => {
                self.phase = Phase::End;
                self.awaited.push_back(Step::End);
            }
            Err(fault) => self.abandon(Failure::Content(fault)),
        }
    }

    /// Ends the session. Outside of a transaction it says QUIT and waits for the answer; inside one it closes at
    /// once, so that the server drops what it has.
    pub fn quit(&mut self) {
        match self.phase {
            Phase::Idle => {
                self.command(&Command::Quit, Step::Quit);
                self.phase = Phase::Closing;
            }
            Phase::Closing | Phase::Closed => {}
            _ => {
                self.output.clear();
                self.close(None);
            }
        }
    }

    fn reply(&mut self, reply: Reply) {
        let Some(during) = self.awaited.pop_front() else {
            let during = self.step();
            return self.fail(if reply.code == 421 {
                Failure::Refused { during, reply }
            } else {
                Failure::Unexpected { during, reply }
            });
        };
        if reply.code == 421 && during != Step::Quit {
            return self.fail(Failure::Refused { during, reply });
        }
        match during {
            Step::Greeting if reply.code == 220 => {
                self.greeting = Some(reply);
                self.ehlo();
            }
            Step::Xclient if reply.code == 220 => self.ehlo(),
            Step::Hello => self.hello(during, reply),
            Step::Mail => self.mail_answered(reply),
            Step::Rcpt => self.rcpt_answered(reply),
            Step::Data => self.data_answered(during, reply),
            Step::End => {
                self.phase = Phase::Idle;
                self.events.extend([Event::Done(Some(reply)), Event::Ready]);
            }
            Step::Rset if reply.is_positive() => {
                self.phase = Phase::Idle;
                self.events.push_back(Event::Ready);
            }
            Step::Quit => self.close(None),
            Step::Greeting | Step::Xclient if reply.is_positive() => self.fail(Failure::Unexpected { during, reply }),
            Step::Greeting | Step::Xclient | Step::Rset => self.fail(Failure::Refused { during, reply }),
            Step::Idle | Step::Content => self.fail(Failure::Unexpected { during, reply }),
        }
    }

    fn ehlo(&mut self) {
        self.phase = Phase::Opening { helo: false };
        self.command(&Command::Ehlo(self.config.hostname.clone()), Step::Hello);
    }

    fn hello(&mut self, during: Step, reply: Reply) {
        let Phase::Opening { helo } = self.phase else { return };
        if reply.is_permanent() && !helo {
            self.phase = Phase::Opening { helo: true };
            return self.command(&Command::Helo(self.config.hostname.clone()), Step::Hello);
        }
        if !reply.is_positive() {
            return self.fail(Failure::Refused { during, reply });
        }
        let offered = if helo { Extensions::default() } else { Extensions::parse(&reply).1 };
        let xclient = self.config.xclient.take_if(|_| !offered.xclient.is_empty());
        if let Some(attributes) = xclient {
            return self.command(&Command::Xclient(attributes.limited_to(&offered.xclient)), Step::Xclient);
        }
        self.extensions = Some(offered);
        self.phase = Phase::Idle;
        self.events.push_back(Event::Ready);
    }

    /// Writes as many commands of the envelope as may be outstanding.
    fn pump(&mut self) {
        let window = if self.extensions().pipelining { WINDOW } else { 1 };
        let (dsn, has_size) = (self.extensions().dsn, self.extensions().size.is_some());
        let Phase::Envelope(transaction) = &mut self.phase else { return };
        let envelope = &transaction.envelope;
        while self.awaited.len() < window
            && transaction.next <= envelope.recipients.len()
            && transaction.refused.is_none()
        {
            let (command, step) = match transaction.next.checked_sub(1) {
                None => {
                    let size = envelope.params.size.filter(|_| has_size);
                    let params = MailParams { size, ..envelope.params.clone() };
                    (Command::Mail { from: envelope.from.clone(), params }, Step::Mail)
                }
                Some(index) => {
                    let (to, params) = &envelope.recipients[index];
                    let params = RcptParams {
                        notify: params.notify.filter(|_| dsn),
                        orcpt: params.orcpt.clone().filter(|_| dsn),
                        other: vec![],
                    };
                    (Command::Rcpt { to: to.clone(), params }, Step::Rcpt)
                }
            };
            self.output.extend_from_slice(format!("{command}\r\n").as_bytes());
            self.awaited.push_back(step);
            transaction.next += 1;
        }
        if !self.awaited.is_empty() {
            return;
        }
        // Everything that was written is answered, and nothing more is to be written.
        if transaction.accepted > 0 {
            self.command(&Command::Data, Step::Data);
        } else if transaction.refused.is_some() {
            self.phase = Phase::Idle;
            self.events.extend([Event::Done(None), Event::Ready]);
        } else {
            self.events.push_back(Event::Done(None));
            self.phase = Phase::Resetting;
            self.command(&Command::Rset, Step::Rset);
        }
    }

    fn mail_answered(&mut self, reply: Reply) {
        let Phase::Envelope(transaction) = &mut self.phase else { return };
        if !reply.is_positive() {
            // What the server says to the RCPTs already written follows from this.
            for index in 0..transaction.envelope.recipients.len() {
                self.events.push_back(Event::Recipient(index, as_refusal(reply.clone())));
            }
            transaction.refused = Some(reply);
        }
        self.pump();
    }

    fn rcpt_answered(&mut self, reply: Reply) {
        let Phase::Envelope(transaction) = &mut self.phase else { return };
        if transaction.refused.is_none() {
            transaction.accepted += usize::from(reply.is_positive());
            let reply = if reply.is_positive() { reply } else { as_refusal(reply) };
            self.events.push_back(Event::Recipient(transaction.answered, reply));
        } else if reply.is_positive() {
            // RCPT accepted without a sender: nothing that this server says can be relied upon.
            return self.fail(Failure::Unexpected { during: Step::Rcpt, reply });
        }
        transaction.answered += 1;
        self.pump();
    }

    fn data_answered(&mut self, during: Step, reply: Reply) {
        if reply.code == 354 {
            if let Phase::Envelope(transaction) = std::mem::replace(&mut self.phase, Phase::Closed) {
                self.phase = Phase::Content(transaction, DataEncoder::new(), 0);
                self.events.push_back(Event::Content);
            }
        } else if reply.is_transient() || reply.is_permanent() {
            self.events.push_back(Event::Done(Some(reply)));
            self.phase = Phase::Resetting;
            self.command(&Command::Rset, Step::Rset);
        } else {
            self.fail(Failure::Unexpected { during, reply });
        }
    }

    /// Why this server cannot take the message at all.
    fn unsendable(&self, envelope: &Envelope) -> Option<Reply> {
        let offered = self.extensions();
        let utf8 = envelope.params.smtputf8
            || envelope.from.mailbox().is_some_and(|mailbox| mailbox.needs_smtputf8())
            || envelope.recipients.iter().any(|(to, _)| to.mailbox().is_some_and(|mailbox| mailbox.needs_smtputf8()));
        if utf8 && !offered.smtputf8 {
            return Some(Reply::new(550, (5, 6, 7), "the server offers no SMTPUTF8"));
        }
        if envelope.params.require_tls && !offered.requiretls {
            return Some(Reply::new(550, (5, 7, 30), "the server offers no REQUIRETLS"));
        }
        let limit = offered.size.filter(|limit| *limit > 0)?;
        let size = envelope.params.size.filter(|size| *size > limit)?;
        Some(Reply::new(552, (5, 3, 4), format!("{size} bytes are more than the {limit} that the server takes")))
    }

    fn offered_mail(&self, wanted: &MailParams) -> MailParams {
        let offered = self.extensions();
        MailParams {
            size: wanted.size,
            // Without 8BITMIME the content goes out as it is: that is what arrives intact in practice.
            body: wanted.body.filter(|_| offered.eight_bit_mime),
            smtputf8: wanted.smtputf8,
            ret: wanted.ret.filter(|_| offered.dsn),
            envid: wanted.envid.clone().filter(|_| offered.dsn),
            auth: wanted.auth.clone().filter(|_| !offered.auth.is_empty()),
            require_tls: wanted.require_tls,
            other: vec![],
        }
    }

    fn command(&mut self, command: &Command, awaited: Step) {
        self.output.extend_from_slice(format!("{command}\r\n").as_bytes());
        self.awaited.push_back(awaited);
    }

    fn fail(&mut self, failure: Failure) {
        self.close(Some(failure));
    }

    /// Closes without an end of data; what is not written yet stays unwritten.
    fn abandon(&mut self, failure: Failure) {
        self.output.clear();
        self.close(Some(failure));
    }

    fn close(&mut self, failure: Option<Failure>) {
        self.phase = Phase::Closed;
        self.awaited.clear();
        self.events.push_back(Event::Closed(failure));
    }
}

/// A 3yz to MAIL or RCPT means nothing; it must not be taken for a success nor for a final refusal.
fn as_refusal(reply: Reply) -> Reply {
    if reply.is_transient() || reply.is_permanent() {
        reply
    } else {
        Reply::new(451, (4, 5, 0), format!("nonsense from the server: {reply}"))
    }
}
