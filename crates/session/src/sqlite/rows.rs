//! Records as rows: what belongs to one row and came in one batch is put together here, so that it is written once.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    Bundle, Event, Exchange, Gap, Mail, Message, PolicyFacts, Recipient, Record, SessionEnd, SessionId, SessionStart,
    TlsFacts,
    log::enhanced,
    record::{Dialled, LegNews},
    text::shown,
};

/// An id as it stands in the tables, shared by all rows that name it.
pub(super) type Key = Arc<str>;

/// The rows of one batch.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub(super) sessions: Vec<SessionRow<'a>>,
    /// Ends of sessions that began in an earlier batch.
    pub(super) ends: Vec<(Key, SessionEnd)>,
    pub(super) legs: Vec<LegRow<'a>>,
    pub(super) said: Vec<SaidRow>,
    pub(super) mails: Vec<MailsRow>,
    pub(super) messages: Vec<(Key, Cow<'a, Message>)>,
    pub(super) recipients: Vec<(Key, Recipient<'a>)>,
    pub(super) events: Vec<(Key, Event<'a>)>,
    pub(super) gaps: Vec<Gap>,
}

pub(super) struct SessionRow<'a> {
    pub(super) key: Key,
    pub(super) start: Cow<'a, SessionStart>,
    pub(super) end: Option<SessionEnd>,
}

/// What became known of a dial in this batch.
pub(super) struct LegRow<'a> {
    pub(super) key: Key,
    pub(super) n: u16,
    /// None: it began in an earlier batch.
    pub(super) dialled: Option<Dialled<'a>>,
    pub(super) connected_us: Option<u64>,
    pub(super) tls: Option<TlsFacts>,
    /// Of TLS that was established in an earlier batch.
    pub(super) policies: Option<Vec<PolicyFacts>>,
    pub(super) error: Option<&'a str>,
    pub(super) extensions: Option<Cow<'a, [String]>>,
}

/// What was said, of one frame: frames are always the same, batches are not, so that a row that is written twice is the same row.
pub(super) struct SaidRow {
    pub(super) key: Key,
    /// The first.
    pub(super) seq: u32,
    /// JSON: an array for each.
    pub(super) lines: String,
}

/// Mails that were delivered, of one frame.
pub(super) struct MailsRow {
    pub(super) key: Key,
    /// The first.
    pub(super) n: u32,
    /// JSON: an array for each.
    pub(super) facts: String,
}

impl<'a> Rows<'a> {
    pub(super) fn of(bundle: &'a Bundle) -> Self {
        let mut rows = Self::default();
        let (mut begun, mut legs) = (HashMap::new(), HashMap::new());
        for frame in bundle.frames() {
            let (id, key) = (frame.session(), Key::from(frame.session().to_string()));
            let (mut said, mut mails) = (Said::default(), Mails::default());
            for record in frame.records() {
                let key = Key::clone(&key);
                match record {
                    Record::Start(start) => {
                        begun.insert(id, rows.sessions.len());
                        rows.sessions.push(SessionRow { key, start, end: None });
                    }
                    Record::Leg(n, news) => rows.leg(&mut legs, id, key, n, news),
                    Record::Exchange(exchange) => {
                        if said.is_over(&exchange) {
                            rows.said.extend(std::mem::take(&mut said).row(&key));
                        }
                        said.add(&exchange);
                    }
                    Record::Message(message) => rows.messages.push((key, message)),
                    Record::Recipient(recipient) => rows.recipients.push((key, recipient)),
                    Record::Mail(mail) => mails.add(&mail),
                    Record::Event(event) => rows.events.push((key, event)),
                    Record::End(end) => match begun.get(&id) {
                        Some(place) => rows.sessions[*place].end = Some(end),
                        None => rows.ends.push((key, end)),
                    },
                    Record::Gap(gap) => rows.gaps.push(gap),
                }
            }
            rows.said.extend(said.row(&key));
            rows.mails.extend(mails.row(&key));
        }
        rows
    }

