//! What the front door and the API ask of the fleet.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{Ipv4Addr, TcpStream as StdTcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::{timeout, timeout_at},
};
use warren_control::{
    Entrance, Outcome,
    api::{Status, TenantInfo},
};
use warren_launcher_api::{CellId, CellUse, MAX_INSPECTED, TenantName};

use super::words::Refusal;
use crate::suspended::Suspended;

/// How long the launcher may take to tell how it is or what containers use, before the question is answered without.
const INSPECTION: Duration = Duration::from_secs(2);

/// How long a connection into a cell is silent before the kernel asks whether there still is a peer.
const PROBE: Duration = Duration::from_secs(1);
/// How often a connection is tried that finds the entrance closed. More than twice only where the machine is so busy that a
/// container is idle again before its client gets a turn.
const TRIES: usize = 4;
/// How long a program of an operator may take, with the image's own limit well within.
const PROGRAM: Duration = Duration::from_secs(40);
/// How late the performer may be.
const GRACE: Duration = Duration::from_secs(1);

/// Why there is no connection to a tenant's MSA. The mail is put off; the cause is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The fleet refused.
    #[error("tenant {tenant} could not be woken: {why}{}", .cause.as_deref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Refused {
        /// Whom.
        tenant: TenantName,
        /// Why.
        why: Refusal,
        /// What went wrong last time, if something did.
        cause: Option<String>,
    },
    /// The MSA's entrance was closed at every try.
    #[error("tenant {tenant}'s entrance was closed at every try")]
    HungUp {
        /// Whose.
        tenant: TenantName,
    },
    /// The entrance did not accept.
    #[error("tenant {tenant}'s {entrance:?} entrance: {source}")]
    Connect {
        /// Whose.
        tenant: TenantName,
        /// Which.
        entrance: Entrance,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list of suspended tenants could not be written; nothing changed.
    #[error("writing the list of suspended tenants: {0}")]
    Unwritten(io::Error),
    /// The platform is going down.
    #[error("the platform is ending")]
    Ending,
}

impl Unavailable {
    /// Its volume holds too much: `452 4.3.1`.
    pub fn is_full(&self) -> bool {
        matches!(self, Unavailable::Refused { why: Refusal::Full, .. })
    }
}

/// How a tenant came to be awake for the one who holds this; given back at the banner, it becomes a number of the histogram.
#[derive(Debug)]
pub struct ColdStart {
    /// When the tenant was wanted.
    pub(super) wanted: Instant,
    /// When the connection was made.
    pub(super) connected: Instant,
    /// Whether a warm slot was there.
    pub(super) warm: bool,
    /// What took how long until the socket was handed out.
    pub(super) stages: Vec<(String, Duration)>,
}

/// A connection into a tenant's MSA on which nothing was said yet.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub stream: TcpStream,
    /// Where it leads. Name it as `stale` when it ends before its banner.
    pub cell: CellId,
    /// Set for the one connection that woke the tenant.
    pub cold: Option<ColdStart>,
}

/// An unconnected socket in a tenant's cell.
#[derive(Debug)]
pub(super) struct Socket {
    pub socket: OwnedFd,
    pub port: u16,
    pub cell: CellId,
    pub cold: Option<ColdStart>,
    /// Whether the MSA said that its entrances are served; gone with the cell.
    pub serves: watch::Receiver<bool>,
}

/// What waits for an answer of the performer.
#[derive(Debug)]
pub(super) enum Reply {
    Socket(Entrance, oneshot::Sender<Result<Socket, Unavailable>>),
    Done(oneshot::Sender<Result<(), Unavailable>>),
}

#[derive(Debug)]
pub(super) enum Order {
    Want { tenant: TenantName, stale: Option<CellId>, wanted: Instant, deadline: Instant, reply: Reply },
    Unwant { tenant: TenantName, deadline: Instant, reply: Reply },
    Banner(ColdStart, Instant),
    Status(oneshot::Sender<Status>),
    Describe(Vec<TenantInfo>, oneshot::Sender<Described>),
    Inspect(Vec<CellId>, oneshot::Sender<Vec<CellUse>>),
    Launcher(oneshot::Sender<warren_launcher_api::Status>),
    Cells(oneshot::Sender<Vec<(CellId, TenantName)>>),
    Suspension(TenantName),
    Exec(TenantName, Vec<String>, oneshot::Sender<Outcome>),
    Active(usize, oneshot::Sender<Vec<TenantName>>),
    Changed(Changes),
}

/// Tenants, and the cells of those that run.
pub(super) type Described = (Vec<TenantInfo>, Vec<Option<CellId>>);

