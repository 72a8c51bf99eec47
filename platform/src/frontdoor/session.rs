//! A client from its greeting to its authentication, and on into its MSA.
//!
//! ```text
//!   greeting ─ EHLO ─ STARTTLS ─ EHLO ─ AUTH ─ 235 ─▶ relay to the tenant's MSA
//!      587 ▲                  ▲ 465 begins here │
//!                                               └─▶ the tenant is woken from here on
//! ```
//!
//! Before the password is verified nothing is woken, or strangers could wake the node. Then 235 is said at once and the MSA is
//! connected meanwhile; what the client says next waits in its socket. If no MSA can be had, the session goes on without
//! one, and MAIL is answered `451 4.3.2`.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use warren_control::TenantName;
use warren_daemon::Draining;
use warren_smtp::{
    Reply,
    server::{Close, Event, Server, ServerConfig},
};
use warren_wire::{MaybeTls, relay::Connection};

use super::{
    FrontDoor, Wake,
    admission::Place,
    counts::Attempt,
    hand_over::{Client, hand_over},
    passwords::{Claim, Party, Password, Verified},
    sasl::{Credentials, Exchange, Next},
    throttle::{self, Verdict},
};

/// How long a client may take for its next command (RFC 5321 §4.5.3.2.7).
const COMMAND: Duration = Duration::from_secs(300);
/// How long a client may take in all until it has authenticated: a byte a minute does not hold a place for long.
const STRANGER: Duration = Duration::from_secs(600);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long the client may take to read what we say.
const WRITING: Duration = Duration::from_secs(60);
/// Commands before AUTH; a client needs six.
const COMMANDS: u32 = 30;
/// Refused commands before AUTH.
const ERRORS: u32 = 10;
/// Wrong passwords in one session.
const WRONG_PASSWORDS: u32 = 3;

/// Somebody who has authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub tenant: TenantName,
    /// The account's name: one account has a login at each of the tenant's domains.
    pub account: String,
    pub login: String,
    /// The addresses it may send as, in lower case.
    pub addresses: Vec<String>,
}

/// One client.
pub(super) struct Session<W> {
    door: Arc<FrontDoor<W>>,
    client: SocketAddr,
    id: String,
    place: Place,
    draining: Draining,
    helo: String,
    exchange: Option<Exchange>,
    wrong_passwords: u32,
    /// What MAIL is answered as long as there is no MSA.
    no_mail: Option<Reply>,
}

impl<W: Wake> Session<W> {
    pub fn new(door: Arc<FrontDoor<W>>, client: SocketAddr, id: String, place: Place) -> Session<W> {
        let draining = door.draining.clone();
        Session {
            door,
            client,
            id,
            place,
            draining,
            helo: String::new(),
            exchange: None,
            wrong_passwords: 0,
            no_mail: None,
        }
    }

    /// Serves the client to its end. `tls_first`: TLS from the first byte (port 465).
    pub async fn serve<S: Connection>(mut self, stream: S, tls_first: bool) -> io::Result<()> {
        let hostname = self.door.hostname();
        let config = ServerConfig {
            max_errors: ERRORS,
            max_idle_commands: COMMANDS,
            ..ServerConfig::new(hostname, self.door.offered(tls_first))
        };
        let mut stream = MaybeTls::Plain(stream);
        let mut server = Server::new(config.clone());
        if tls_first {
            stream = self.shake_hands(stream).await?;
            server = Server::new_in_tls(config);
        }
        let strangers_time = Instant::now() + STRANGER;
        let Some((identity, mut stream)) = self.converse(&mut server, stream, Some(strangers_time)).await? else {
            return Ok(());
        };
        // The 235 and the waking of the tenant at the same time.
        let (said, connected) =
            tokio::join!(say(&mut server, &mut stream), self.door.wake.connect(&identity.tenant, None));
        said?;
        match connected {
            Ok(connection) => {
                let held = server.take_input();
                let client = Client { address: self.client, helo: self.helo, session: self.id };
                hand_over(&self.door, &client, &identity, connection, stream, &held).await;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(session = %self.id, tenant = %identity.tenant, %error, "no MSA for a client");
                self.no_mail = Some(super::hand_over::not_now(&self.door, &error));
                self.converse(&mut server, stream, None).await.map(drop)
            }
        }
    }

