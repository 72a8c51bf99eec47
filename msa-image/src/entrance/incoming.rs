//! One message on its way from the wire into the queue: header read and mended, body passed on as it comes.

use crate::clock::{now_ms, random};
use crate::mail::fixup::{Additions, AuthorRefused, OwnAddresses, check_authors, relayed, submitted};
use crate::mail::header::{HeaderError, HeaderReader, Split};
use crate::mail::trace::{Trace, hops, received};
use std::sync::Arc;
use warren_control::Settings;
use warren_queue::{Envelope, Incoming, Origin, QueueError, Recipient, Ret};
use warren_smtp::{Reply, ReversePath};

/// What MAIL and RCPT said.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Whom the account may write as; `None` at the relay entrance, where anybody may have written.
    pub(super) own: Option<OwnAddresses>,
    pub(super) login: Option<String>,
    pub(super) reverse_path: ReversePath,
    pub(super) smtputf8: bool,
    pub(super) eight_bit: bool,
    pub(super) ret: Option<Ret>,
    pub(super) envid: Option<String>,
    pub(super) recipients: Vec<Recipient>,
}

/// Why a message is refused at its end.
#[derive(Debug)]
pub(super) enum Refused {
    Header(HeaderError),
    Author(AuthorRefused),
    Loop,
    Queue(QueueError),
}

impl Refused {
    pub(super) fn into_reply(self, trouble: impl FnOnce(&QueueError) -> Reply) -> Reply {
        match self {
            Self::Header(error) => Reply::new(552, (5, 3, 4), error.to_string()),
            Self::Author(error) => Reply::new(550, (5, 7, 1), error.to_string()),
            Self::Loop => Reply::new(554, (5, 4, 6), "too many hops, this message is looping"),
            Self::Queue(error) => trouble(&error),
        }
    }
}

/// A message being received.
#[derive(Debug)]
pub(super) struct Content {
    transaction: Transaction,
    trace: Trace,
    settings: Arc<Settings>,
    /// `None` once the body has begun.
    header: Option<HeaderReader>,
    header_ascii: bool,
    eight_bit: bool,
    /// Gone once the message is refused: the rest is swallowed.
    incoming: Result<Incoming, Refused>,
}

impl Content {
    pub(super) fn new(incoming: Incoming, transaction: Transaction, trace: Trace, settings: Arc<Settings>) -> Self {
        let header = Some(HeaderReader::default());
        Self { transaction, trace, settings, header, header_ascii: true, eight_bit: false, incoming: Ok(incoming) }
    }

    /// Takes the next content. A refusal is told at the end.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.incoming.is_err() {
            return;
        }
        if let Err(refused) = self.try_take(bytes) {
            self.incoming = Err(refused);
        }
    }

    fn try_take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        match &mut self.header {
            None => self.body(bytes),
            Some(reader) => match reader.push(bytes).map_err(Refused::Header)? {
                None => Ok(()),
                Some(split) => {
                    self.header = None;
                    self.mend(split)
                }
            },
        }
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.eight_bit |= !bytes.is_ascii();
        match &mut self.incoming {
            Ok(incoming) => incoming.write(bytes).map_err(Refused::Queue),
            Err(_) => Ok(()),
        }
    }

    /// The header is complete: check it, write it as it goes on, and what of the body came with it.
    fn mend(&mut self, split: Split) -> Result<(), Refused> {
        let Split { header, rest } = split;
        let Ok(incoming) = &self.incoming else { return Ok(()) };
        if hops(&header) >= self.settings.hop_limit as usize {
            return Err(Refused::Loop);
        }
        let for_path = match self.transaction.recipients.as_slice() {
            [only] => Some(only.path.as_str()),
            _ => None,
        };
        let id = incoming.id().as_str();
        let now_ms = now_ms();
        let received = received(&self.trace, &self.settings.hostname, id, for_path, now_ms);
        self.header_ascii = header.is_ascii();
        let header = match &self.transaction.own {
            None => relayed(&header, &received),
            Some(own) => {
                check_authors(&header, own).map_err(Refused::Author)?;
                let author = match &self.transaction.reverse_path {
                    ReversePath::Mailbox(mailbox) => mailbox.to_string(),
                    ReversePath::Null => self.transaction.login.clone().unwrap_or_default(),
                };
                let domain = author.rsplit('@').next().unwrap_or(&self.settings.hostname);
                let message_id = format!("{id}.{:016x}@{domain}", random());
                submitted(header, &Additions { received: &received, now_ms, message_id: &message_id, author: &author })
            }
        };
        self.body(&header)?;
        self.body(&rest)
    }

    /// The content is whole: what to put into the queue.
    pub(super) fn finish(mut self) -> Result<(Incoming, Envelope), Refused> {
        if let (Ok(_), Some(reader)) = (&self.incoming, self.header.take()) {
            let split = reader.finish().map_err(Refused::Header)?;
            self.mend(split)?;
        }
        let incoming = self.incoming?;
        let transaction = self.transaction;
        let international = !transaction.reverse_path.to_string().is_ascii()
            || transaction.recipients.iter().any(|to| !to.path.is_ascii());
        let envelope = Envelope {
            version: Envelope::VERSION,
            id: incoming.id().clone(),
            arrived_ms: now_ms(),
            origin: if transaction.own.is_some() { Origin::Submission } else { Origin::Relay },
            reverse_path: transaction.reverse_path.to_string(),
            recipients: transaction.recipients,
            content: warren_queue::Content {
                bytes: incoming.length(),
                eight_bit: transaction.eight_bit || self.eight_bit,
                // Asked for and needed: a message without such names goes through hosts that know nothing of SMTPUTF8.
                smtputf8: transaction.smtputf8 && (international || !self.header_ascii),
            },
            ret: transaction.ret,
            envid: transaction.envid,
        };
        Ok((incoming, envelope))
    }
}
