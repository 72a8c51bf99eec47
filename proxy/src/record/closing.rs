//! What became of messages and their recipients.

use std::time::Instant;

use warren_session::{Class, Mail, Recipient, SessionLog, Verdict};
use warren_smtp::Reply;
use warren_smtp::mediator::Ending;

use super::words::{Given, verdict};
use super::{Open, SessionRecord};
use crate::detect::Watch;

impl SessionRecord {
    /// Of the messages before this one all is answered: what has no verdict gets none any more, and is not kept until the session ends.
    pub(super) fn settle_before(&mut self, at: Instant, message: u32) {
        while let Some(open) = self.open.pop_front_if(|open| open.message.n < message) {
            self.close(at, open, None);
        }
    }

    /// Records what became of a message and its accepted recipients; without a reply it was given up or lost.
    pub(super) fn close(&mut self, at: Instant, mut open: Open, reply: Option<(&Reply, &str)>) {
        let at_us = self.micros(at);
        let told = open.message.code.is_some();
        open.message.message_id = open.id.take();
        if let Some((reply, lines)) = reply {
            open.message.verdict = verdict(".", reply, lines);
            open.message.code = Some(reply.code);
            open.message.reply_us = Some(at_us);
        } else if open.message.code.is_none() && !matches!(self.ending, None | Some(Ending::Quit)) {
            open.message.verdict = Verdict::of(Class::Network);
        }
        let delivered = reply.is_some_and(|(reply, _)| reply.is_positive());
        let given = Given::by(reply, at_us);
        // A refusal of MAIL was told, and what comes after it is told in the same way.
        if let (true, false, Some((reply, lines))) = (delivered, told, reply) {
            self.delivered(&open, reply, lines, &given);
            return;
        }
        for n in &open.accepted {
            tell(&mut self.log, self.watch.as_ref(), given.recipient(&open, *n, &open.message.verdict));
            if delivered {
                self.tally.delivered += 1;
            } else {
                self.tally.failed += 1;
            }
        }
        if let Some(watch) = &self.watch {
            watch.counter().message(open.message.verdict.class);
        }
        self.log.message(&open.message);
    }

    /// Records a message that the MX took, with its recipients.
    fn delivered(&mut self, open: &Open, reply: &Reply, lines: &str, given: &Given<'_>) {
        let verdict = &open.message.verdict;
        let (together, others) = open.accepted.split_at(open.accepted.len().min(Mail::RECIPIENTS));
        let mut recipients = [(0, ""); Mail::RECIPIENTS];
        for (recipient, n) in recipients.iter_mut().zip(together) {
            *recipient = (*n, open.recipients.get(*n).unwrap_or_default());
        }
        let reply = (reply.code, given.enhanced(), lines);
        self.log.mail(Mail::of(&open.message, reply, &recipients[..together.len()]));
        for n in others {
            self.log.recipient(given.recipient(open, *n, verdict));
        }
        self.tally.delivered += u32::try_from(open.accepted.len()).unwrap_or(u32::MAX);
        if let Some(watch) = &self.watch {
            open.accepted.iter().for_each(|_| watch.counter().recipient(verdict.class));
            watch.counter().message(verdict.class);
        }
    }
}

/// Records what became of a recipient, and counts it.
pub(super) fn tell(log: &mut SessionLog, watch: Option<&Watch>, recipient: Recipient<'_>) {
    if let Some(watch) = watch {
        watch.counter().recipient(recipient.verdict.class);
    }
    log.recipient(recipient);
}
