//! The session of an authenticated client, carried on into its tenant's MSA.
//!
//! [`Mediator`] introduces the client with XCLIENT and passes the rest; here stand who may send as whom and how much ([`Rights`]), and what
//! to do when the MSA was just falling asleep: dial once more, into the next cell.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use warren_control::CellId;
use warren_smtp::{
    ForwardPath, Reply, ReversePath,
    command::{Verb, Xclient, XclientProtocol},
    mediator::{Deadlines, Event, Flow, HandOver, Judgement, Mediator, Observer, Policy, Topic},
};
use warren_wire::{
    MaybeTls,
    relay::{self, Upstream, relay},
};

use super::{FrontDoor, Wake, counts::Submission, session::Identity};
use crate::{
    fleet::{ColdStart, Connection, Unavailable},
    rates::{Mail, now_ms},
};

/// How long an MSA may take to greet: it waits ten seconds for its settings itself.
const GREETING: Duration = Duration::from_secs(15);

/// How often an MSA is dialled again that hung up before its banner: it was falling asleep. More than once only on a very busy machine.
const REDIALS: u8 = 3;

/// Whose session it is.
pub(super) struct Client {
    pub address: SocketAddr,
    pub helo: String,
    pub session: String,
}

/// Carries the session on to its end. `held`: what the client sent behind AUTH.
pub(super) async fn hand_over<S, W>(
    door: &Arc<FrontDoor<W>>,
    client: &Client,
    identity: &Identity,
    connection: Connection,
    stream: MaybeTls<S>,
    held: &[u8],
) where
    S: relay::Connection,
    W: Wake,
{
    let hostname = door.hostname();
    let settings = HandOver {
        xclient: Some(Xclient {
            addr: Some(client.address.ip().to_canonical()),
            port: Some(client.address.port()),
            proto: Some(XclientProtocol::Esmtp),
            helo: Some(client.helo.chars().take(255).collect()),
            login: Some(identity.login.clone()),
            ..Xclient::default()
        }),
        redials: REDIALS,
        ehlo_reply: door.carried().to_reply(&hostname),
        ehlo_name: hostname,
        deadlines: Arc::new(Deadlines { greeting: GREETING, ..Deadlines::default() }),
    };
    let mut mediator = Mediator::hand_over(settings, Instant::now());
    let mut msa = Msa {
        door,
        identity,
        session: &client.session,
        first: Some(connection),
        cell: None,
        cold: None,
        messages: 0,
        rights: Rights { door, identity, session: &client.session, open: false },
        open: None,
    };
    mediator.client_bytes(Instant::now(), held, &mut msa);
    let mut draining = door.draining.clone();
    relay(&mut mediator, stream, &mut msa, pin!(draining.wait())).await;
    let ending = mediator.ending();
    tracing::info!(session = %client.session, tenant = %identity.tenant, messages = msa.messages, ?ending, "session over");
}

/// What a client is told whose MSA cannot be woken.
pub(super) fn not_now<W>(door: &FrontDoor<W>, error: &Unavailable) -> Reply {
    if error.is_full() {
        door.counts.submission(Submission::Full);
        return Reply::new(452, (4, 3, 1), "no room at present");
    }
    door.counts.submission(Submission::Asleep);
    Reply::new(451, (4, 3, 2), "try again later")
}

const MESSAGE: Mail = Mail { messages: 1, recipients: 0 };
const RECIPIENT: Mail = Mail { messages: 0, recipients: 1 };

/// What an account may do: send as itself, and so much in an hour.
struct Rights<'a, W> {
    door: &'a FrontDoor<W>,
    identity: &'a Identity,
    session: &'a str,
    /// The last MAIL was passed on: recipients are counted.
    open: bool,
}

impl<W> Rights<'_, W> {
    fn count(&self, mail: Mail) -> Option<Reply> {
        let Identity { tenant, account, .. } = self.identity;
        let book = self.door.books.current();
        let reply = match book.directory.tenant(tenant) {
            Some(found) => match self.door.rates.ledger().submit(tenant, account, mail, &found.rates, now_ms()) {
                Ok(()) => return None,
                Err(over) => over.to_reply(),
            },
            // Removed while the session was open.
            None => Reply::new(550, (5, 7, 1), "this account may not send"),
        };
        self.door.counts.submission(Submission::Limit);
        tracing::warn!(session = %self.session, %tenant, account, %reply, "over its limit");
        Some(reply)
    }
}

