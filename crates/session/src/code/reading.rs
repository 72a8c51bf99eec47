//! Bytes as records.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use warren_launcher_api::{CellId, TenantName};

use super::{LIST_LIMIT, kind};
use crate::{
    About, Class, Dir, Door, Event, Exchange, Gap, Mail, Message, Outcome, Recipient, Record, SessionEnd, SessionId,
    SessionStart, Verdict,
    detect::EventKind,
    record::{Dialled, LegNews},
};

/// Takes the first record off `bytes`, which belong to `session`. None: they are no record.
pub(crate) fn read<'a>(bytes: &mut &'a [u8], session: SessionId) -> Option<Record<'a>> {
    let mut eye = Eye(bytes);
    let record = eye.record(session)?;
    *bytes = eye.0;
    Some(record)
}

/// Reads fields, and believes nothing: a length is looked at before it is used.
pub(super) struct Eye<'a>(&'a [u8]);

impl<'a> Eye<'a> {
    fn record(&mut self, session: SessionId) -> Option<Record<'a>> {
        Some(match self.byte()? {
            kind::START => Record::Start(Cow::Owned(self.start(session)?)),
            news @ (kind::DIALLED..=kind::JUDGED | kind::TAKEN_OVER) => Record::Leg(self.small()?, self.leg(news)?),
            kind::EXCHANGE => Record::Exchange(self.exchange()?),
            kind::MESSAGE => Record::Message(Cow::Owned(self.message()?)),
            kind::RECIPIENT => Record::Recipient(self.recipient()?),
            kind::MAIL => Record::Mail(self.mail()?),
            kind::EVENT => Record::Event(self.event()?),
            kind::END => Record::End(SessionEnd {
                at_us: self.number()?,
                outcome: self.listed(&Outcome::ALL)?,
                bytes: self.number()?,
            }),
            kind::GAP => Record::Gap(Gap {
                from_us: self.signed()?,
                until_us: self.signed()?,
                records: self.number()?,
                reason: self.owned()?,
            }),
            _ => return None,
        })
    }

    fn start(&mut self, id: SessionId) -> Option<SessionStart> {
        Some(SessionStart {
            id,
            tenant: TenantName::new(self.text()?).ok()?,
            cell: self.option(Self::number)?.map(CellId),
            door: self.listed(&Door::ALL)?,
            mx: SocketAddr::new(self.address()?, self.small()?),
            mx_name: self.option(Self::owned)?,
            mx_operator: self.option(Self::owned)?,
            at: self.time()?,
        })
    }

    fn leg(&mut self, news: u8) -> Option<LegNews<'a>> {
        Some(match news {
            kind::DIALLED => LegNews::Dialled(Dialled {
                at_us: self.number()?,
                egress: self.address()?,
                ehlo_name: self.text()?,
                decision: self.text()?,
            }),
            kind::CONNECTED => LegNews::Connected(self.number()?),
            kind::TAKEN_OVER => LegNews::TakenOver(self.text()?.parse().ok()?),
            kind::SECURED => LegNews::Secured(Cow::Owned(self.tls()?)),
            kind::OFFERED => LegNews::Offered(Cow::Owned(self.list(Self::owned)?)),
            kind::FAILED => LegNews::Failed(self.text()?),
            kind::JUDGED => LegNews::Judged(Cow::Owned(self.list(Self::policy)?)),
            _ => return None,
        })
    }

    fn exchange(&mut self) -> Option<Exchange<'a>> {
        Some(Exchange {
            seq: self.small()?,
            leg: self.small()?,
            at_us: self.number()?,
            dir: self.listed(&Dir::ALL)?,
            verb: self.text()?,
            code: self.option(Self::small)?,
            text: self.text()?,
            took_us: self.option(Self::number)?,
        })
    }

    fn message(&mut self) -> Option<Message> {
        Some(Message {
            n: self.small()?,
            leg: self.small()?,
            reverse_path: self.owned()?,
            size: self.number()?,
            message_id: self.option(Self::owned)?,
            mail_us: self.option(Self::number)?,
            data_us: self.option(Self::number)?,
            content_us: self.option(Self::number)?,
            sent_us: self.option(Self::number)?,
            reply_us: self.option(Self::number)?,
            verdict: self.verdict()?,
            code: self.option(Self::small)?,
        })
    }

    fn recipient(&mut self) -> Option<Recipient<'a>> {
        Some(Recipient {
            message: self.small()?,
            n: self.small()?,
            forward_path: self.text()?,
            verdict: Cow::Owned(self.verdict()?),
            code: self.option(Self::small)?,
            enhanced: self.option(Self::text)?,
            text: self.text()?,
            reply_us: self.option(Self::number)?,
        })
    }

    fn mail(&mut self) -> Option<Mail<'a>> {
        Some(Mail {
            n: self.small()?,
            leg: self.small()?,
            code: self.small()?,
            size: self.number()?,
            times: [self.time_in()?, self.time_in()?, self.time_in()?, self.time_in()?, self.time_in()?],
            reverse_path: self.text()?,
            message_id: self.option(Self::text)?,
            enhanced: self.option(Self::text)?,
            text: self.text()?,
            recipients: Cow::Owned(self.list(|eye| Some((eye.small()?, eye.text()?)))?),
        })
    }

    fn event(&mut self) -> Option<Event<'a>> {
        Some(Event {
            n: self.small()?,
            leg: self.small()?,
            at_us: self.number()?,
            kind: self.listed(&EventKind::ALL)?,
            operator: self.text()?,
            egress: self.address()?,
            verb: self.text()?,
            code: self.option(Self::small)?,
            list: self.option(Self::text)?,
            evidence: self.text()?,
        })
    }

    fn verdict(&mut self) -> Option<Verdict> {
        let (class, list) = (self.listed(&Class::ALL)?, self.option(Self::owned)?);
        let about = self.listed(&About::ALL)?;
        let rule = match self.text()? {
            "" => Cow::Borrowed(""),
            rule => Cow::Owned(rule.to_owned()),
        };
        Some(Verdict { class, list, about, rule })
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn listed<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(usize::from(self.byte()?)).copied()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.small()?;
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    pub(super) fn owned(&mut self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count: usize = self.small()?;
        (0..Some(count).filter(|count| *count <= LIST_LIMIT)?).map(|_| read(self)).collect()
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.byte()? {
            4 => Some(<[u8; 4]>::try_from(self.bytes(4)?).ok()?.into()),
            6 => Some(<[u8; 16]>::try_from(self.bytes(16)?).ok()?.into()),
            _ => None,
        }
    }

    /// Within the session.
    fn time_in(&mut self) -> Option<Option<u64>> {
        self.option(Self::number)
    }

    fn time(&mut self) -> Option<SystemTime> {
        let micros = u64::try_from(self.signed()?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }
}
