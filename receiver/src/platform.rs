//! Questions to the platform: where does mail to this address go, and a connection into a tenant's MSA.
//!
//! One connection serves all sessions; replies find their question by tag. When the platform is away, questions fail at once, the remote
//! host gets a 4xx and comes back; the next question tries to connect again.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use warren_control::api::{ApiReply, ApiRequest, Entrance, Verdict};
use warren_launcher_api::{CellId, TenantName};
use warren_packet::PacketError;
use warren_packet::aio::AsyncPackets;

/// How long the directory may think about an address.
const RECIPIENT_DEADLINE: Duration = Duration::from_secs(10);
/// How long waking a tenant may take; the platform gives up earlier by itself.
const CONNECT_DEADLINE: Duration = Duration::from_secs(60);

/// Why a question was not answered. All of these pass: the mail is put off.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection, or it broke.
    #[error("platform at {}: {source}", path.display())]
    Away {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        source: PacketError,
    },
    /// The connection ended before the answer.
    #[error("the platform went away")]
    Lost,
    /// It took too long.
    #[error("the platform did not answer in time")]
    Slow,
    /// It cannot now.
    #[error("the platform says: {0}")]
    Unavailable(String),
    /// The tenant has forwarded its share of this hour; the text is for the remote host.
    #[error("{0}")]
    OverLimit(String),
    /// It answered something else.
    #[error("the platform gave an answer that does not fit")]
    Misfit,
}

type Answer = (ApiReply, Vec<OwnedFd>);
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// The platform's socket.
#[derive(Debug)]
pub struct Platform {
    path: PathBuf,
    tag: AtomicU64,
    line: Mutex<Option<Line>>,
}

/// An open connection. Its map is gone once it broke.
#[derive(Debug, Clone)]
struct Line {
    packets: Arc<AsyncPackets>,
    waiting: Waiting,
}

impl Platform {
    /// The platform behind a socket. Nothing is connected yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path, tag: AtomicU64::new(1), line: Mutex::new(None) }
    }

    /// What becomes of mail to `address`.
    pub async fn recipient(&self, address: String) -> Result<Verdict, AskError> {
        let answer = self.ask(RECIPIENT_DEADLINE, |tag| ApiRequest::Recipient { tag, address }).await?;
        match answer {
            (ApiReply::Recipient { verdict, .. }, _) => Ok(verdict),
            (ApiReply::Unavailable { reason, .. }, _) => Err(AskError::Unavailable(reason)),
            _ => Err(AskError::Misfit),
        }
    }

    /// A connection to the relay entrance of a tenant's MSA, for a message to so many recipients. `stale` is the cell of a connection that ended before its banner.
    pub async fn relay(
        &self,
        tenant: &TenantName,
        recipients: u32,
        stale: Option<CellId>,
    ) -> Result<(CellId, TcpStream), AskError> {
        let (tenant, entrance) = (tenant.clone(), Entrance::Relay);
        let request = |tag| ApiRequest::Connect { tag, tenant, entrance, stale, recipients };
        match self.ask(CONNECT_DEADLINE, request).await? {
            (ApiReply::Connected { cell, .. }, descriptors) => match <[OwnedFd; 1]>::try_from(descriptors) {
                Ok([descriptor]) => Ok((cell, TcpStream::from(descriptor))),
                Err(_) => Err(AskError::Misfit),
            },
            (ApiReply::OverLimit { text, .. }, _) => Err(AskError::OverLimit(text)),
            (ApiReply::Unavailable { reason, .. }, _) => Err(AskError::Unavailable(reason)),
            _ => Err(AskError::Misfit),
        }
    }

    async fn ask(&self, deadline: Duration, request: impl FnOnce(u64) -> ApiRequest) -> Result<Answer, AskError> {
        let line = self.line()?;
        let tag = self.tag.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match lock(&line.waiting).as_mut() {
            Some(waiting) => waiting.insert(tag, sender),
            None => return Err(AskError::Lost),
        };
        // Whoever gives up, also by being dropped, must not stay in the map.
        let _entry = Entry { waiting: Arc::clone(&line.waiting), tag };
        let asked = async {
            let sent = line.packets.send(&request(tag), &[]).await;
            sent.map_err(|source| AskError::Away { path: self.path.clone(), source })?;
            receiver.await.map_err(|_| AskError::Lost)
        };
        tokio::time::timeout(deadline, asked).await.map_err(|_| AskError::Slow)?
    }

    /// The open connection, or a new one.
    fn line(&self) -> Result<Line, AskError> {
        let mut slot = lock(&self.line);
        if let Some(line) = slot.as_ref().filter(|line| lock(&line.waiting).is_some()) {
            return Ok(line.clone());
        }
        let packets =
            AsyncPackets::connect(&self.path).map_err(|source| AskError::Away { path: self.path.clone(), source })?;
        let line = Line { packets: Arc::new(packets), waiting: Arc::new(Mutex::new(Some(HashMap::new()))) };
        tokio::spawn(listen(line.clone()));
        *slot = Some(line.clone());
        Ok(line)
    }
}

/// Takes answers until the connection ends; then everybody who waits learns it.
async fn listen(line: Line) {
    loop {
        match line.packets.recv::<ApiReply>().await {
            Ok(Some((reply, descriptors))) => {
                let asker = lock(&line.waiting).as_mut().and_then(|waiting| waiting.remove(&reply.tag()));
                // Nobody: it gave up. Descriptors close by being dropped.
                if let Some(asker) = asker {
                    let _ = asker.send((reply, descriptors));
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!("platform: {error}");
                break;
            }
        }
    }
    *lock(&line.waiting) = None;
}

struct Entry {
    waiting: Waiting,
    tag: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.remove(&self.tag);
        }
    }
}

/// A panic elsewhere leaves these maps whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
