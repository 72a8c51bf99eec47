//! Records as rows: what belongs to one row and came in one batch is put together here, so that it is written once.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::json::{self, Json};
use crate::{
    Bundle, Event, Exchange, Gap, Mail, Message, PolicyFacts, Recipient, Record, SessionEnd, SessionId, SessionStart,
    TlsFacts,
    log::enhanced,
    record::{Dialled, LegNews},
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
    /// The session whose connection it was.
    pub(super) taken_from: Option<SessionId>,
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
        let (mut said, mut mails) = (Said::default(), Mails::default());
        for frame in bundle.frames() {
            let (id, key) = (frame.session(), Key::from(frame.session().to_string()));
            for record in frame.records() {
                let own = || Key::clone(&key);
                match record {
                    Record::Start(start) => {
                        begun.insert(id, rows.sessions.len());
                        rows.sessions.push(SessionRow { key: own(), start, end: None });
                    }
                    Record::Leg(n, news) => rows.leg(&mut legs, id, own(), n, news),
                    Record::Exchange(exchange) => {
                        if said.is_over(&exchange) {
                            rows.said.extend(said.row(&key));
                        }
                        said.add(&exchange);
                    }
                    Record::Message(message) => rows.messages.push((own(), message)),
                    Record::Recipient(recipient) => rows.recipients.push((own(), recipient)),
                    Record::Mail(mail) => mails.add(&mail),
                    Record::Event(event) => rows.events.push((own(), event)),
                    Record::End(end) => match begun.get(&id) {
                        Some(place) => rows.sessions[*place].end = Some(end),
                        None => rows.ends.push((own(), end)),
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
                    taken_from: None,
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
            LegNews::TakenOver(before) => leg.taken_from = Some(before),
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

/// A row of what was said, as it grows. The next one grows in the same place.
#[derive(Default)]
struct Said {
    first: u32,
    count: u32,
    json: String,
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
        let to = &mut Json::next(&mut self.json);
        to.number(leg.into()).number(at_us).text(dir.notation()).text(verb).text(text);
        // What would be NULL at the end is left out.
        if let Some(code) = code {
            to.number(code.into()).option(enhanced(text), Json::text);
            if let Some(took_us) = took_us {
                to.number(took_us);
            }
        }
        to.end();
        self.count += 1;
    }

    fn row(&mut self, key: &Key) -> Option<SaidRow> {
        if std::mem::take(&mut self.count) == 0 {
            return None;
        }
        Some(SaidRow { key: Key::clone(key), seq: self.first, lines: json::taken(&mut self.json) })
    }
}

/// A row of mails, as it grows; the next one in the same place.
#[derive(Default)]
struct Mails {
    first: Option<u32>,
    json: String,
}

impl Mails {
    fn add(&mut self, mail: &Mail<'_>) {
        self.first.get_or_insert(mail.n);
        let Mail { n, leg, code, size, times, reverse_path, message_id, enhanced, text, recipients } = mail;
        let to = &mut Json::next(&mut self.json);
        to.number((*n).into()).number((*leg).into()).number((*code).into()).number(*size);
        for time in times {
            to.option(*time, Json::number);
        }
        to.text(reverse_path).option(*message_id, Json::text).option(*enhanced, Json::text).text(text);
        to.object(recipients.iter().copied()).end();
    }

    fn row(&mut self, key: &Key) -> Option<MailsRow> {
        let n = self.first.take()?;
        Some(MailsRow { key: Key::clone(key), n, facts: json::taken(&mut self.json) })
    }
}
