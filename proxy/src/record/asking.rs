//! What was asked, and what it was answered: replies come in the order of the commands that were passed, so a queue tells which message and which
//! recipient a reply is about.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_session::detect::Answer;
use warren_session::{Dir, Timed};
use warren_smtp::Reply;
use warren_smtp::command::Verb;
use warren_smtp::mediator::{Flow, Topic};

use super::SessionRecord;
use super::closing::tell;
use super::words::{Given, dir, lines, verdict};

/// A command that was passed, or sent by us, and is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) topic: Topic,
    /// The message it is about.
    pub(super) message: u32,
    /// The recipient, counted from 1.
    pub(super) recipient: u32,
}

impl SessionRecord {
    pub(super) fn command(&mut self, at: Instant, flow: Flow, topic: Topic, line: &[u8]) {
        let at_us = self.micros(at);
        self.log.command(self.leg_number(), at_us, dir(flow), line);
        if topic == Topic::Command(Verb::Mail)
            && flow != Flow::CommandSent
            && let Some(odd) = &mut self.odd
        {
            odd.early.clear();
        }
        if !matches!(flow, Flow::CommandPassed | Flow::CommandSent) {
            return;
        }
        let asked = if flow == Flow::CommandSent { self.asked_again(topic) } else { None };
        // A MAIL that was answered on the leg before comes in front of what was not, and is of the same message.
        let said_again = (flow, topic) == (Flow::CommandSent, Topic::Command(Verb::Mail));
        let front = self.odd.as_ref().and_then(|odd| odd.again.front()).filter(|_| said_again);
        let message = front.map_or(self.messages, |asked| asked.message);
        self.asked.push_back(asked.unwrap_or(Asked { topic, message, recipient: 0 }));
        if let (Topic::Command(Verb::Data | Verb::Bdat) | Topic::LastChunk, Some(open)) = (topic, self.open.back_mut())
        {
            open.message.data_us.get_or_insert(at_us);
        }
    }

    pub(super) fn reply(&mut self, at: Instant, flow: Flow, topic: Topic, reply: &Reply) {
        let lines = lines(reply);
        let at_us = self.micros(at);
        let repeated = std::mem::take(&mut self.repeated);
        let way = if repeated { Dir::AnsweredByProxy } else { dir(flow) };
        let timed = self.log.reply(self.leg_number(), at_us, way, reply.code, &lines);
        if !repeated {
            self.watch_reply(at, timed, reply, &lines);
        }
        let from_server = flow != Flow::ReplyMade;
        if from_server && reply.code >= 400 {
            self.refused = Some(reply.code);
        }
        // A reply of ours to a command that the server owed an answer to stands for that answer.
        let asked = match self.asked.front() {
            Some(asked) if from_server || asked.topic == topic => self.asked.pop_front(),
            // Or not asked again after all: the MAIL before it was refused.
            _ => self.asked_again(topic).or_else(|| {
                (topic == Topic::EndOfData).then_some(Asked { topic, message: self.messages, recipient: 0 })
            }),
        };
        if let Some(asked) = asked {
            self.answered(at, asked, reply, &lines);
        }
        self.give_back();
    }

    /// A session that waits owns no more than it needs.
    fn give_back(&mut self) {
        if self.asked.is_empty() {
            self.asked = VecDeque::new();
        }
        if self.open.is_empty() {
            self.open = VecDeque::new();
        }
    }

    pub(super) fn watch_reply(&mut self, at: Instant, timed: Option<Timed>, reply: &Reply, lines: &str) {
        let (Some(timed), Some(watch)) = (timed, &mut self.watch) else { return };
        let verdict = (reply.code >= 400).then(|| verdict(&timed.verb, reply, lines));
        let took = Duration::from_micros(timed.took_us);
        let answer = Answer { verb: &timed.verb, code: reply.code, text: lines, verdict: verdict.as_ref(), took };
        let noticed = watch.replied(&answer, at);
        self.notice(at, noticed);
    }

    fn answered(&mut self, at: Instant, asked: Asked, reply: &Reply, lines: &str) {
        if asked.topic == Topic::Command(Verb::Mail) {
            self.settle_before(at, asked.message);
        }
        let Some(place) = self.open.iter().position(|open| open.message.n == asked.message) else { return };
        let at_us = self.micros(at);
        let refused = reply.code >= 400;
        match asked.topic {
            Topic::Command(Verb::Rcpt) if asked.recipient > 0 => {
                let open = &mut self.open[place];
                if refused {
                    let verdict = verdict("RCPT", reply, lines);
                    let given = Given::by(Some((reply, lines)), at_us);
                    self.tally.failed += 1;
                    tell(&mut self.log, self.watch.as_ref(), given.recipient(open, asked.recipient, &verdict));
                } else {
                    open.accepted.push(asked.recipient);
                }
            }
            Topic::Command(Verb::Mail | Verb::Data | Verb::Bdat) if refused => {
                let verb = if asked.topic == Topic::Command(Verb::Mail) { "MAIL" } else { "DATA" };
                let open = &mut self.open[place];
                open.message.verdict = verdict(verb, reply, lines);
                open.message.code = Some(reply.code);
                open.message.reply_us = Some(at_us);
                if asked.topic == Topic::Command(Verb::Mail) {
                    // What was pipelined behind it is answered by the MX one by one, but there is no message.
                    self.log.message(&open.message);
                }
            }
            Topic::EndOfData | Topic::LastChunk => {
                if let Some(open) = self.open.remove(place) {
                    self.close(at, open, Some((reply, lines)));
                }
            }
            Topic::Command(Verb::Rset) if !refused => {
                if let Some(open) = self.open.remove(place) {
                    self.close(at, open, None);
                }
            }
            _ => {}
        }
    }

    /// What is asked again next, if it is this.
    fn asked_again(&mut self, topic: Topic) -> Option<Asked> {
        self.odd.as_mut()?.again.pop_front_if(|asked| asked.topic == topic)
    }
}
