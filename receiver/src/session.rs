//! One connection of a remote host.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use warren_daemon::Draining;
use warren_smtp::command::{RcptParams, Xclient, XclientProtocol};
use warren_smtp::server::{Event, Server};
use warren_smtp::{ForwardPath, Reply};
use warren_wire::{HandshakeError, MaybeTls, within};

use crate::counts::Counts;
use crate::handover::{hand_over, unanswered};
use crate::platform::Platform;
use crate::settings::Settings;
use crate::spool::{Room, Spool};
use crate::trace::{HopCounter, Received};
use crate::transaction::{Rules, Transaction, address_of, seen_as};

/// How long others may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long we listen before we greet. Hosts that talk first do not speak SMTP as they should.
    pub greeting: Duration,
    /// For the next whole command (RFC 5321 §4.5.3.2.7); bytes that complete none do not count.
    pub command: Duration,
    /// For the next piece of content, and to take our replies (RFC 5321 §4.5.3.2.5).
    pub content: Duration,
    /// For the content of a message as a whole: 50 MB within it are 15 kB/s.
    pub transfer: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the MSA's greeting, which waits ten seconds for its settings itself.
    pub msa: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let greeting = Duration::from_millis(50);
        Self {
            greeting,
            command: seconds(300),
            content: seconds(180),
            transfer: seconds(3_600),
            handshake: seconds(60),
            msa: seconds(15),
        }
    }
}

/// Why a session ended otherwise than by agreement.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// What all sessions share.
#[derive(Debug, Clone)]
pub struct House {
    /// Whom to ask.
    pub platform: Arc<Platform>,
    /// How long hosts may take.
    pub patience: Patience,
    /// Where messages wait.
    pub room: Arc<Room>,
    /// What is counted.
    pub counts: Arc<Counts>,
}

struct Session {
    /// Absent only while a handshake owns it.
    stream: Option<MaybeTls>,
    client: SocketAddr,
    id: String,
    settings: Arc<Settings>,
    house: House,
    server: Server,
    helo: String,
    tls: Option<String>,
    transaction: Option<Transaction>,
    incoming: Option<Incoming>,
}

/// Content that is coming in.
struct Incoming {
    id: String,
    spool: Spool,
    hops: HopCounter,
    until: Instant,
    /// Why it cannot be kept; the rest is read all the same.
    refusal: Option<Reply>,
}

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, client: SocketAddr, settings: Arc<Settings>, house: House, draining: Draining) {
    let server = Server::new(settings.server.clone());
    let id = new_id();
    tracing::debug!(session = %id, %client, "connected");
    // Replies are small and awaited.
    let _ = stream.set_nodelay(true);
    let mut session = Session {
        stream: Some(MaybeTls::Plain(stream)),
        client,
        id,
        settings,
        house,
        server,
        helo: String::new(),
        tls: None,
        transaction: None,
        incoming: None,
    };
    let ended = session.run(draining).await;
    match ended {
        Ok(()) => tracing::debug!(session = %session.id, "ended"),
        Err(error) => tracing::info!(session = %session.id, client = %session.client, "{error}"),
    }
}

impl Session {
    async fn run(&mut self, mut draining: Draining) -> Result<(), SessionError> {
        self.hear_early_talk().await;
        let mut command_by = Instant::now() + self.house.patience.command;
        let mut buffer = vec![0; 16 << 10];
        loop {
            while let Some(event) = self.server.next_event() {
                command_by = Instant::now() + self.house.patience.command;
                self.event(event).await?;
            }
            self.flush().await?;
            if self.server.is_closed() {
                self.shut_down().await;
                return Ok(());
            }
            if draining.begun() && self.server.is_idle() {
                self.server.close(&Reply::new(421, (4, 3, 2), "shutting down"));
                continue;
            }
            let by = match &self.incoming {
                Some(incoming) => incoming.until.min(Instant::now() + self.house.patience.content),
                None => command_by,
            };
            let may_drain = !draining.begun();
            let read = tokio::select! {
                read = tokio::time::timeout_at(by, self.read(&mut buffer)) => read,
                () = draining.wait(), if may_drain => continue,
            };
            match read {
                Ok(Ok(0)) => return Ok(()),
                Ok(length) => self.server.receive(&buffer[..length?]),
                Err(_) => self.server.close(&Reply::new(421, (4, 4, 2), "timeout")),
            }
        }
    }

