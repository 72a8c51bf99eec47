//! Records as bytes: what a session writes down, and what the spool file and the database's thread get.
//!
//! One byte says which record, then its fields in order. Numbers are LEB128, texts their length and UTF-8, what may be absent a 0 or a 1
//! in front. Whose record it is stands on the [frame](crate::frame). Peers choose names, certificates and extensions,
//! tenants choose addresses: every field is cut to size as it is written.

mod facts;
mod reading;

use std::{net::IpAddr, time::SystemTime};

use crate::{
    About, Class, Dir, Event, Exchange, Gap, Mail, Message, Outcome, Recipient, Record, SessionEnd, SessionStart,
    TEXT_LIMIT, Verdict,
    detect::EventKind,
    keeper::micros,
    record::{Dialled, Door, LegNews},
    text::cut,
};

pub(crate) use reading::read;

/// Longest name, path or line kept, in bytes. The longest that SMTP allows is 254, X.509 has no limit.
pub(crate) const FIELD_LIMIT: usize = 1_000;
/// Most extensions or names kept of one peer.
pub(crate) const LIST_LIMIT: usize = 100;
/// Longest decision or evidence kept, as JSON in bytes.
const JSON_LIMIT: usize = 16_000;

/// The first byte of each record. New ones get new numbers: a spool file may be an older program's.
mod kind {
    pub(super) const START: u8 = 1;
    pub(super) const DIALLED: u8 = 2;
    pub(super) const CONNECTED: u8 = 3;
    pub(super) const SECURED: u8 = 4;
    pub(super) const OFFERED: u8 = 5;
    pub(super) const FAILED: u8 = 6;
    pub(super) const JUDGED: u8 = 7;
    pub(super) const EXCHANGE: u8 = 8;
    pub(super) const MESSAGE: u8 = 9;
    pub(super) const RECIPIENT: u8 = 10;
    pub(super) const EVENT: u8 = 11;
    pub(super) const END: u8 = 12;
    pub(super) const GAP: u8 = 13;
    pub(super) const MAIL: u8 = 14;
    pub(super) const TAKEN_OVER: u8 = 15;
}

/// Appends `record` to `sheet`.
pub(crate) fn write(sheet: &mut Vec<u8>, record: &Record<'_>) {
    let mut pen = Pen(sheet);
    match record {
        Record::Start(start) => pen.start(start),
        Record::Leg(n, news) => pen.leg(*n, news),
        Record::Exchange(exchange) => pen.exchange(exchange),
        Record::Message(message) => pen.message(message),
        Record::Recipient(recipient) => pen.recipient(recipient),
        Record::Mail(mail) => pen.mail(mail),
        Record::Event(event) => pen.event(event),
        Record::End(end) => pen.end(*end),
        Record::Gap(gap) => pen.gap(gap),
    }
}

/// Writes fields.
struct Pen<'a>(&'a mut Vec<u8>);

