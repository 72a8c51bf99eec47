//! A spooled message into the relay entrance of a tenant's MSA; what the MSA answers is what the remote host hears.
//!
//! One reply must stand for all forward-paths. So nothing is transferred unless the MSA takes every one of them: with a 4yz among its answers the
//! remote host hears that and comes back, else the first 5yz. That way no target is lost and none gets the message twice. What remains is the
//! window of RFC 1047: an answer that is lost between the MSA and the remote host means a second copy.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use warren_control::api::Verdict;
use warren_launcher_api::{CellId, TenantName};
use warren_smtp::Reply;
use warren_smtp::client::{Client, ClientConfig, Envelope, Event, Failure, Step};
use warren_smtp::command::Xclient;
use warren_wire::within;

use crate::platform::{AskError, Platform};
use crate::spool::Spool;

/// For the whole hand-over. Remote hosts wait ten minutes for the answer to their dot (RFC 5321 §4.5.3.2.6); ours must come before that.
const DEADLINE: Duration = Duration::from_secs(300);

/// Why there is no answer of the MSA. All of these are put off.
#[derive(Debug, thiserror::Error)]
enum HandoverError {
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The MSA was falling asleep: the connection ended before the banner.
    #[error("cell {0} ended before its banner")]
    Stale(CellId),
    #[error("MSA: {0}")]
    Failed(#[from] Failure),
    #[error("relay entrance: {0}")]
    Io(#[from] io::Error),
    #[error("spool: {0}")]
    Spool(#[source] io::Error),
    #[error("the session ended without an answer")]
    Silent,
}

/// As whom we come to an MSA.
pub struct As<'a> {
    /// Our name for EHLO.
    pub hostname: &'a str,
    /// Whom we speak for.
    pub xclient: Xclient,
    /// How long to wait for the MSA's greeting.
    pub greeting: Duration,
}

/// Hands a message over and gives the reply for the remote host: 2yz only if the MSA took it for every forward-path.
pub async fn hand_over(
    platform: &Platform,
    client: &As<'_>,
    (tenant, envelope): (TenantName, Envelope),
    spool: &mut Spool,
) -> Reply {
    let attempts = async {
        let first = attempt(platform, client, &tenant, &envelope, spool, None).await;
        match first {
            Err(HandoverError::Stale(cell)) => attempt(platform, client, &tenant, &envelope, spool, Some(cell)).await,
            other => other,
        }
    };
    let reply = match tokio::time::timeout(DEADLINE, attempts).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(HandoverError::Ask(AskError::OverLimit(text)))) => over_limit(text),
        Ok(Err(error)) => {
            tracing::warn!(%tenant, "hand-over: {error}");
            put_off()
        }
        Err(_) => {
            tracing::warn!(%tenant, "hand-over took too long");
            put_off()
        }
    };
    // 421 would end the remote host's session, which has done nothing wrong.
    if reply.code == 421 { put_off() } else { reply }
}

fn put_off() -> Reply {
    Reply::new(451, (4, 3, 2), "try again later")
}

/// The tenant has forwarded its share of this hour: the remote host brings the message again.
pub fn over_limit(text: String) -> Reply {
    Reply::new(450, (4, 7, 1), text)
}

async fn attempt(
    platform: &Platform,
    whose: &As<'_>,
    tenant: &TenantName,
    envelope: &Envelope,
    spool: &mut Spool,
    stale: Option<CellId>,
) -> Result<Reply, HandoverError> {
    let (cell, stream) =
        platform.relay(tenant, u32::try_from(envelope.recipients.len()).unwrap_or(u32::MAX), stale).await?;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    // Commands are small and answered one by one.
    stream.set_nodelay(true)?;
    spool.rewind().await.map_err(HandoverError::Spool)?;
    let client =
        Client::new(ClientConfig { hostname: whose.hostname.to_owned(), xclient: Some(whose.xclient.clone()) });
    match (Dialogue { stream, client, greeting: whose.greeting }).run(envelope, spool).await {
        Err(HandoverError::Failed(Failure::Lost { during: Step::Greeting })) => Err(HandoverError::Stale(cell)),
        other => other,
    }
}

struct Dialogue {
    stream: TcpStream,
    client: Client,
    greeting: Duration,
}

impl Dialogue {
    async fn run(mut self, envelope: &Envelope, spool: &mut Spool) -> Result<Reply, HandoverError> {
        let mut refusal: Option<Reply> = None;
        loop {
            while let Some(event) = self.client.next_event() {
                match event {
                    Event::Ready => self.client.send(envelope.clone()),
                    Event::Recipient(_, reply) if reply.is_positive() => {}
                    Event::Recipient(index, reply) => {
                        tracing::warn!("the MSA refuses <{}>: {reply}", envelope.recipients[index].0);
                        refusal = Some(worse(refusal, reply));
                    }
                    // Dropping the connection leaves no message behind.
                    Event::Content if refusal.is_some() => return refusal.ok_or(HandoverError::Silent),
                    Event::Content => self.content(spool).await?,
                    Event::Done(answer) => {
                        self.client.quit();
                        // The message is settled; whether QUIT arrives is not important.
                        let _ = self.flush().await;
                        return answer.or(refusal).ok_or(HandoverError::Silent);
                    }
                    Event::Closed(Some(failure)) => return Err(failure.into()),
                    Event::Closed(None) => return Err(HandoverError::Silent),
                }
            }
            self.flush().await?;
            self.listen().await?;
        }
    }

    async fn content(&mut self, spool: &mut Spool) -> Result<(), HandoverError> {
        loop {
            let block = spool.read().await.map_err(HandoverError::Spool)?;
            if block.is_empty() {
                self.client.finish();
                return Ok(());
            }
            self.client.content(&block);
            self.flush().await?;
        }
    }

    async fn flush(&mut self) -> Result<(), HandoverError> {
        let output = self.client.take_output();
        Ok(within(Step::Content.timeout(), "writing to the MSA", self.stream.write_all(&output)).await?)
    }

    async fn listen(&mut self) -> Result<(), HandoverError> {
        let mut buffer = [0; 2_048];
        let (limit, what) = match self.client.deadline() {
            (Step::Greeting, _) => (self.greeting, "greeting of the MSA"),
            (_, limit) => (limit, "reply of the MSA"),
        };
        match within(limit, what, self.stream.read(&mut buffer)).await {
            Ok(0) => self.client.disconnected(),
            Ok(length) => self.client.receive(&buffer[..length]),
            // A reset before the banner is a cell that ended as well.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.client.disconnected(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The reply that loses nothing: a transient one before a permanent one.
fn worse(known: Option<Reply>, new: Reply) -> Reply {
    match known {
        Some(known) if known.is_transient() || new.is_permanent() => known,
        _ => new,
    }
}

/// What an unanswered question about a recipient means.
pub fn unanswered(error: &AskError) -> Verdict {
    tracing::warn!("recipient: {error}");
    Verdict::Deferred
}