    async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: MaybeTls<S>) -> io::Result<MaybeTls<S>> {
        stream.accept_tls(&self.door.tls(), HANDSHAKE).await.map_err(io::Error::other)
    }

    /// Answers the client until it has authenticated (its 235 is yet to be written) or the session is over.
    async fn converse<S>(
        &mut self,
        server: &mut Server,
        mut stream: MaybeTls<S>,
        until: Option<Instant>,
    ) -> io::Result<Option<(Identity, MaybeTls<S>)>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut chunk = [0; 4096];
        let mut since = Instant::now();
        loop {
            while let Some(event) = server.next_event() {
                match event {
                    Event::StartTls { discarded } => {
                        if discarded > 0 {
                            tracing::warn!(session = %self.id, client = %self.client, discarded, "bytes behind STARTTLS");
                        }
                        say(server, &mut stream).await?;
                        stream = self.shake_hands(stream).await?;
                        server.set_extensions(self.door.offered(true));
                        server.tls_started();
                        self.helo.clear();
                    }
                    Event::Closed(why) => {
                        self.closed(why);
                        let _ = say(server, &mut stream).await;
                        // The client may have gone already.
                        let _ = timeout(WRITING, stream.shutdown()).await;
                        return Ok(None);
                    }
                    event => {
                        if let Some(identity) = self.answer(server, event).await {
                            return Ok(Some((identity, stream)));
                        }
                    }
                }
                // A command may have taken its time here (a slowed AUTH): the client's begins now.
                since = Instant::now();
            }
            say(server, &mut stream).await?;
            let by = until.map_or(since + COMMAND, |until| until.min(since + COMMAND));
            tokio::select! {
                read = stream.read(&mut chunk) => match read? {
                    0 => return Ok(None),
                    count => server.receive(&chunk[..count]),
                },
                () = tokio::time::sleep_until(by.into()) => server.close(&Reply::new(421, (4, 4, 2), "you took too long")),
                () = self.draining.wait() => server.close(&Reply::new(421, (4, 3, 2), "going down, come back soon")),
            }
        }
    }

    async fn answer(&mut self, server: &mut Server, event: Event) -> Option<Identity> {
        match event {
            Event::Hello { name, .. } => {
                self.helo = name;
                server.accept();
            }
            Event::Auth { mechanism, initial } => match Exchange::begin(&mechanism, initial.as_deref()) {
                Some(next) => return self.authenticate(server, next).await,
                None => server.reply(Reply::new(504, (5, 5, 4), "mechanism not offered")),
            },
            Event::AuthResponse(response) => match self.exchange.take() {
                Some(exchange) => return self.authenticate(server, exchange.response(&response)).await,
                None => server.reply(Reply::new(503, (5, 5, 1), "nothing was asked")),
            },
            Event::AuthCancelled => self.exchange = None,
            Event::Mail { .. } => server.reply(match &self.no_mail {
                Some(reply) => reply.clone(),
                None if server.is_tls() => Reply::new(530, (5, 7, 0), "authenticate first"),
                None => Reply::new(530, (5, 7, 0), "STARTTLS first"),
            }),
            Event::Connected => server.accept(),
            // Without an accepted MAIL there is nothing of this kind; XCLIENT is not offered.
            other if other.wants_answer() => server.reply(Reply::new(503, (5, 5, 1), "bad sequence of commands")),
            _ => {}
        }
        None
    }

    async fn authenticate(&mut self, server: &mut Server, next: Next) -> Option<Identity> {
        let credentials = match next {
            Next::Challenge(challenge, exchange) => {
                self.exchange = Some(exchange);
                server.challenge(challenge);
                return None;
            }
            Next::Malformed => {
                server.reply(Reply::new(501, (5, 5, 2), "that is not base64"));
                return None;
            }
            Next::Refuse => Credentials { login: String::new(), password: Password::default() },
            Next::Verify(credentials) => credentials,
        };
        let verified = self.verify(credentials).await;
        let (Ok((attempt, _)) | Err((attempt, _))) = &verified;
        self.door.counts.attempt(*attempt);
        match verified {
            Ok((_, identity)) => {
                tracing::info!(session = %self.id, client = %self.client, tenant = %identity.tenant, login = %identity.login, "authenticated");
                self.place.known();
                server.accept();
                Some(identity)
            }
            Err((attempt, reply)) => {
                if attempt == Attempt::Wrong {
                    self.wrong_passwords += 1;
                }
                if self.wrong_passwords >= WRONG_PASSWORDS {
                    server.close(&Reply::new(421, (4, 7, 0), "too many wrong passwords"));
                } else {
                    server.reply(reply);
                }
                None
            }
        }
    }

    /// Whom the credentials name. Every refusal of a password reads the same, whatever the reason.
    async fn verify(&self, credentials: Credentials) -> Result<(Attempt, Identity), (Attempt, Reply)> {
        let Credentials { login, password } = credentials;
        let from = self.client.ip();
        let verdict = self.door.throttle().judge(from, &login, Instant::now());
        match verdict {
            Verdict::After(delay) if delay.is_zero() => {}
            Verdict::After(delay) => tokio::time::sleep(delay).await,
            Verdict::Cut => {
                tracing::warn!(session = %self.id, client = %self.client, login, "authentication cut: too many failures");
                return Err((Attempt::Cut, Reply::new(454, (4, 7, 0), "too many failures, try again later")));
            }
        }
        let book = self.door.book();
        let found = book.directory.login(&login);
        let domain = login.rsplit_once('@').map_or("", |(_, domain)| domain);
        let tenant = book.directory.by_domain(domain);
        let neighbour = tenant.and_then(|tenant| tenant.accounts.values().next());
        let claim = Claim {
            login: &login,
            hash: found.map(|found| found.account.password.as_str()),
            neighbour: neighbour.map(|account| account.password.as_str()),
            party: &Party { tenant: tenant.map(|tenant| tenant.name.clone()), network: throttle::network(from) },
        };
        let remember = book.node.submission.remember_passwords;
        let verified = self.door.verifier.verify(claim, password, remember).await;
        match (verified, found) {
            (Ok(right @ (Verified::Right | Verified::Remembered)), Some(found)) => {
                self.door.throttle().worked(from, &login, Instant::now());
                if self.door.wake.is_suspended(&found.tenant.name) {
                    tracing::info!(session = %self.id, client = %self.client, tenant = %found.tenant.name, login, "refused: the tenant is suspended");
                    // Only whoever knows the password learns it. Not 535, at which clients ask for another password, nor a 4xx,
                    // at which they try again without a word to their user.
                    let reply = Reply::new(525, (5, 7, 13), "this account is suspended, ask your mail administrator");
                    return Err((Attempt::Suspended, reply));
                }
                let addresses = found.tenant.sender_addresses(found.name);
                let (tenant, account) = (found.tenant.name.clone(), found.name.to_owned());
                let attempt = if right == Verified::Right { Attempt::Right } else { Attempt::Remembered };
                Ok((attempt, Identity { tenant, account, login: login.to_ascii_lowercase(), addresses }))
            }
            (Ok(_), _) => {
                self.door.throttle().failed(from, &login, Instant::now());
                let tenant = tenant.map_or("", |tenant| tenant.name.as_str());
                tracing::info!(session = %self.id, client = %self.client, tenant, login, "authentication failed");
                Err((Attempt::Wrong, Reply::new(535, (5, 7, 8), "authentication failed")))
            }
            (Err(busy), _) => {
                tracing::warn!(session = %self.id, client = %self.client, %busy, "authentication put off");
                Err((Attempt::Busy, Reply::new(454, (4, 7, 0), "try again later")))
            }
        }
    }

    fn closed(&self, why: Close) {
        match why {
            Close::Quit | Close::Refused => {}
            why => tracing::info!(session = %self.id, client = %self.client, ?why, "session ended by us"),
        }
    }
}

/// Writes what the machine has to say.
async fn say<S: AsyncWrite + Unpin>(server: &mut Server, stream: &mut S) -> io::Result<()> {
    let output = server.take_output();
    if output.is_empty() {
        return Ok(());
    }
    let writing = async {
        stream.write_all(&output).await?;
        stream.flush().await
    };
    timeout(WRITING, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
