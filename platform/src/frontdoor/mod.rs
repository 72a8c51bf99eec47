//! The front door: where mail users submit.
//!
//! ```text
//!   587, 465 ─▶ admission ─▶ session ───────────────▶ hand_over ─▶ the tenant's MSA
//!               how many     TLS, AUTH: sasl,          XCLIENT, own addresses only
//!                            throttle, passwords
//! ```
//!
//! It answers EHLO before it knows the tenant, so what it offers is the fixed set that every MSA has to offer. It stores nothing: a `250`
//! for a message is the MSA's.

pub mod admission;
pub mod counts;
mod hand_over;
pub mod passwords;
pub mod sasl;
mod session;
#[cfg(test)]
mod tests;
pub mod throttle;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use warren_control::{CellId, Entrance, TenantName};
use warren_daemon::{Accepting, Draining};
use warren_smtp::{Extensions, Reply};

use crate::{
    books::{Book, Books},
    fleet::{ColdStart, Connection, Handle, Unavailable},
    rates,
};
use admission::{Admission, Bounds, Place};
use counts::Welcome;
use passwords::Verifier;
use session::Session;
use throttle::Throttle;

/// Its own connection, and the one to its MSA.
const DESCRIPTORS_OF_A_CLIENT: usize = 2;

/// Gets connections into MSAs: the fleet, or a test's.
pub trait Wake: Clone + Send + Sync + 'static {
    /// A connection to the submission entrance of a tenant. `stale`: the cell of one that ended before its banner.
    fn connect(
        &self,
        tenant: &TenantName,
        stale: Option<CellId>,
    ) -> impl Future<Output = Result<Connection, Unavailable>> + Send;

    /// The banner came at this time.
    fn banner(&self, cold: ColdStart, at: Instant);

    /// Whether an operator suspended the tenant: then its right passwords are refused too.
    fn is_suspended(&self, tenant: &TenantName) -> bool {
        let _ = tenant;
        false
    }
}

impl Wake for Handle {
    async fn connect(&self, tenant: &TenantName, stale: Option<CellId>) -> Result<Connection, Unavailable> {
        Handle::connect(self, tenant, Entrance::Submission, stale).await
    }

    fn banner(&self, cold: ColdStart, at: Instant) {
        Handle::banner(self, cold, at);
    }

    fn is_suspended(&self, tenant: &TenantName) -> bool {
        Handle::is_suspended(self, tenant)
    }
}

/// What all sessions share.
pub struct FrontDoor<W> {
    books: Arc<Books>,
    tls: RwLock<Arc<ServerConfig>>,
    verifier: Verifier,
    rates: Arc<rates::Counts>,
    counts: Arc<counts::Counts>,
    throttle: Mutex<Throttle>,
    admission: Admission,
    accepting: Accepting,
    wake: W,
    draining: Draining,
}

/// A listener, and whether it speaks TLS from the first byte.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening.
    pub socket: TcpListener,
    /// Port 465.
    pub tls_first: bool,
}

impl<W: Wake> FrontDoor<W> {
    /// A front door without listeners yet.
    pub fn new(
        books: Arc<Books>,
        tls: Arc<ServerConfig>,
        wake: W,
        rates: Arc<rates::Counts>,
        draining: Draining,
        verifier: Verifier,
    ) -> Arc<FrontDoor<W>> {
        let limits = &books.current().node.limits;
        // Tenants that are awake have the other half: see `fleet::Policy::within`.
        let most = warren_daemon::descriptors() / 2 / DESCRIPTORS_OF_A_CLIENT;
        let sessions = (limits.connections as usize).min(most);
        let bounds = Bounds { sessions, per_address: limits.connections_per_address as usize };
        Arc::new(FrontDoor {
            books,
            tls: RwLock::new(tls),
            verifier,
            rates,
            counts: Arc::default(),
            throttle: Mutex::default(),
            admission: Admission::new(bounds),
            accepting: Accepting::default(),
            wake,
            draining,
        })
    }

    /// Takes clients until the program drains. Sessions that are open then go on by themselves.
    pub async fn accept(self: Arc<Self>, listener: Listener) {
        let mut draining = self.draining.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.socket.accept() => accepted,
                () = draining.wait() => return,
            };
            match accepted {
                Ok((stream, client)) => self.welcome(stream, client, listener.tls_first),
                // Out of descriptors, most likely: one that closes makes room, and trying at once would only burn time.
                Err(error) => self.accepting.failed(&error, "submission").await,
            }
        }
    }

    fn welcome(self: &Arc<Self>, stream: TcpStream, client: SocketAddr, tls_first: bool) {
        let (how, refusal) = if self.throttle().admits(client.ip(), Instant::now()) {
            match self.admission.admit(client.ip()) {
                Ok(place) => {
                    self.counts.welcome(Welcome::Taken);
                    return self.serve(stream, client, tls_first, place);
                }
                Err(refused @ admission::Refused::Address) => {
                    (Welcome::Address, Reply::new(421, (4, 7, 0), refused.to_string()))
                }
                Err(refused @ admission::Refused::Full) => {
                    (Welcome::Full, Reply::new(421, (4, 3, 2), refused.to_string()))
                }
            }
        } else {
            (Welcome::Failures, Reply::new(421, (4, 7, 0), "too many failures, come back later"))
        };
        self.counts.welcome(how);
        tracing::info!(%client, reply = %refusal.text(), "client turned away");
        // On 465 a reply in the clear would be noise in a handshake.
        if !tls_first {
            tokio::spawn(turn_away(stream, refusal));
        }
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, client: SocketAddr, tls_first: bool, place: Place) {
        let id = session_id();
        let session = Session::new(Arc::clone(self), client, id.clone(), place);
        tokio::spawn(async move {
            // Replies are small and answered one by one.
            let served = match stream.set_nodelay(true) {
                Ok(()) => session.serve(stream, tls_first).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::debug!(session = %id, %client, %error, "session broke off");
            }
        });
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.admission.sessions()
    }

    /// What came of clients since the start.
    pub fn counts(&self) -> &Arc<counts::Counts> {
        &self.counts
    }

    /// Waits until no session is left.
    pub async fn empty(&self) {
        while self.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Uses another certificate from now on.
    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> Arc<Book> {
        self.books.current()
    }

    fn hostname(&self) -> String {
        self.book().node.hostname.clone()
    }

    /// What every MSA offers, and so what is offered before the MSA is known.
    fn carried(&self) -> Extensions {
        Extensions {
            pipelining: true,
            size: Some(self.book().node.limits.message_size),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            enhanced_status_codes: true,
            chunking: true,
            ..Extensions::default()
        }
    }

    /// What EHLO offers before AUTH, in the clear or inside TLS.
    fn offered(&self, tls: bool) -> Extensions {
        let auth = if tls { vec!["PLAIN".to_owned(), "LOGIN".to_owned()] } else { Vec::new() };
        Extensions { starttls: !tls, auth, ..self.carried() }
    }
}

async fn turn_away(mut stream: TcpStream, reply: Reply) {
    let say = async {
        stream.write_all(&reply.to_bytes()).await?;
        stream.shutdown().await
    };
    let _: Result<io::Result<()>, _> = timeout(Duration::from_secs(2), say).await;
}

/// Names a session in the logs.
fn session_id() -> String {
    // A session without a random name is still a session.
    format!("{:016x}", getrandom::u64().unwrap_or_default())
}