    /// Whoever says something now has not waited for the greeting.
    async fn hear_early_talk(&mut self) {
        let mut buffer = [0; 512];
        if let Some(MaybeTls::Plain(stream)) = &self.stream
            && tokio::time::timeout(self.house.patience.greeting, stream.readable()).await.is_ok()
            && let Ok(length) = stream.try_read(&mut buffer)
        {
            self.server.receive(&buffer[..length]);
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), SessionError> {
        match event {
            Event::Hello { name, .. } => {
                self.helo = name;
                self.forget();
                self.server.accept();
            }
            Event::StartTls { discarded } => self.start_tls(discarded).await?,
            Event::Mail { from, params } => {
                self.transaction = Some(Transaction::new(from, params));
                self.server.accept();
            }
            Event::Rcpt { to, params } => {
                let answer = self.rcpt(&to, params).await;
                match answer {
                    Ok(()) => {
                        self.house.counts.recipient(None);
                        self.server.accept();
                    }
                    Err(reply) => {
                        self.house.counts.recipient(Some(&reply));
                        tracing::info!(session = %self.id, client = %self.client, to = %to, "recipient refused: {reply}");
                        self.server.reply(reply);
                    }
                }
            }
            Event::ContentStart(_) => match self.open_spool().await {
                Ok(incoming) => {
                    self.incoming = Some(incoming);
                    self.server.accept();
                }
                Err(error) => {
                    tracing::error!(session = %self.id, "spool: {error}");
                    let reply = no_room();
                    self.house.counts.message(&reply);
                    self.server.reply(reply);
                }
            },
            Event::Content(content) => {
                if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.refusal.is_none()) {
                    incoming.hops.push(&content);
                    if let Err(error) = incoming.spool.append(&content).await {
                        tracing::error!(session = %self.id, "spool: {error}");
                        incoming.refusal = Some(no_room());
                    }
                }
            }
            Event::ContentEnd => {
                // Replies to what was pipelined before must not wait for the hand-over.
                self.flush().await?;
                let reply = self.message().await;
                self.house.counts.message(&reply);
                self.server.reply(reply);
            }
            Event::ContentAborted(why) => {
                self.house.counts.aborted(why);
                tracing::info!(session = %self.id, client = %self.client, "message refused: {why:?}");
                self.forget();
            }
            Event::Reset => self.forget(),
            Event::Closed(why) => tracing::debug!(session = %self.id, "closing: {why:?}"),
            Event::Connected => self.server.accept(),
            // None of these is offered.
            Event::Xclient(_) | Event::Auth { .. } | Event::AuthResponse(_) => {
                self.server.reply(Reply::new(502, (5, 5, 1), "not offered"))
            }
            Event::AuthCancelled => {}
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.transaction = None;
        self.incoming = None;
    }

    async fn rcpt(&mut self, to: &ForwardPath, params: RcptParams) -> Result<(), Reply> {
        let mailbox = address_of(to, &self.settings.hostname)?;
        let verdict = self.house.platform.recipient(mailbox.to_string()).await.unwrap_or_else(|error| {
            self.house.counts.unanswered();
            unanswered(&error)
        });
        let rules = Rules { srs: &self.settings.srs, day: today(), max_targets: self.settings.max_targets };
        let transaction = self.transaction.as_mut().ok_or_else(crate::transaction::deferred)?;
        transaction.add(&mailbox, params, seen_as(to, verdict), &rules)
    }

    async fn open_spool(&self) -> io::Result<Incoming> {
        let id = new_id();
        let mut spool = Spool::create(&self.settings.spool, &self.house.room).await?;
        let recipients = self.transaction.as_ref().map_or(&[][..], Transaction::recipients);
        let field = Received {
            helo: &self.helo,
            client: self.client,
            extended: self.server.is_extended(),
            tls: self.tls.as_deref(),
            smtputf8: self.transaction.as_ref().is_some_and(Transaction::is_smtputf8),
            by: &self.settings.hostname,
            id: &id,
            recipient: recipients.first().filter(|_| recipients.len() == 1).map(String::as_str),
            at: Timestamp::now(),
        };
        spool.append(field.to_field().as_bytes()).await?;
        Ok(Incoming {
            id,
            spool,
            hops: HopCounter::new(),
            until: Instant::now() + self.house.patience.transfer,
            refusal: None,
        })
    }

    /// The whole message is here: gives the answer to it.
    async fn message(&mut self) -> Reply {
        let (transaction, incoming) = (self.transaction.take(), self.incoming.take());
        let (Some(transaction), Some(mut incoming)) = (transaction, incoming) else {
            return crate::transaction::deferred();
        };
        let size = incoming.spool.size();
        let reply = match (incoming.refusal.take(), transaction.envelope(size)) {
            (Some(refusal), _) => refusal,
            _ if incoming.hops.hops() > self.settings.hop_limit => {
                Reply::new(554, (5, 4, 6), "too many hops, this message loops")
            }
            (None, None) => crate::transaction::deferred(),
            (None, Some(whole)) => {
                let client = crate::handover::As {
                    hostname: &self.settings.hostname,
                    xclient: self.xclient(),
                    greeting: self.house.patience.msa,
                };
                hand_over(&self.house.platform, &client, whole, &mut incoming.spool).await
            }
        };
        tracing::info!(
            session = %self.id, message = %incoming.id, client = %self.client, from = %transaction.sender(), to = ?transaction.recipients(), size,
            "{reply}"
        );
        reply
    }

    fn xclient(&self) -> Xclient {
        Xclient {
            addr: Some(self.client.ip().to_canonical()),
            port: Some(self.client.port()),
            proto: Some(if self.server.is_extended() { XclientProtocol::Esmtp } else { XclientProtocol::Smtp }),
            helo: Some(self.helo.clone()).filter(|name| !name.is_empty()),
            ..Xclient::default()
        }
    }

    async fn start_tls(&mut self, discarded: usize) -> Result<(), SessionError> {
        if discarded > 0 {
            tracing::warn!(session = %self.id, client = %self.client, "{discarded} bytes behind STARTTLS thrown away");
        }
        self.forget();
        self.flush().await?;
        if let Some(stream) = self.stream.take() {
            let accepted = stream.accept_tls(&self.settings.tls, self.house.patience.handshake).await;
            self.house.counts.handshake(accepted.is_ok());
            let stream = accepted?;
            self.tls = stream.tls_words();
            self.stream = Some(stream);
            self.server.tls_started();
        }
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.read(buffer).await,
            None => Ok(0),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let output = self.server.take_output();
        let Some(stream) = self.stream.as_mut().filter(|_| !output.is_empty()) else { return Ok(()) };
        let written = async {
            stream.write_all(&output).await?;
            stream.flush().await
        };
        within(self.house.patience.content, "taking our reply", written).await
    }

    /// Ends the stream so that the last reply arrives: unread input would make the kernel reset the connection and take the reply with it.
    async fn shut_down(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let end = async {
            stream.shutdown().await?;
            let mut rest = [0; 4_096];
            for _ in 0..64 {
                if stream.read(&mut rest).await? == 0 {
                    break;
                }
            }
            Ok(())
        };
        // Whether the peer waits for the end is its own affair.
        let _ = within(Duration::from_secs(2), "end of the connection", end).await;
    }
}

fn no_room() -> Reply {
    Reply::new(452, (4, 3, 1), "no room for the message now")
}

/// Days since 1970.
fn today() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0) / 86_400
}

/// Different for each session and message of this process, and telling apart those of different runs.
fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) & 0xffff;
    format!("{:x}{count:04x}", Timestamp::now().as_microsecond())
}
