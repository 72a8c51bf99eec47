//! Whose message a reply is about. An MSA may be at its next message already when the MX answers for the last one, and each answer counts for the account
//! that it is about: replies come in the order in which MAIL went out.

use std::collections::VecDeque;
use std::sync::Arc;

use warren_smtp::command::Verb;
use warren_smtp::mediator::Topic;

use crate::egress::MailClass;

/// Who sends a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Whose {
    /// The reverse-path; none before MAIL.
    pub(super) account: Option<Arc<str>>,
    pub(super) class: MailClass,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whose MAIL the MX owes an answer to, oldest first.
    asked: VecDeque<Whose>,
    /// Whose MAIL is said again, on another leg.
    again: VecDeque<Whose>,
    /// Whose message the MX speaks of.
    now: Whose,
}

/// What the leg that was set aside owes an answer to.
#[derive(Debug, Default)]
pub(super) struct Owed(VecDeque<Whose>);

impl Turns {
    /// A MAIL went out: of `whose`, unless it was said before on another leg.
    pub(super) fn asked(&mut self, whose: &Whose) {
        let whose = self.again.pop_front().unwrap_or_else(|| whose.clone());
        self.asked.push_back(whose);
    }

    /// Whose message the reply to `topic` is about that comes now.
    pub(super) fn answered(&mut self, topic: Topic) -> &Whose {
        if topic == Topic::Command(Verb::Mail)
            && let Some(next) = self.asked.pop_front()
        {
            self.now = next;
            if self.asked.is_empty() {
                // A session that waits owns no more than it needs.
                self.asked = VecDeque::new();
            }
        }
        &self.now
    }

    /// The same, of a reply that the session may fail over for: it has not come yet.
    pub(super) fn refused(&self, topic: Topic) -> &Whose {
        match self.asked.front() {
            Some(next) if topic == Topic::Command(Verb::Mail) => next,
            _ => &self.now,
        }
    }

    /// Whose messages go along if the session fails over for the refusal of `topic`, the refused one first. None before there is any.
    pub(super) fn going_along(&self, topic: Topic) -> impl Iterator<Item = &Whose> {
        let refused = match topic {
            // Answered already, its MAIL comes first again.
            Topic::Command(Verb::Rcpt) => Some(&self.now),
            _ => None,
        };
        refused.into_iter().chain(&self.asked)
    }

    /// Whose MAIL is said again, in this order.
    pub(super) fn again(&self) -> impl Iterator<Item = &Whose> {
        self.again.iter()
    }

    /// The leg is set aside.
    pub(super) fn set_aside(&mut self) -> Owed {
        self.again.clear();
        Owed(std::mem::take(&mut self.asked))
    }

    /// Another leg took over: what the old one owed is asked again. Behind a refusal of RCPT its MAIL comes first, though it was answered.
    pub(super) fn moved(&mut self, Owed(mut owed): Owed, refused: Option<Topic>) {
        if refused == Some(Topic::Command(Verb::Rcpt)) {
            owed.push_front(self.now.clone());
        }
        self.again = owed;
    }

    /// The old leg goes on.
    pub(super) fn stayed(&mut self, Owed(owed): Owed) {
        self.asked = owed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: Topic = Topic::Command(Verb::Mail);
    const RCPT: Topic = Topic::Command(Verb::Rcpt);

    fn whose(account: &str) -> Whose {
        Whose { account: Some(account.into()), class: MailClass::Submitted }
    }

    fn of(whose: &Whose) -> &str {
        whose.account.as_deref().unwrap_or_default()
    }

    #[test]
    fn replies_are_about_the_message_that_they_answer() {
        let mut turns = Turns::default();
        assert_eq!(turns.answered(Topic::Greeting), &Whose::default());
        turns.asked(&whose("a"));
        turns.asked(&whose("b"));
        let heard = [MAIL, RCPT, Topic::EndOfData, MAIL, RCPT].map(|topic| of(turns.answered(topic)).to_owned());
        assert_eq!(heard, ["a", "a", "a", "b", "b"]);
    }

    #[test]
    fn what_is_asked_again_is_of_the_same() {
        for (refused, said_again) in [(MAIL, "ab"), (RCPT, "ab")] {
            let mut turns = Turns::default();
            turns.asked(&whose("a"));
            turns.asked(&whose("b"));
            if refused == RCPT {
                turns.answered(MAIL);
            }
            assert_eq!(of(turns.refused(refused)), "a");
            assert_eq!(turns.going_along(refused).map(of).collect::<String>(), said_again);
            let owed = turns.set_aside();
            turns.moved(owed, Some(refused));
            assert_eq!(turns.again().map(of).collect::<String>(), said_again);
            for _ in said_again.chars() {
                turns.asked(&whose("c"));
            }
            turns.asked(&whose("c"));
            let heard = [MAIL, RCPT, MAIL, MAIL].map(|topic| of(turns.answered(topic)).to_owned());
            assert_eq!(heard, ["a", "a", "b", "c"]);
        }
    }

    #[test]
    fn a_leg_that_goes_on_owes_what_it_owed() {
        let mut turns = Turns::default();
        turns.asked(&whose("a"));
        turns.asked(&whose("b"));
        let owed = turns.set_aside();
        turns.stayed(owed);
        assert_eq!(of(turns.answered(MAIL)), "a");
        assert_eq!(of(turns.answered(MAIL)), "b");
    }
}