/// What a reload of the directory changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whose MSA must know new settings.
    pub settings: Vec<TenantName>,
    /// Whose container must be made anew.
    pub container: Vec<TenantName>,
    /// Who is no more.
    pub removed: Vec<TenantName>,
}

/// The fleet, for those who need somebody awake. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) suspended: Arc<Suspended>,
    pub(super) start_deadline: Duration,
    pub(super) sleep_deadline: Duration,
}

impl Handle {
    /// A connection to the tenant's entrance, which wakes the tenant if it sleeps. `stale` is the cell of an earlier connection that
    /// ended before its banner.
    pub async fn connect(
        &self,
        tenant: &TenantName,
        entrance: Entrance,
        mut stale: Option<CellId>,
    ) -> Result<Connection, Unavailable> {
        let wanted = Instant::now();
        let deadline = wanted + self.start_deadline;
        for _ in 0..TRIES {
            let (sender, receiver) = oneshot::channel();
            let reply = Reply::Socket(entrance, sender);
            self.order(Order::Want { tenant: tenant.clone(), stale, wanted, deadline, reply }).await?;
            // The performer answers at the deadline, and knows why; this is for the case that it does not.
            let answer = timeout_at((deadline + GRACE).into(), receiver).await.map_err(|_| Unavailable::Refused {
                tenant: tenant.clone(),
                why: Refusal::Late,
                cause: None,
            })?;
            let Socket { socket, port, cell, cold, serves } = answer.map_err(|_| Unavailable::Ending)??;
            match timeout_at(deadline.into(), dial(socket, port, serves)).await {
                Ok(Ok(stream)) => {
                    let cold = cold.map(|cold| ColdStart { connected: Instant::now(), ..cold });
                    return Ok(Connection { stream, cell, cold });
                }
                // The entrance was closed before, or just as we came: it was falling asleep.
                Ok(Err(error)) if is_closed(&error) => stale = Some(cell),
                Ok(Err(source)) => return Err(Unavailable::Connect { tenant: tenant.clone(), entrance, source }),
                Err(_) => {
                    let why = Refusal::Late;
                    return Err(Unavailable::Refused { tenant: tenant.clone(), why, cause: None });
                }
            }
        }
        Err(Unavailable::HungUp { tenant: tenant.clone() })
    }

    /// Wakes a tenant.
    pub async fn wake(&self, tenant: &TenantName) -> Result<(), Unavailable> {
        let (sender, receiver) = oneshot::channel();
        let (wanted, tenant) = (Instant::now(), tenant.clone());
        let (deadline, reply) = (wanted + self.start_deadline, Reply::Done(sender));
        self.order(Order::Want { tenant, stale: None, wanted, deadline, reply }).await?;
        receiver.await.map_err(|_| Unavailable::Ending)?
    }

    /// Puts a tenant to sleep once its sessions are over.
    pub async fn sleep(&self, tenant: &TenantName) -> Result<(), Unavailable> {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.sleep_deadline;
        self.order(Order::Unwant { tenant: tenant.clone(), deadline, reply: Reply::Done(sender) }).await?;
        receiver.await.map_err(|_| Unavailable::Ending)?
    }

