//! Visitors of sleeping tenants, many at once, as the receiver comes: a connection to the relay entrance, asked of the platform's socket.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use warren_control::api::Status;
use warren_control::{ApiReply, ApiRequest, CellId, Entrance, TenantName};
use warren_packet::aio::AsyncPackets;

use crate::Node;

/// The platform answers within its own deadline; this is for the case that it does not.
const PATIENCE: Duration = Duration::from_secs(120);
/// Questions that are open on one connection; the platform takes 256.
const AT_ONCE: usize = 200;
/// An MSA that hung up before its banner was falling asleep: the platform is asked once more, as its front door and the receiver do.
const TRIES: usize = 2;

/// What became of a visit.
#[derive(Debug)]
pub struct Visit {
    /// Whose MSA was wanted.
    pub tenant: String,
    /// When the banner was there, since all visitors set out; or why there was none.
    pub banner: Result<Duration, String>,
    /// How often the MSA hung up before its banner.
    pub hung_up: usize,
    /// Where the banner came from.
    pub cell: Option<CellId>,
}

/// Visits all these tenants at once, each as often as it is named, and waits for the banners.
pub fn visit_all(node: &Node<'_>, tenants: &[String]) -> Vec<Visit> {
    let socket = node.run_dir().join("platform.sock");
    runtime().block_on(async {
        let set_out = Instant::now();
        let mut visits = Vec::new();
        for party in tenants.chunks(AT_ONCE) {
            let desk = Arc::new(Desk::open(&socket));
            for tenant in party {
                let (desk, tenant) = (Arc::clone(&desk), tenant.clone());
                visits.push(tokio::spawn(async move { visit(&desk, tenant, set_out).await }));
            }
        }
        let mut seen = Vec::new();
        for visit in visits {
            seen.push(visit.await.unwrap());
        }
        seen
    })
}

/// Connections to a tenant's relay entrance, on which its MSA has yet to say something; none is given up as long as it is held.
pub fn enter(node: &Node<'_>, tenant: &str, count: usize) -> Vec<std::net::TcpStream> {
    let socket = node.run_dir().join("platform.sock");
    runtime().block_on(async {
        let desk = Desk::open(&socket);
        let mut streams = Vec::new();
        for _ in 0..count {
            let (_, socket) = connected(&desk, tenant, None).await.unwrap();
            let stream = std::net::TcpStream::from(socket);
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            streams.push(stream);
        }
        streams
    })
}

/// How the fleet is.
pub fn status(node: &Node<'_>) -> Status {
    let socket = node.run_dir().join("platform.sock");
    runtime().block_on(async {
        match Desk::open(&socket).ask(|tag| ApiRequest::Status { tag }).await {
            Ok((ApiReply::Status { status, .. }, _)) => *status,
            other => panic!("asked how the fleet is, the platform said {other:?}"),
        }
    })
}

/// A number of the status by its name.
pub fn counter(status: &Status, name: &str) -> u64 {
    status.counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn visit(desk: &Desk, tenant: String, set_out: Instant) -> Visit {
    let (mut stale, mut hung_up, mut served) = (None, 0, None);
    let banner = loop {
        match one_try(desk, &tenant, stale).await {
            Ok((cell, false)) if hung_up + 1 < TRIES => (stale, hung_up) = (Some(cell), hung_up + 1),
            Ok((_, false)) => break Err("it hung up before its banner, twice".into()),
            Ok((cell, true)) => {
                served = Some(cell);
                break Ok(set_out.elapsed());
            }
            Err(reason) => break Err(reason),
        }
    };
    Visit { tenant, banner, hung_up, cell: served }
}

/// The cell that was reached, and whether it greeted.
async fn one_try(desk: &Desk, tenant: &str, stale: Option<CellId>) -> Result<(CellId, bool), String> {
    let (cell, socket) = connected(desk, tenant, stale).await?;
    Ok((cell, greeted(socket).await?))
}

async fn connected(desk: &Desk, tenant: &str, stale: Option<CellId>) -> Result<(CellId, OwnedFd), String> {
    let name = TenantName::new(tenant).map_err(|e| e.to_string())?;
    let wanted = |tag| ApiRequest::Connect { tag, tenant: name, entrance: Entrance::Relay, stale, recipients: 1 };
    match desk.ask(wanted).await? {
        (ApiReply::Connected { cell, .. }, mut descriptors) => {
            let socket = descriptors.pop().ok_or("connected, but without a connection")?;
            Ok((cell, socket))
        }
        (ApiReply::Unavailable { reason, .. }, _) => Err(reason),
        (other, _) => Err(format!("{other:?}")),
    }
}

/// Whether there is a banner before the end.
async fn greeted(socket: OwnedFd) -> Result<bool, String> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut stream = TcpStream::from_std(stream).map_err(|e| e.to_string())?;
    let mut banner = Vec::new();
    let read = async {
        let mut buffer = [0; 512];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => banner.extend_from_slice(&buffer[..n]),
            }
            if banner.ends_with(b"\r\n") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| "connected, but no banner came")?;
    match banner.as_slice() {
        [] => Ok(false),
        greeting if greeting.starts_with(b"220 ") => Ok(true),
        other => Err(format!("the banner was {:?}", String::from_utf8_lossy(other))),
    }
}

type Answer = (ApiReply, Vec<OwnedFd>);

/// A connection to the platform's socket for many questions, whose answers come in any order.
struct Desk {
    packets: Arc<AsyncPackets>,
    places: Semaphore,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    tags: AtomicU64,
    listens: tokio::task::JoinHandle<()>,
}

impl Desk {
    fn open(socket: &Path) -> Desk {
        let packets = Arc::new(AsyncPackets::connect(socket).expect("the node is up"));
        let asked: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>> = Arc::default();
        let listens = tokio::spawn({
            let (packets, asked) = (Arc::clone(&packets), Arc::clone(&asked));
            async move {
                while let Ok(Some((reply, descriptors))) = packets.recv::<ApiReply>().await {
                    if let Some(who) = asked.lock().unwrap().remove(&reply.tag()) {
                        let _ = who.send((reply, descriptors));
                    }
                }
                // Whoever still waits hears that there will be nothing.
                asked.lock().unwrap().clear();
            }
        });
        Desk { packets, places: Semaphore::new(AT_ONCE), asked, tags: AtomicU64::new(1), listens }
    }

    async fn ask(&self, request: impl FnOnce(u64) -> ApiRequest) -> Result<Answer, String> {
        let _place = self.places.acquire().await.map_err(|e| e.to_string())?;
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.asked.lock().unwrap().insert(tag, sender);
        self.packets.send(&request(tag), &[]).await.map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| "the platform gave no answer")?;
        answer.map_err(|_| "the platform hung up".into())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.listens.abort();
    }
}
