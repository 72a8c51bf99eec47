//! What the mediator asks: may this MAIL leave from here, this recipient over this TLS; and after a refusal, is there another address?

use rustls_pki_types::UnixTime;
use warren_smtp::command::{Command, Verb};
use warren_smtp::mediator::{Judgement, Leg, Policy, TlsPolicy, Topic};
use warren_smtp::{ForwardPath, Host, Mailbox, Reply, ReversePath};

use super::learning::{stage_of, verb_of};
use super::{Mx, Sender, Whose};
use crate::egress::{AtMail, MailClass, What};
use crate::record::verdict;
use crate::tls::{Demand, Known, Requirement, StsFound, TlsaFound, canonical};

/// The parameter of MAIL that asks for it (RFC 8689).
const REQUIRETLS: &[u8] = b"REQUIRETLS";

impl Policy for Mx {
    fn mail(&mut self, from: &ReversePath, line: &[u8]) -> Judgement {
        self.sender = Sender::of(from, line);
        match self.proxy.departures().mail(self.place.as_ref(), &self.ask()) {
            // Who the MX has to be depends on the recipient's domain, and nobody told which that is.
            AtMail::Stay if self.names.is_empty() && !self.settings.tls_rules.rules.is_empty() => {
                self.sender.held = true;
                Judgement::Hold
            }
            AtMail::Stay => Judgement::Pass,
            AtMail::Move => {
                self.leaving = true;
                Judgement::Move
            }
            // Of one message, whatever it says: the session goes on.
            AtMail::Refuse(none) => Judgement::Refuse(Reply { code: 451, ..self.put_off(&none) }),
        }
    }

    fn rcpt(&mut self, to: &ForwardPath, _: &[u8]) -> Judgement {
        let requirement = match to.mailbox().map(Mailbox::host) {
            Some(Host::Domain(domain)) => self.requirement(&canonical(domain.as_str())),
            // Nobody publishes a policy for these, or says which MX they have: what holds by default is all that there is to ask for.
            Some(literal @ Host::Literal(_)) => self.bare_requirement(&literal.to_string()),
            None => self.bare_requirement(""),
        };
        let Some(leg) = &mut self.leg else { return Judgement::Pass };
        let Err(unmet) = leg.tls.rcpt(&requirement, UnixTime::now()) else {
            self.sender.held = false;
            return Judgement::Pass;
        };
        // In the clear because nobody asked for more: somebody does now, and nothing was said yet.
        if requirement.demand == Demand::Encrypted
            && self.handshake() == TlsPolicy::Off
            && std::mem::take(&mut self.sender.held)
        {
            self.stricter = Some(Box::new(requirement));
            return Judgement::Move;
        }
        let reply = unmet.reply();
        tracing::info!(session = %self.record.id(), domain = requirement.domain, reason = %unmet.reason, "TLS is not what is asked for");
        self.record.not_asked(to, &reply, self.sender.held, std::time::Instant::now());
        Judgement::Refuse(reply)
    }

    fn fail_over(&mut self, topic: Topic, reply: &Reply) -> bool {
        let verdict = verdict(verb_of(topic), reply, &reply.coded_lines());
        if !verdict.rejects_egress() {
            return false;
        }
        // First, so that the address rests before another is asked for.
        self.learned = true;
        if let (Some(leg), Some(stage)) = (&self.leg, stage_of(topic)) {
            let text = reply.coded_lines();
            let whose = self.turns.refused(topic);
            self.learn(leg.egress, whose, What::Reply { stage, verdict: &verdict, code: reply.code, text: &text });
        }
        let Some(mut place) = self.place.take() else { return false };
        // Of a leg that is opened, nothing was said of a message yet: it is for the one that the MSA is at.
        let moved = match topic {
            Topic::Command(Verb::Mail | Verb::Rcpt) => place.fail_over(&self.asks_for(self.turns.going_along(topic))),
            _ => place.fail_over(&[self.ask()]),
        };
        self.place = Some(place);
        moved
    }