impl<W> Policy for Msa<'_, W> {
    fn mail(&mut self, from: &ReversePath, _: &[u8]) -> Judgement {
        let rights = &mut self.rights;
        let foreign = refusal(&rights.identity.addresses, from);
        if foreign.is_some() {
            rights.door.counts.submission(Submission::Sender);
        }
        let refused = foreign.or_else(|| rights.count(MESSAGE));
        rights.open = refused.is_none();
        refused.into()
    }

    fn rcpt(&mut self, _: &ForwardPath, _: &[u8]) -> Judgement {
        // What was not counted must not be passed on, or else its refusal would be given back.
        let refused = match self.rights.open {
            true => self.rights.count(RECIPIENT),
            false => Some(Reply::new(503, (5, 5, 1), "MAIL first")),
        };
        refused.into()
    }
}

/// Why an account may not use a reverse-path.
fn refusal(addresses: &[String], from: &ReversePath) -> Option<Reply> {
    match from {
        // Notices come from programs; an account that sends as nobody escapes every limit on what it may send as.
        ReversePath::Null => Some(Reply::new(550, (5, 7, 1), "an account may not send as <>")),
        ReversePath::Mailbox(mailbox) => {
            // ASCII only: a KELVIN SIGN is not a k.
            let own = addresses.contains(&mailbox.to_key().to_ascii_lowercase());
            (!own).then(|| Reply::new(550, (5, 7, 1), "not an address of yours"))
        }
    }
}

/// The way to the tenant's MSA.
struct Msa<'a, W> {
    door: &'a FrontDoor<W>,
    identity: &'a Identity,
    session: &'a str,
    first: Option<Connection>,
    /// Where the last connection led.
    cell: Option<CellId>,
    cold: Option<ColdStart>,
    messages: u64,
    rights: Rights<'a, W>,
    /// The present transaction, as the MSA has accepted it: what is given back should it refuse the message.
    open: Option<Mail>,
}

impl<W> Msa<'_, W> {
    /// What the MSA refuses is not counted against anybody.
    fn settle(&mut self, topic: Topic, reply: &Reply) {
        let unused = match (topic, reply.is_positive()) {
            (Topic::Command(Verb::Mail), true) => {
                self.open = Some(MESSAGE);
                None
            }
            (Topic::Command(Verb::Rcpt), true) => {
                self.open.iter_mut().for_each(|open| open.recipients += 1);
                None
            }
            (Topic::EndOfData | Topic::LastChunk, true) => {
                self.messages += 1;
                self.door.counts.submission(Submission::Accepted);
                self.open = None;
                None
            }
            (Topic::Command(Verb::Mail), false) => Some(MESSAGE),
            (Topic::Command(Verb::Rcpt), false) => Some(RECIPIENT),
            // Once only: a BDAT without a transaction is refused as well.
            (Topic::EndOfData | Topic::LastChunk, false) => self.open.take(),
            _ => None,
        };
        if let Some(unused) = unused {
            self.door.counts.submission(Submission::Msa);
            self.door.rates.ledger().undo(&self.identity.tenant, &self.identity.account, unused);
        }
    }
}

impl<C: relay::Connection, W: Wake> Upstream<C> for Msa<'_, W> {
    type Stream = TcpStream;

    async fn dial(&mut self) -> Result<TcpStream, Reply> {
        let connected = match self.first.take() {
            Some(connection) => Ok(connection),
            None => self.door.wake.connect(&self.identity.tenant, self.cell).await,
        };
        let connection = connected.map_err(|error| {
            tracing::warn!(session = %self.session, tenant = %self.identity.tenant, %error, "no MSA for a client");
            not_now(self.door, &error)
        })?;
        self.cell = Some(connection.cell);
        self.cold = connection.cold;
        Ok(connection.stream)
    }
}

impl<W: Wake> Observer for Msa<'_, W> {
    fn event(&mut self, at: Instant, event: Event<'_>) {
        match event {
            Event::Reply { flow: Flow::ReplyEnded, topic: Topic::Greeting, .. } => {
                if let Some(cold) = self.cold.take() {
                    self.door.wake.banner(cold, at);
                }
            }
            Event::Reply { flow: Flow::ReplyPassed, topic, reply } => self.settle(topic, reply),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_addresses() {
        let own = ["alice@acme.example".to_owned(), "sales@acme.example".to_owned()];
        let refused = |path: &str| refusal(&own, &path.parse().unwrap()).map(|reply| reply.code);
        for path in ["alice@acme.example", "Alice@ACME.example", "sales@acme.example", "\"alice\"@acme.example"] {
            assert_eq!(refused(path), None, "{path}");
        }
        for path in
            ["", "bob@acme.example", "alice@globex.example", "alice+x@acme.example", "\u{ff21}lice@acme.example"]
        {
            assert_eq!(refused(path), Some(550), "{path}");
        }
        let kate = ["kate@acme.example".to_owned()];
        assert!(refusal(&kate, &"\u{212a}ate@acme.example".parse().unwrap()).is_some());
    }
}
