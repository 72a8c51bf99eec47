//! What the mediator tells, as the record takes it.

use std::time::Instant;

use warren_session::Message;
use warren_smtp::mediator::{Event, Observer};

use super::paths::Paths;
use super::{Open, SessionRecord};
use crate::message_id::MessageId;

impl Observer for SessionRecord {
    fn event(&mut self, at: Instant, event: Event<'_>) {
        match event {
            Event::Command { flow, topic, line } => self.command(at, flow, topic, line),
            Event::Reply { flow, topic, reply } => self.reply(at, flow, topic, reply),
            Event::Mail(path) => {
                self.messages += 1;
                let message = Message::begun(self.messages, self.leg_number(), path.to_text(), self.micros(at));
                // One is the rule, and the queue goes with it.
                if self.open.is_empty() {
                    self.open.reserve_exact(1);
                }
                self.open.push_back(Open {
                    message,
                    recipients: Paths::default(),
                    accepted: Vec::new(),
                    id: MessageId::default(),
                });
                if let Some(asked) = self.asked.back_mut() {
                    asked.message = self.messages;
                }
                let early = self.odd.as_mut().map(|odd| std::mem::take(&mut odd.early));
                for (to, reply) in early.into_iter().flatten() {
                    self.not_asked(&to, &reply, false, at);
                }
            }
            Event::Rcpt(path) => {
                if let (Some(open), Some(asked)) = (self.open.back_mut(), self.asked.back_mut())
                    && let Some(n) = open.recipients.push(path.to_text())
                {
                    asked.recipient = n;
                }
            }
            Event::Content(bytes) => self.content(at, bytes),
            Event::ContentEnd => {
                let at_us = self.micros(at);
                if let Some(open) = self.open.back_mut() {
                    open.message.sent_us = Some(at_us);
                }
            }
            Event::Offered { lines, .. } => {
                if let Some(leg) = self.leg {
                    self.log.offered(leg.n, lines);
                }
            }
            Event::Heard { bytes } => {
                if let Some(watch) = &mut self.watch {
                    watch.heard(at, bytes);
                }
            }
            Event::Injected { bytes } => {
                tracing::warn!(session = %self.log.id(), bytes, "dropped what the MX sent behind its 220 to STARTTLS");
                self.failed(&format!("{bytes} bytes behind the 220 of STARTTLS dropped"));
            }
            Event::Stale { reply } => {
                let said = format!(
                    "the connection that was taken over is of no use any more: {} {}",
                    reply.code,
                    reply.coded_lines()
                );
                self.noted(&said);
            }
            Event::Pipelined { bytes } => self.noted(&format!("{bytes} bytes behind STARTTLS dropped")),
            Event::Moving { reply, .. } => self.moving(at, reply),
            Event::Moved { quit } => self.moved(at, quit),
            Event::Stayed => self.stayed(at),
            Event::Ended(ending) => self.ending = Some(ending),
        }
    }
}