    /// Runs a program of the tenant's image in its container, which is woken for it.
    pub async fn exec(&self, tenant: &TenantName, args: Vec<String>) -> Result<Outcome, Unavailable> {
        self.wake(tenant).await?;
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Exec(tenant.clone(), args, sender)).await?;
        Ok(match timeout(PROGRAM, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::failed("the container went away"),
            Err(_) => Outcome::failed("no answer: the image does not know how to run programs"),
        })
    }

    /// The banner came at this time: the cold start is over.
    pub fn banner(&self, cold: ColdStart, at: Instant) {
        // Only a number is lost when the performer is busy or gone.
        let _ = self.orders.try_send(Order::Banner(cold, at));
    }

    /// How the fleet is. The caller fills in what is not the fleet's.
    pub async fn status(&self) -> Result<Status, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Status(sender)).await?;
        receiver.await.map_err(|_| Unavailable::Ending)
    }

    /// Fills in what the fleet knows of these tenants.
    pub async fn describe(&self, tenants: Vec<TenantInfo>) -> Result<Vec<TenantInfo>, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Describe(tenants, sender)).await?;
        let (mut tenants, cells) = receiver.await.map_err(|_| Unavailable::Ending)?;
        let found = self.inspect(cells.iter().flatten().copied().collect()).await?;
        for (tenant, cell) in tenants.iter_mut().zip(cells) {
            tenant.memory_bytes = found.iter().find(|found| Some(found.cell) == cell).and_then(|f| f.memory_bytes);
        }
        Ok(tenants)
    }

    /// At most so many tenants that were active last: those that run, the youngest first, then those that went.
    pub async fn active(&self, most: usize) -> Result<Vec<TenantName>, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Active(most, sender)).await?;
        receiver.await.map_err(|_| Unavailable::Ending)
    }

    /// Tenants whose container runs an image that was replaced since, by name.
    pub async fn outdated(&self) -> Result<BTreeSet<TenantName>, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Cells(sender)).await?;
        let cells = receiver.await.map_err(|_| Unavailable::Ending)?;
        let mut tenants: HashMap<CellId, TenantName> = cells.into_iter().collect();
        let all: Vec<CellId> = tenants.keys().copied().collect();
        let mut outdated = BTreeSet::new();
        for part in all.chunks(MAX_INSPECTED) {
            let found = self.inspect(part.to_vec()).await?;
            outdated
                .extend(found.iter().filter(|found| found.outdated).filter_map(|found| tenants.remove(&found.cell)));
        }
        Ok(outdated)
    }

    /// What the launcher knows of these cells; nothing, when it is away or takes too long.
    async fn inspect(&self, cells: Vec<CellId>) -> Result<Vec<CellUse>, Unavailable> {
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Inspect(cells, sender)).await?;
        Ok(timeout(INSPECTION, receiver).await.ok().and_then(Result::ok).unwrap_or_default())
    }

    /// How the launcher is; none, when it is away or takes too long.
    pub async fn launcher(&self) -> Result<Option<warren_launcher_api::Status>, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Launcher(sender)).await?;
        Ok(timeout(INSPECTION, receiver).await.ok().and_then(Result::ok))
    }

    /// Whether an operator suspended the tenant.
    pub fn is_suspended(&self, tenant: &TenantName) -> bool {
        self.suspended.contains(tenant)
    }

    /// Puts a tenant to sleep, and wakes it for nobody until it is resumed; returns when it sleeps. Survives restarts.
    pub async fn suspend(&self, tenant: &TenantName) -> Result<(), Unavailable> {
        self.set_suspended(tenant, true).await?;
        self.sleep(tenant).await
    }

    /// Undoes a suspension.
    pub async fn resume(&self, tenant: &TenantName) -> Result<(), Unavailable> {
        self.set_suspended(tenant, false).await
    }

    async fn set_suspended(&self, tenant: &TenantName, suspended: bool) -> Result<(), Unavailable> {
        let (list, name) = (Arc::clone(&self.suspended), tenant.clone());
        let written = tokio::task::spawn_blocking(move || list.set(&name, suspended)).await;
        written.map_err(|_| Unavailable::Ending)?.map_err(Unavailable::Unwritten)?;
        self.order(Order::Suspension(tenant.clone())).await
    }

    /// The directory has changed; the register answers for the new one already.
    pub async fn changed(&self, changes: Changes) -> Result<(), Unavailable> {
        self.order(Order::Changed(changes)).await
    }

    async fn order(&self, order: Order) -> Result<(), Unavailable> {
        self.orders.send(order).await.map_err(|_| Unavailable::Ending)
    }
}

/// A connection that waited to be accepted when its listener closed is reset.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

/// Connects a socket that was made in the cell. An image that listens itself refuses until it does, and says when; after that, and for
/// every other image, a refusal means that it falls asleep.
async fn dial(socket: OwnedFd, port: u16, mut serves: watch::Receiver<bool>) -> io::Result<TcpStream> {
    if *serves.borrow() {
        return dial_once(socket, port).await;
    }
    let again = socket.try_clone()?;
    match dial_once(socket, port).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            serves.wait_for(|serves| *serves).await.map_err(|_| error)?;
            // Linux first tells once more that the earlier attempt came to nothing.
            match dial_once(again.try_clone()?, port).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => dial_once(again, port).await,
                dialled => dialled,
            }
        }
        dialled => dialled,
    }
}

/// "127.0.0.1" is the cell's.
async fn dial_once(socket: OwnedFd, port: u16) -> io::Result<TcpStream> {
    let socket = StdTcpStream::from(socket);
    socket.set_nonblocking(true)?;
    let stream = TcpSocket::from_std_stream(socket).connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    // A listener that closes within our handshake can leave us connected to nobody, without a word from the kernel. The first probe is
    // answered by a reset, which means what any end before the banner does.
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE))?;
    Ok(stream)
}
