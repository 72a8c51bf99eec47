//! Content: what of it goes to the server, where it ends, and what the client hears of content that goes nowhere.

use super::event::{Ending, Event, Flow, Topic};
use super::front::Front;
use super::machine::{Context, Mediator};
use super::replies;
use super::waiting::{Awaited, By};
use crate::Reply;
use crate::command::Verb;

/// What a client gets for content that goes nowhere.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) flow: Flow,
    pub(super) reply: Reply,
    /// The session goes on behind it.
    pub(super) goes_on: bool,
}

/// Of bytes of the client, the content.
pub(super) struct Content<'a> {
    /// Goes to the server first.
    lead: &'static [u8],
    /// Goes there next.
    pass: &'a [u8],
    /// How many of the bytes were content.
    pub(super) taken: usize,
}

impl Mediator {
    /// Takes the content that `bytes` begin with: what of it goes out as it stands, before all that is said to the server from now on, and what
    /// is behind it.
    pub(super) fn content_through<'b>(&mut self, cx: &mut Context<'_>, bytes: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        let streams = matches!(self.front, Front::Body { .. } | Front::Chunk { .. });
        if !streams || bytes.is_empty() || !self.input.is_empty() || !self.to_server.is_empty() {
            return (&[], bytes);
        }
        let content = self.content(cx, bytes);
        let rest = &bytes[content.taken..];
        if content.lead.is_empty() {
            return (content.pass, rest);
        }
        self.pass_content(&content);
        (&[], rest)
    }

    pub(super) fn pass_content(&mut self, content: &Content<'_>) {
        self.to_server.push(content.lead);
        self.to_server.push(content.pass);
    }

    /// Content from the client. Nothing is said to the server meanwhile, if any of it is to go there.
    pub(super) fn content<'b>(&mut self, cx: &mut Context<'_>, bytes: &'b [u8]) -> Content<'b> {
        self.client_heard = cx.now;
        match &mut self.front {
            Front::Body { scanner, verdict } => {
                let scan = scanner.scan(bytes);
                let fault = scanner.fault().is_some();
                let mut content = Content { lead: b"", pass: b"", taken: scan.taken };
                if verdict.is_none() && !fault {
                    for part in [scan.lead, scan.pass] {
                        if !part.is_empty() {
                            cx.tell(Event::Content(part));
                        }
                    }
                    (content.lead, content.pass) = (scan.lead, scan.pass);
                }
                let end = scan.end;
                if fault && verdict.is_none() {
                    let reply = replies::bare_line_end();
                    *verdict = Some(Box::new(Verdict { flow: Flow::ReplyMade, reply, goes_on: false }));
                    self.end(cx, Ending::Violation("bare CR or LF in content"));
                    self.drop_server();
                }
                if end {
                    self.body_done(cx);
                }
                content
            }
            Front::Chunk { left, verdict, .. } => {
                let taken = left.take(bytes.len());
                let done = left.is_done();
                let pass = if verdict.is_none() { &bytes[..taken] } else { &[] };
                if !pass.is_empty() {
                    cx.tell(Event::Content(pass));
                }
                if done {
                    self.chunk_done(cx);
                }
                Content { lead: b"", pass, taken }
            }
            _ => Content { lead: b"", pass: b"", taken: 0 },
        }
    }

    fn body_done(&mut self, cx: &mut Context<'_>) {
        let topic = Topic::EndOfData;
        let verdict = match std::mem::replace(&mut self.front, Front::Commands) {
            Front::Body { verdict, .. } => verdict,
            _ => None,
        };
        let flow = if verdict.is_none() { Flow::CommandPassed } else { Flow::CommandEnded };
        cx.tell(Event::Command { flow, topic, line: b"." });
        match verdict {
            None => {
                cx.tell(Event::ContentEnd);
                self.waiting.push(Awaited { topic, since: cx.now, by: By::Server, line: None });
            }
            Some(verdict) => self.pronounce(cx, topic, &verdict),
        }
    }

    pub(super) fn chunk_done(&mut self, cx: &mut Context<'_>) {
        match std::mem::replace(&mut self.front, Front::Commands) {
            Front::Chunk { verdict: None, last, .. } => {
                if last {
                    cx.tell(Event::ContentEnd);
                }
            }
            Front::Chunk { verdict: Some(verdict), last, .. } => {
                let topic = if last { Topic::LastChunk } else { Topic::Command(Verb::Bdat) };
                if verdict.goes_on {
                    self.say_in_turn(cx, topic, verdict.reply);
                } else {
                    self.pronounce(cx, topic, &verdict);
                }
            }
            other => self.front = other,
        }
    }

    /// Gives the verdict on swallowed content, and closes.
    fn pronounce(&mut self, cx: &mut Context<'_>, topic: Topic, verdict: &Verdict) {
        self.say(cx, verdict.flow, topic, &verdict.reply);
        if verdict.reply.code != 421 {
            self.say(cx, Flow::ReplyMade, Topic::Greeting, &replies::closing());
        }
        self.leave_server(cx);
        self.close_client();
    }
}