impl Pen<'_> {
    fn start(&mut self, start: &SessionStart) {
        let SessionStart { id: _, tenant, cell, door, mx, mx_name, mx_operator, at } = start;
        self.byte(kind::START);
        self.field(tenant.as_str());
        self.option(cell.map(|cell| cell.0), Self::number);
        self.place(&Door::ALL, *door);
        self.address(mx.ip());
        self.number(mx.port().into());
        self.option(mx_name.as_deref(), Self::field);
        self.option(mx_operator.as_deref(), Self::field);
        self.time(*at);
    }

    fn leg(&mut self, n: u16, news: &LegNews<'_>) {
        self.byte(match news {
            LegNews::Dialled(_) => kind::DIALLED,
            LegNews::Connected(_) => kind::CONNECTED,
            LegNews::TakenOver(_) => kind::TAKEN_OVER,
            LegNews::Secured(_) => kind::SECURED,
            LegNews::Offered(_) => kind::OFFERED,
            LegNews::Failed(_) => kind::FAILED,
            LegNews::Judged(_) => kind::JUDGED,
        });
        self.number(n.into());
        match news {
            LegNews::Dialled(Dialled { at_us, egress, ehlo_name, decision }) => {
                self.number(*at_us);
                self.address(*egress);
                self.field(ehlo_name);
                self.json(decision);
            }
            LegNews::Connected(at_us) => self.number(*at_us),
            LegNews::TakenOver(before) => self.field(&before.to_string()),
            LegNews::Secured(facts) => self.tls(facts),
            LegNews::Offered(lines) => self.list(lines, |pen, line| pen.field(line)),
            LegNews::Failed(error) => self.field(error),
            LegNews::Judged(policies) => self.list(policies, Self::policy),
        }
    }

    fn exchange(&mut self, exchange: &Exchange<'_>) {
        let Exchange { seq, leg, at_us, dir, verb, code, text, took_us } = *exchange;
        self.byte(kind::EXCHANGE);
        self.number(seq.into());
        self.number(leg.into());
        self.number(at_us);
        self.place(&Dir::ALL, dir);
        self.field(verb);
        self.option(code, |pen, code| pen.number(code.into()));
        self.text(cut(text, TEXT_LIMIT));
        self.option(took_us, Self::number);
    }

    fn message(&mut self, message: &Message) {
        let Message { n, leg, reverse_path, size, message_id, verdict, code, .. } = message;
        let Message { mail_us, data_us, content_us, sent_us, reply_us, .. } = message;
        self.byte(kind::MESSAGE);
        self.number((*n).into());
        self.number((*leg).into());
        self.field(reverse_path);
        self.number(*size);
        self.option(message_id.as_deref(), Self::field);
        for time in [mail_us, data_us, content_us, sent_us, reply_us] {
            self.option(*time, Self::number);
        }
        self.verdict(verdict);
        self.option(*code, |pen, code| pen.number(code.into()));
    }

    fn recipient(&mut self, recipient: &Recipient<'_>) {
        let Recipient { message, n, forward_path, verdict, code, enhanced, text, reply_us } = recipient;
        self.byte(kind::RECIPIENT);
        self.number((*message).into());
        self.number((*n).into());
        self.field(forward_path);
        self.verdict(verdict);
        self.option(*code, |pen, code| pen.number(code.into()));
        self.option(*enhanced, Self::field);
        self.text(cut(text, TEXT_LIMIT));
        self.option(*reply_us, Self::number);
    }

    fn mail(&mut self, mail: &Mail<'_>) {
        let Mail { n, leg, code, size, times, reverse_path, message_id, enhanced, text, recipients } = mail;
        self.byte(kind::MAIL);
        self.number((*n).into());
        self.number((*leg).into());
        self.number((*code).into());
        self.number(*size);
        for time in times {
            self.option(*time, Self::number);
        }
        self.field(reverse_path);
        self.option(*message_id, Self::field);
        self.option(*enhanced, Self::field);
        self.text(cut(text, TEXT_LIMIT));
        self.list(recipients, |pen, (n, path)| {
            pen.number((*n).into());
            pen.field(path);
        });
    }

    fn event(&mut self, event: &Event<'_>) {
        let Event { n, leg, at_us, kind, operator, egress, verb, code, list, evidence } = *event;
        self.byte(kind::EVENT);
        self.number(n.into());
        self.number(leg.into());
        self.number(at_us);
        self.place(&EventKind::ALL, kind);
        self.field(operator);
        self.address(egress);
        self.field(verb);
        self.option(code, |pen, code| pen.number(code.into()));
        self.option(list, Self::field);
        self.json(evidence);
    }

    fn end(&mut self, SessionEnd { at_us, outcome, bytes }: SessionEnd) {
        self.byte(kind::END);
        self.number(at_us);
        self.place(&Outcome::ALL, outcome);
        self.number(bytes);
    }

    fn gap(&mut self, Gap { from_us, until_us, records, reason }: &Gap) {
        self.byte(kind::GAP);
        self.signed(*from_us);
        self.signed(*until_us);
        self.number(*records);
        self.field(reason);
    }

    fn verdict(&mut self, Verdict { class, list, about, rule }: &Verdict) {
        self.place(&Class::ALL, *class);
        self.option(list.as_deref(), Self::field);
        self.place(&About::ALL, *about);
        self.field(rule);
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Seven bits a byte, the lowest first; the eighth says that more come.
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// Small ones stay short, whatever their sign.
    fn signed(&mut self, value: i64) {
        self.number((value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
    }

    /// The place of a value among all of its kind. Those lists grow at their ends.
    fn place<T: PartialEq>(&mut self, all: &[T], value: T) {
        let place = all.iter().position(|one| *one == value);
        self.byte(
            place.and_then(|place| u8::try_from(place).ok()).expect("it is among all of its kind, which are few"),
        );
    }

    fn flag(&mut self, flag: bool) {
        self.byte(flag.into());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn field(&mut self, text: &str) {
        self.text(cut(text, FIELD_LIMIT));
    }

    fn json(&mut self, json: &str) {
        if json.len() <= JSON_LIMIT {
            self.text(json);
        } else {
            self.text(&format!("{{\"left_out_bytes\":{}}}", json.len()));
        }
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, all: &[T], mut write: impl FnMut(&mut Self, &T)) {
        let kept = &all[..all.len().min(LIST_LIMIT)];
        self.number(kept.len() as u64);
        kept.iter().for_each(|one| write(self, one));
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.byte(4);
                self.0.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.byte(6);
                self.0.extend_from_slice(&address.octets());
            }
        }
    }

    /// To the microsecond.
    fn time(&mut self, time: SystemTime) {
        self.signed(micros(time));
    }
}

#[cfg(test)]
mod tests;