    fn keep(&mut self) -> bool {
        self.may_keep()
    }

    fn leg(&mut self) -> Option<Leg> {
        let leg = self.leg.as_ref()?;
        Some(Leg { ehlo_name: self.settings.name_of(leg.egress).to_owned(), tls: self.handshake() })
    }
}

impl Mx {
    /// TLS was required and is not to be had, so no recipient will come to be judged. What is reported then is about the domain that the MX was looked up
    /// for last: it is what the session was meant for, most likely.
    pub(super) fn judge_unasked(&mut self) {
        let requirement = self.requirements().into_iter().next();
        if let (Some(requirement), Some(leg)) = (requirement, &mut self.leg) {
            // Nobody is there to hear a refusal.
            let _ = leg.tls.rcpt(&requirement, UnixTime::now());
        }
    }

    /// What is asked of TLS for whom nobody told an MX of.
    fn bare_requirement(&self, domain: &str) -> Requirement {
        Requirement::of(&unknown(domain, &StsFound::None), &self.settings.tls_rules, self.sender.require_tls)
    }

    /// What a recipient domain asks of TLS.
    fn requirement(&self, domain: &str) -> Requirement {
        let (rules, require_tls) = (&self.settings.tls_rules, self.sender.require_tls);
        let Some(cell) = self.arrival.cell else { return self.bare_requirement(domain) };
        let address = self.mx().ip();
        match self.proxy.judge_by(cell, address, domain, self.mx_name()) {
            Some(name) => Requirement::of(&name.known(domain), rules, require_tls),
            None => Requirement::of(&unknown(domain, &self.proxy.sts_of(cell, domain)), rules, require_tls),
        }
    }
}

/// A domain of whose MX nobody told.
fn unknown<'a>(domain: &'a str, sts: &'a StsFound) -> Known<'a> {
    Known { domain, mx: None, secure: false, tlsa: &TlsaFound::None, sts }
}

impl Sender {
    fn of(from: &ReversePath, line: &[u8]) -> Self {
        // Most do not even have the word.
        let require_tls = line.windows(REQUIRETLS.len()).any(|word| word.eq_ignore_ascii_case(REQUIRETLS))
            && matches!(Command::parse(line), Ok(Command::Mail { params, .. }) if params.require_tls);
        // The receiver rewrites what it forwards (SRS), so that its bounces come back: it cannot be a tenant's own address.
        let rewritten = |local: &str| {
            let tag = local.get(..5).unwrap_or_default().to_ascii_uppercase();
            matches!(tag.as_bytes(), [b'S', b'R', b'S', b'0' | b'1', b'=' | b'+' | b'-'])
        };
        let forwarded = from.mailbox().is_some_and(|mailbox| rewritten(mailbox.local()));
        let class = if forwarded { MailClass::Forwarded } else { MailClass::Submitted };
        Self { whose: Whose { account: Some(from.to_text().into()), class }, require_tls, held: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_mail_is_told_by_its_rewritten_path() {
        let of = |path: &str| {
            let line = format!("MAIL FROM:<{path}>");
            Sender::of(&path.parse().unwrap(), line.as_bytes())
        };
        for path in ["SRS0=MAC=TT=x.example=a@us.example", "srs1=m=y.org==m=t=x=a@us.example", "SRS0+a@us.example"] {
            assert_eq!(of(path).whose.class, MailClass::Forwarded, "{path}");
        }
        for path in
            ["alice@acme.example", "srs0@acme.example", "SRS2=a@acme.example", "", "\u{e9}\u{e9}\u{e9}@acme.example"]
        {
            assert_eq!(of(path).whose.class, MailClass::Submitted, "{path}");
        }
        assert_eq!(of("alice@acme.example").whose.account.as_deref(), Some("alice@acme.example"));
        assert!(Sender::of(&ReversePath::Null, b"MAIL FROM:<> REQUIRETLS").require_tls);
    }
}
