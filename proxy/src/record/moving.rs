//! Legs that are set aside, and what is asked again.

use std::collections::VecDeque;
use std::time::Instant;

use warren_session::Dir;
use warren_smtp::Reply;

use super::{Asked, Leg, SessionRecord};

/// A leg that the session may go back to, or just left.
#[derive(Debug)]
pub(super) struct Aside {
    leg: Option<Leg>,
    asked: VecDeque<Asked>,
    /// It refused, and is there as long as the new one is not.
    refused: bool,
}

impl SessionRecord {
    /// Another leg is tried. What is noticed of a refusal is noticed now; what comes of it, if the session moves, is another reply.
    pub(super) fn moving(&mut self, at: Instant, refusal: Option<&Reply>) {
        if let Some(reply) = refusal {
            let lines = reply.coded_lines();
            let at_us = self.micros(at);
            let timed = self.log.reply(self.leg_number(), at_us, Dir::ReplyEnded, reply.code, &lines);
            self.watch_reply(at, timed, reply, &lines);
            self.refused = Some(reply.code);
        }
        let (leg, asked, refused) = (self.leg, std::mem::take(&mut self.asked), refusal.is_some());
        // While a leg is being tried another may have been tried before it.
        self.aside.get_or_insert_with(|| Box::new(Aside { leg, asked, refused }));
    }

    pub(super) fn moved(&mut self, at: Instant, quit: bool) {
        let Some(aside) = self.aside.take() else { return };
        if let (true, Some(old)) = (quit && aside.refused, aside.leg) {
            self.log.command(old.n, self.micros(at), Dir::SentByProxy, b"QUIT");
        }
        if !aside.asked.is_empty() {
            self.odd().again = aside.asked;
        }
        let leg = self.leg_number();
        for open in self.open.iter_mut().filter(|open| open.message.data_us.is_none()) {
            open.message.leg = leg;
        }
    }

    pub(super) fn stayed(&mut self, at: Instant) {
        let Some(aside) = self.aside.take() else { return };
        if !aside.refused {
            // Nobody asks again: the answers are ours.
            if !aside.asked.is_empty() {
                self.odd().again = aside.asked;
            }
            return;
        }
        if let (Some(old), Some(watch)) = (aside.leg, &mut self.watch) {
            let noticed = watch.back(old.egress, at);
            self.notice(at, noticed);
        }
        (self.leg, self.asked, self.repeated) = (aside.leg, aside.asked, true);
    }
}
