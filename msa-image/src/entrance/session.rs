//! What an entrance answers: identity, rights, limits. The machine in `warren_smtp::server` keeps the protocol.

use super::Entrance;
use super::incoming::{Content, Transaction};
use crate::Msa;
use crate::clock::now_ms;
use crate::mail::fixup::OwnAddresses;
use crate::mail::trace::Trace;
use std::sync::Arc;
use warren_control::{Level, Settings};
use warren_queue::{Notify, QueueError, Recipient, Ret};
use warren_smtp::command::{BodyType, DsnReturn, MailParams, RcptParams, Xclient};
use warren_smtp::server::Event;
use warren_smtp::{ForwardPath, Reply, ReversePath};

/// One connection's state beside the protocol.
pub(super) struct Session<'a> {
    entrance: Entrance,
    settings: Arc<Settings>,
    msa: &'a Msa,
    client: Xclient,
    hello: Option<String>,
    transaction: Option<Transaction>,
    content: Option<Content>,
}

impl<'a> Session<'a> {
    pub(super) fn new(entrance: Entrance, settings: Arc<Settings>, msa: &'a Msa) -> Self {
        Self { entrance, settings, msa, client: Xclient::default(), hello: None, transaction: None, content: None }
    }

    /// Takes an event; `None` accepts it.
    pub(super) async fn event(&mut self, event: Event) -> Option<Reply> {
        match event {
            Event::Hello { name, .. } => {
                self.forget();
                self.hello = Some(name);
                None
            }
            Event::Xclient(client) => {
                self.forget();
                self.client = client;
                None
            }
            Event::Mail { from, params } => self.mail(from, &params).await.err(),
            Event::Rcpt { to, params } => self.rcpt(&to, params).err(),
            Event::ContentStart(_) => self.start().await.err(),
            Event::Content(bytes) => {
                if let Some(content) = &mut self.content {
                    content.take(&bytes);
                }
                None
            }
            Event::ContentEnd => Some(self.finish().await),
            Event::ContentAborted(_) | Event::Reset | Event::Closed(_) => {
                self.forget();
                None
            }
            _ => None,
        }
    }

    fn forget(&mut self) {
        self.transaction = None;
        self.content = None;
    }

    async fn mail(&mut self, from: ReversePath, params: &MailParams) -> Result<(), Reply> {
        self.forget();
        let own = match self.entrance {
            Entrance::Relay => None,
            Entrance::Submission => Some(self.own_addresses(&from)?),
        };
        // Without a queue, or room in it, there is no point in taking recipients.
        let queue = self.msa.store.queue().await.map_err(|error| self.trouble(&error))?;
        queue.allow(self.settings.max_queue_bytes);
        if !queue.fits(params.size.unwrap_or(0)) {
            self.msa.control.log(Level::Warn, format!("the queue is full with {} bytes", queue.used()));
            return Err(no_room());
        }
        self.msa.store.prepare();
        self.transaction = Some(Transaction {
            own,
            login: self.client.login.clone(),
            smtputf8: params.smtputf8,
            eight_bit: params.body == Some(BodyType::EightBitMime),
            ret: params.ret.map(|ret| match ret {
                DsnReturn::Full => Ret::Full,
                DsnReturn::Headers => Ret::Headers,
            }),
            envid: params.envid.clone(),
            reverse_path: from,
            recipients: Vec::new(),
        });
        Ok(())
    }

    fn own_addresses(&self, from: &ReversePath) -> Result<OwnAddresses, Reply> {
        let Some(login) = &self.client.login else {
            return Err(Reply::new(530, (5, 7, 0), "authentication required"));
        };
        let accounts = &self.settings.accounts;
        let Some(addresses) = accounts.get(login).or_else(|| accounts.get(&login.to_ascii_lowercase())) else {
            return Err(Reply::new(550, (5, 7, 1), "this account may not send"));
        };
        let own = OwnAddresses::new(addresses);
        match from.mailbox() {
            Some(mailbox) if !own.has(mailbox) => Err(Reply::new(550, (5, 7, 1), "not an address of this account")),
            _ => Ok(own),
        }
    }

    fn rcpt(&mut self, to: &ForwardPath, params: RcptParams) -> Result<(), Reply> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Reply::new(503, (5, 5, 1), "MAIL first"));
        };
        let path = match to {
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
            // The tenant's own: the node has none.
            ForwardPath::Postmaster => match self.settings.domains.first() {
                Some(domain) => format!("postmaster@{domain}"),
                None => return Err(Reply::new(550, (5, 1, 3), "no domain to complete postmaster with")),
            },
        };
        if transaction.recipients.iter().any(|known| known.path == path) {
            return Ok(()); // one copy is enough
        }
        let mut recipient = Recipient::new(path, now_ms());
        recipient.notify = params.notify.map(|notify| Notify {
            success: notify.success,
            failure: notify.failure,
            delay: notify.delay,
        });
        recipient.orcpt = params.orcpt.map(|orcpt| format!("{};{}", orcpt.address_type, orcpt.address));
        transaction.recipients.push(recipient);
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Reply> {
        let Some(transaction) = self.transaction.take() else {
            return Err(Reply::new(503, (5, 5, 1), "MAIL first"));
        };
        let incoming =
            self.msa.store.begin(self.settings.max_queue_bytes).await.map_err(|error| self.trouble(&error))?;
        let trace = Trace {
            helo: self.client.helo.clone().or_else(|| self.hello.clone()),
            address: self.client.addr,
            authenticated: self.client.login.is_some(),
            smtputf8: transaction.smtputf8,
        };
        self.content = Some(Content::new(incoming, transaction, trace, Arc::clone(&self.settings)));
        Ok(())
    }

    async fn finish(&mut self) -> Reply {
        let Some(content) = self.content.take() else {
            return Reply::new(451, (4, 3, 0), "try again");
        };
        let (incoming, envelope) = match content.finish() {
            Ok(whole) => whole,
            Err(refused) => return refused.into_reply(|error| self.trouble(error)),
        };
        let Some(_permit) = self.msa.store.permit().await else {
            return Reply::new(451, (4, 3, 2), "going to sleep, come again");
        };
        match self.msa.store.commit(incoming, envelope).await {
            Ok(envelope) => {
                let reply = Reply::new(250, (2, 0, 0), format!("queued as {}", envelope.id));
                let facts = format!(
                    "{}: accepted, {} bytes, {} recipients",
                    envelope.id,
                    envelope.content.bytes,
                    envelope.recipients.len()
                );
                self.msa.control.log(Level::Info, facts);
                self.msa.deliveries.take_in(envelope);
                reply
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// Little to the peer, all to the log.
    fn trouble(&self, error: &QueueError) -> Reply {
        self.msa.control.log(Level::Error, error.to_string());
        match error {
            QueueError::Full { .. } => no_room(),
            QueueError::TooLarge { .. } => Reply::new(552, (5, 3, 4), "message too large"),
            QueueError::EnvelopeTooLarge { .. } => Reply::new(452, (4, 5, 3), "too many recipients"),
            _ => Reply::new(451, (4, 3, 0), "the queue cannot be written at present"),
        }
    }
}

fn no_room() -> Reply {
    Reply::new(452, (4, 3, 1), "no room at present")
}
