//! What a session tells: its record, the egress policy, and the TLS report.

use std::time::Instant;

use warren_session::Class;
use warren_smtp::Reply;
use warren_smtp::command::Verb;
use warren_smtp::mediator::{Ending, Event, Flow, Observer, Topic};

use super::{Aside, Connection, Mx, Whose};
use crate::departures::Place;
use crate::egress::{EgressAddr, Lesson, Operator, Stage, What};
use crate::record::verdict;
use crate::tls::leg::{Judged, Via};

impl Observer for Mx {
    fn event(&mut self, at: Instant, event: Event<'_>) {
        match &event {
            Event::Command {
                flow: Flow::CommandPassed | Flow::CommandSent, topic: Topic::Command(Verb::Mail), ..
            } => {
                self.turns.asked(&self.sender.whose);
            }
            Event::Reply { flow: Flow::ReplyPassed | Flow::ReplyEnded, topic, reply } => self.replied(*topic, reply),
            Event::Offered { name, .. } => {
                if let Some(leg) = &mut self.leg {
                    leg.helo = Some((*name).to_owned());
                }
            }
            Event::Moving { topic, reply } => self.moving(reply.map(|_| *topic)),
            Event::Moved { .. } => self.moved(),
            Event::Stayed => self.stayed(),
            Event::Ended(Ending::TlsFailed) => self.judge_unasked(),
            _ => {}
        }
        self.record.event(at, event);
        self.learn_slow();
    }
}

impl Mx {
    /// The egress policy learns from every reply that says something about an address or a sender: each refusal, each recipient and each mail that was taken.
    /// It is one for all sessions, so it is left alone with the rest.
    fn replied(&mut self, topic: Topic, reply: &Reply) {
        let whose = self.turns.answered(topic).clone();
        if reply.code >= 400 && std::mem::take(&mut self.learned) {
            return;
        }
        let (Some(leg), Some(stage)) = (&self.leg, stage_of(topic)) else { return };
        // What a refusal said is evidence.
        let text = if reply.code >= 400 { reply.coded_lines() } else { String::new() };
        let verdict = verdict(verb_of(topic), reply, &text);
        if verdict.class == Class::Accepted && stage != Stage::Recipient {
            return;
        }
        self.learn(leg.egress, &whose, What::Reply { stage, verdict: &verdict, code: reply.code, text: &text });
    }

    pub(super) fn learn(&self, egress: EgressAddr, whose: &Whose, what: What<'_>) {
        self.proxy.departures().learn(&Lesson {
            ticket: self.place.as_ref().map(Place::ticket),
            tenant: &self.arrival.tenant,
            account: whose.account.as_deref(),
            class: whose.class,
            egress,
            operator: &self.operator,
            what,
        });
    }

    /// What the detector found about our addresses.
    pub(super) fn learn_slow(&mut self) {
        for slow in self.record.slow() {
            let lesson = Lesson {
                ticket: None,
                tenant: &self.arrival.tenant,
                account: None,
                class: self.sender.whose.class,
                egress: EgressAddr(slow.egress),
                operator: &Operator::named(&slow.operator),
                what: What::Slow { evidence: &slow.evidence },
            };
            self.proxy.departures().learn(&lesson);
        }
    }

    fn moving(&mut self, refused: Option<Topic>) {
        // The refusal that comes next is another leg's.
        self.learned = false;
        let connection = self.leg.take();
        match &self.aside {
            // The leg that is refused is a new one already.
            Some(_) => self.part(connection),
            None => {
                // Now, while the record speaks of it.
                self.conclude(connection.as_ref());
                let owed = self.turns.set_aside();
                self.aside = Some(Box::new(Aside { connection, owed, refused }));
            }
        }
    }

    fn moved(&mut self) {
        if let Some(aside) = self.aside.take() {
            let Aside { connection, owed, refused } = *aside;
            self.turns.moved(owed, refused);
            self.report(connection.as_ref());
        }
        if let Some(mut place) = self.place.take() {
            let asked = self.ask();
            let again = self.asks_for(self.turns.again());
            // Or the message that the session moved for.
            place.moved(if again.is_empty() { std::slice::from_ref(&asked) } else { &again });
            self.place = Some(place);
        }
    }

    fn stayed(&mut self) {
        let leg = self.leg.take();
        self.part(leg);
        match self.aside.take().map(|aside| *aside) {
            // Its refusal passes now, and was learned from before.
            Some(Aside { connection, owed, refused: Some(_) }) => {
                (self.leg, self.learned) = (connection, true);
                self.turns.stayed(owed);
                if let Some(place) = &mut self.place {
                    place.stayed();
                }
            }
            aside => {
                // There is no connection now; the next MAIL asks for a place again.
                self.report(aside.and_then(|aside| aside.connection).as_ref());
                self.place = None;
            }
        }
    }

    /// A connection is over: what it was worth to each recipient domain goes into the record and the TLS report.
    pub(super) fn part(&mut self, connection: Option<Connection>) {
        self.conclude(connection.as_ref());
        self.report(connection.as_ref());
    }

    pub(super) fn conclude(&mut self, connection: Option<&Connection>) {
        if let Some(connection) = connection {
            let policies: Vec<_> = connection.tls.judged().map(Judged::facts).collect();
            self.record.judged(&policies);
        }
    }

    pub(super) fn report(&self, connection: Option<&Connection>) {
        let Some(Connection { egress, tls, helo, .. }) = connection else { return };
        let (mx, helo) = (self.mx_name().map(str::to_owned), helo.clone());
        let via = Via { egress: egress.0, mx, mx_address: self.mx().ip(), helo };
        // Nobody is told about an address literal, or about no domain at all.
        for finding in tls.findings(&via).filter(|finding| !matches!(finding.domain.as_bytes(), [] | [b'[', ..])) {
            self.proxy.detector().counts().tls_policy(finding.policy.policy_type, finding.failure.is_none());
            self.proxy.tls_reports().note(finding);
        }
    }
}

pub(super) fn stage_of(topic: Topic) -> Option<Stage> {
    Some(match topic {
        Topic::Greeting => Stage::Greeting,
        Topic::Command(Verb::Ehlo | Verb::Helo | Verb::StartTls) => Stage::Hello,
        Topic::Command(Verb::Mail) => Stage::Mail,
        Topic::Command(Verb::Rcpt) => Stage::Recipient,
        Topic::Command(Verb::Data | Verb::Bdat) | Topic::EndOfData | Topic::LastChunk => Stage::Content,
        Topic::Command(_) => return None,
    })
}

/// The verb as classification knows it.
pub(super) fn verb_of(topic: Topic) -> &'static str {
    match topic {
        Topic::Greeting => "",
        Topic::Command(verb) => verb.as_str(),
        Topic::EndOfData | Topic::LastChunk => ".",
    }
}