    fn leg(
        &mut self,
        places: &mut HashMap<(SessionId, u16), usize>,
        id: SessionId,
        key: Key,
        n: u16,
        news: LegNews<'a>,
    ) {
        let place = match places.entry((id, n)) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                self.legs.push(LegRow {
                    key,
                    n,
                    dialled: None,
                    connected_us: None,
                    tls: None,
                    policies: None,
                    error: None,
                    extensions: None,
                });
                *place.insert(self.legs.len() - 1)
            }
        };
        let leg = &mut self.legs[place];
        match news {
            LegNews::Dialled(dialled) => leg.dialled = Some(dialled),
            LegNews::Connected(at_us) => leg.connected_us = Some(at_us),
            LegNews::Secured(facts) => leg.tls = Some(facts.into_owned()),
            LegNews::Offered(lines) => leg.extensions = Some(lines),
            LegNews::Failed(error) => leg.error = Some(error),
            LegNews::Judged(policies) => match &mut leg.tls {
                Some(tls) => tls.policies = policies.into_owned(),
                None => leg.policies = Some(policies.into_owned()),
            },
        }
    }
}

/// A row of what was said, as it grows.
#[derive(Default)]
struct Said {
    first: u32,
    count: u32,
    json: Vec<u8>,
}

impl Said {
    /// Whether this is not the one that comes next.
    fn is_over(&self, exchange: &Exchange<'_>) -> bool {
        self.count > 0 && self.first.checked_add(self.count) != Some(exchange.seq)
    }

    fn add(&mut self, exchange: &Exchange<'_>) {
        let Exchange { seq, leg, at_us, dir, verb, code, text, took_us } = *exchange;
        if self.count == 0 {
            self.first = seq;
        }
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        let to = &mut serde_json::Serializer::new(&mut self.json);
        // What would be NULL at the end is left out.
        let written = match (code, took_us) {
            (None, None) => (leg, at_us, dir.notation(), verb, text).serialize(to),
            (Some(_), None) => (leg, at_us, dir.notation(), verb, text, code, enhanced(text)).serialize(to),
            _ => (leg, at_us, dir.notation(), verb, text, code, enhanced(text), took_us).serialize(to),
        };
        written.expect("texts and numbers are JSON");
        self.count += 1;
    }

    fn row(mut self, key: &Key) -> Option<SaidRow> {
        self.json.push(b']');
        let lines = String::from_utf8(self.json).expect("JSON is UTF-8");
        (self.count > 0).then(|| SaidRow { key: Key::clone(key), seq: self.first, lines })
    }
}

/// A row of mails, as it grows.
#[derive(Default)]
struct Mails {
    first: Option<u32>,
    json: Vec<u8>,
}

impl Mails {
    fn add(&mut self, mail: &Mail<'_>) {
        self.json.push(if self.first.is_none() { b'[' } else { b',' });
        self.first.get_or_insert(mail.n);
        let Mail { n, leg, code, size, times, reverse_path, message_id, enhanced, text, recipients } = mail;
        let [mail_us, data_us, content_us, sent_us, reply_us] = times;
        let (path, id, text) = (shown(reverse_path), message_id.map(shown), shown(text));
        let to = Taken(recipients);
        let facts = (n, leg, code, size, mail_us, data_us, content_us, sent_us, reply_us, path, id, enhanced, text, to);
        facts.serialize(&mut serde_json::Serializer::new(&mut self.json)).expect("texts and numbers are JSON");
    }

    fn row(mut self, key: &Key) -> Option<MailsRow> {
        self.json.push(b']');
        let facts = String::from_utf8(self.json).expect("JSON is UTF-8");
        self.first.map(|n| MailsRow { key: Key::clone(key), n, facts })
    }
}

/// Recipients by their numbers.
struct Taken<'a>(&'a [(u32, &'a str)]);

impl Serialize for Taken<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(n, path)| (n, shown(path))))
    }
}
