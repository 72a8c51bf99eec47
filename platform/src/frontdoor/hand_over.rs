//! The session of an authenticated client, carried on into its tenant's MSA.
//!
//! [`Mediator`] introduces the client with XCLIENT and passes the rest; here stand who may send as whom, and what to do when the MSA was
//! just falling asleep: dial once more, into the next cell.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use warren_control::CellId;
use warren_smtp::{
    Reply, ReversePath,
    command::{Xclient, XclientProtocol},
    mediator::{Deadlines, Event, Flow, HandOver, Mediator, Observer, Topic},
};
use warren_wire::{
    MaybeTls,
    relay::{Upstream, relay},
};

use super::{FrontDoor, Wake, session::Identity};
use crate::fleet::{ColdStart, Connection};

/// How long an MSA may take to greet: it waits ten seconds for its settings itself.
const GREETING: Duration = Duration::from_secs(15);

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
    S: AsyncRead + AsyncWrite + Unpin + Send,
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
        redials: 1,
        ehlo_reply: door.carried().to_reply(&hostname),
        ehlo_name: hostname,
        deadlines: Deadlines { greeting: GREETING, ..Deadlines::default() },
    };
    let addresses = identity.addresses.clone();
    let policy = move |from: &ReversePath| refusal(&addresses, from);
    let mut mediator = Mediator::hand_over(settings, policy, Instant::now());
    let mut msa =
        Msa { door, identity, session: &client.session, first: Some(connection), cell: None, cold: None, messages: 0 };
    mediator.client_bytes(Instant::now(), held, &mut msa);
    let mut draining = door.draining.clone();
    relay(&mut mediator, stream, &mut msa, draining.wait()).await;
    let ending = mediator.ending();
    tracing::info!(session = %client.session, tenant = %identity.tenant, messages = msa.messages, ?ending, "session over");
}

/// What a client is told whose MSA cannot be woken.
pub(super) fn not_now() -> Reply {
    Reply::new(451, (4, 3, 2), "try again later")
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
}

impl<W: Wake> Upstream for Msa<'_, W> {
    type Stream = TcpStream;

    async fn dial(&mut self) -> Result<TcpStream, Reply> {
        let connected = match self.first.take() {
            Some(connection) => Ok(connection),
            None => self.door.wake.connect(&self.identity.tenant, self.cell).await,
        };
        let connection = connected.map_err(|error| {
            tracing::warn!(session = %self.session, tenant = %self.identity.tenant, %error, "no MSA for a client");
            not_now()
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
            Event::Reply { flow: Flow::ReplyPassed, topic: Topic::EndOfData | Topic::LastChunk, reply } => {
                self.messages += u64::from(reply.is_positive());
            }
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
