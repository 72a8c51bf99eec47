//! Ten thousand visitors who come just as their tenant falls asleep: each is served, by this life of its MSA or the next.
//!
//! ```text
//!   visitor ──▶ mediator ──▶ fleet's performer ◀──▶ a launcher, played here: its containers are
//!                  │                                MSAs in threads of this process, on loopback
//!                  └───── real sockets ────────────────────▲
//! ```
//!
//! Fleet, mediator and MSA are the real ones. Each visitor comes a little earlier or later than the one before, depending on whether
//! that one found the MSA still there, so that nearly all of them come at the edge.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdUnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use warren_control::{CellId, Entrance, Retry, Settings, TenantName};
use warren_launcher_api::{Event, ExitStatus, ImageName, Limits, Request, VERSION, WOKEN_TCP_SOCKETS};
use warren_msa::control::Control;
use warren_msa::delivery::{dial::Port25, dns::Door};
use warren_msa::life::{DRAIN, Parts, Sockets, run};
use warren_packet::{
    PacketListener,
    aio::{AsyncListener, AsyncPackets},
};
use warren_platform::fleet::{self, Doors, Handle, Launch, Setup, policy::Policy};
use warren_platform::suspended::Suspended;
use warren_smtp::Reply;
use warren_smtp::command::{Xclient, XclientProtocol};
use warren_smtp::mediator::{self, HandOver, Mediator, Observer};
use warren_wire::relay::{Upstream, relay};

const RACES: usize = 10_000;
/// So many visitors must be enough for that many races: about one in two comes just in time.
const VISITS: usize = 10 * RACES;
const LANES: u16 = 8;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// One tenant, its platform and its launcher.
struct Lane {
    fleet: Handle,
    tenant: TenantName,
    /// Containers that the launcher has not said to be gone.
    alive: Arc<AtomicUsize>,
}

fn settings(tenant: &TenantName) -> Settings {
    Settings {
        tenant: tenant.clone(),
        hostname: "mail.example.net".into(),
        domains: vec!["acme.example".into()],
        accounts: [("alice@acme.example".into(), vec!["alice@acme.example".into()])].into(),
        max_message_bytes: 1 << 20,
        max_recipients: 10,
        max_queue_bytes: 1 << 20,
        idle_ms: 5,
        retry: Retry { first_ms: 1_000, factor_percent: 150, max_ms: 10_000, expire_ms: 100_000 },
        hop_limit: 100,
    }
}

impl Lane {
    async fn open(folder: &Path, number: u16) -> Lane {
        let name = format!("lane{number}");
        let tenant = TenantName::new(&name).unwrap();
        let launcher = folder.join(format!("{name}.sock"));
        let listener = AsyncListener::new(PacketListener::listen(&launcher).unwrap()).unwrap();
        let [submission, relay] = two_ports(number);
        let doors = Doors { control: format!("warren-race-{}-{number}", std::process::id()), submission, relay };
        let alive = Arc::new(AtomicUsize::new(0));
        let volume = folder.join(&name);
        std::fs::create_dir(&volume).unwrap();
        let played = Launcher { doors: doors.clone(), volume, alive: Arc::clone(&alive) };
        tokio::spawn(async move { played.serve(listener.accept().await.unwrap()).await });
        let setup = Setup {
            launcher,
            store: folder.join(format!("{name}.jsonl")),
            start_deadline: LIMIT,
            policy: Policy::default(),
            doors,
            suspended: Arc::new(Suspended::open(&folder.join(format!("{name}.suspended"))).unwrap()),
        };
        let register = |tenant: &TenantName| {
            let (image, limits) = (ImageName::new("msa").unwrap(), Limits::default());
            Some(Launch { image, limits, settings: settings(tenant) })
        };
        let fleet = fleet::start(setup, Arc::new(register), std::slice::from_ref(&tenant)).unwrap();
        Lane { fleet, tenant, alive }
    }

    /// A session from its first command to its last. How often the MSA was dialled, and the cell that served.
    async fn visit(&self) -> (usize, CellId) {
        let (here, there) = tokio::io::duplex(4096);
        let handing = HandOver {
            xclient: Some(Xclient {
                addr: Some([192, 0, 2, 1].into()),
                port: Some(4711),
                proto: Some(XclientProtocol::Esmtp),
                helo: Some("visitor.example".into()),
                login: Some("alice@acme.example".into()),
                ..Xclient::default()
            }),
            redials: 3,
            ehlo_name: "mail.example.net".into(),
            ehlo_reply: Reply::plain(250, "mail.example.net"),
            deadlines: Arc::default(),
        };
        let mut mediator = Mediator::hand_over(handing, Instant::now());
        let mut msa = Msa { lane: self, dials: 0, cell: None };
        let session = relay(&mut mediator, there, &mut msa, std::future::pending());
        let spoken = tokio::time::timeout(LIMIT, async { tokio::join!(session, talk(here)) });
        let Ok((_, said)) = spoken.await else {
            panic!("a visitor waits for ever; alive {:?}; {:?}", self.alive, self.fleet.status().await);
        };
        assert_eq!(said, ["250", "250", "221"], "dialled {} times", msa.dials);
        (msa.dials, msa.cell.unwrap())
    }
}

/// What a mail program says after it logged in; the codes of the replies.
async fn talk(stream: DuplexStream) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    let mut codes = Vec::new();
    for command in ["MAIL FROM:<alice@acme.example>\r\n", "RSET\r\n", "QUIT\r\n"] {
        stream.get_mut().write_all(command.as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        codes.push(line.chars().take(3).collect());
    }
    codes
}

/// The way to the MSA, as the front door has it.
struct Msa<'a> {
    lane: &'a Lane,
    dials: usize,
    cell: Option<CellId>,
}

impl Observer for Msa<'_> {
    fn event(&mut self, _: Instant, _: mediator::Event<'_>) {}
}

impl mediator::Policy for Msa<'_> {}

impl Upstream<DuplexStream> for Msa<'_> {
    type Stream = TcpStream;

    async fn dial(&mut self) -> Result<TcpStream, Reply> {
        self.dials += 1;
        let connected = self.lane.fleet.connect(&self.lane.tenant, Entrance::Submission, self.cell).await;
        let connection = connected.unwrap_or_else(|error| panic!("no connection: {error}"));
        self.cell = Some(connection.cell);
        Ok(connection.stream)
    }
}

/// Two ports that nobody gets by chance: below those that the kernel hands out.
fn two_ports(lane: u16) -> [u16; 2] {
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10 + lane * 2;
    let free = |port: &u16| StdTcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = (first..30_000).chain(10_000..20_000).filter(free);
    [ports.next().unwrap(), ports.next().unwrap()]
}

/// What a launcher does, for one tenant.
struct Launcher {
    doors: Doors,
    volume: PathBuf,
    alive: Arc<AtomicUsize>,
}

impl Launcher {
    async fn serve(self, platform: AsyncPackets) {
        let platform = Arc::new(platform);
        let cells = AtomicU64::new(0);
        while let Ok(Some((request, _))) = platform.recv::<Request>().await {
            let (answer, descriptors) = match request {
                Request::Hello { .. } => (Event::Welcome { version: VERSION }, vec![]),
                Request::List { tag } => (Event::Cells { tag, cells: vec![], more: false }, vec![]),
                Request::Due { tag, .. } => (Event::Due { tag, due: vec![] }, vec![]),
                Request::Stop { tag, .. } => (Event::Stopped { tag }, vec![]),
                Request::Sockets { tag, tcp, control, .. } => {
                    let all = (0..tcp).map(|_| tcp_socket()).chain((0..control).map(|_| unix_socket()));
                    (Event::Sockets { tag }, all.collect())
                }
                Request::Wake { tag, tenant, .. } => {
                    let cell = CellId(cells.fetch_add(1, Ordering::Relaxed) + 1);
                    self.start(cell, tenant, &platform);
                    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
                    let sockets = (0..WOKEN_TCP_SOCKETS).map(|_| tcp_socket());
                    let descriptors = [pidfd, unix_socket()].into_iter().chain(sockets).collect();
                    (Event::Woken { tag, cell, slot: true, stages: vec![] }, descriptors)
                }
                _ => continue,
            };
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            platform.send(&answer, &descriptors).await.unwrap();
        }
    }

    /// The listeners are there before the MSA is, as in a cell; when it has ended, they are gone with it.
    fn start(&self, cell: CellId, tenant: TenantName, platform: &Arc<AsyncPackets>) {
        assert_eq!(self.alive.fetch_add(1, Ordering::SeqCst), 0, "two containers of one tenant");
        let (alive, platform) = (Arc::clone(&self.alive), Arc::clone(platform));
        let tcp = |port| StdTcpListener::bind(("127.0.0.1", port)).unwrap();
        let (submission, relay) = (tcp(self.doors.submission), tcp(self.doors.relay));
        let name = SocketAddr::from_abstract_name(&self.doors.control).unwrap();
        let control = StdUnixListener::bind_addr(&name).unwrap();
        let volume = self.volume.clone();
        let life = tokio::task::spawn_blocking(move || live(volume, submission, relay, control).unwrap());
        tokio::spawn(async move {
            life.await.unwrap();
            alive.fetch_sub(1, Ordering::SeqCst);
            let exited = Event::Exited { cell, tenant, status: ExitStatus::Code(0) };
            // Nobody listens at the end of the test.
            let _ = platform.send(&exited, &[]).await;
        });
    }
}

/// The life of one MSA, as in its `main`.
fn live(
    volume: PathBuf,
    submission: StdTcpListener,
    relay: StdTcpListener,
    control: StdUnixListener,
) -> io::Result<()> {
    submission.set_nonblocking(true)?;
    relay.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let sockets = Sockets {
            submission: TcpListener::from_std(submission)?,
            relay: TcpListener::from_std(relay)?,
            control: UnixListener::from_std(control)?,
        };
        let parts = Parts {
            volume,
            resolver: Arc::new(Door::default()),
            dialer: Arc::new(Port25),
            control: Control::default(),
            started: Instant::now(),
            drain: DRAIN,
        };
        run(sockets, parts).await;
        Ok(())
    })
}

fn tcp_socket() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
}

fn unix_socket() -> OwnedFd {
    socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
}

#[test]
fn ten_thousand_come_as_their_tenant_falls_asleep() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (races, visits, dialled_again) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..LANES {
            let lane = runtime.block_on(Lane::open(folder.path(), number));
            let (handle, races, visits, dialled_again) = (runtime.handle(), &races, &visits, &dialled_again);
            scope.spawn(move || {
                let (mut last, mut pause) = (None, Duration::from_millis(5));
                while races.load(Ordering::Relaxed) < RACES && visits.fetch_add(1, Ordering::Relaxed) < VISITS {
                    // When to come is what this is about.
                    std::thread::park_timeout(pause);
                    let there = lane.alive.load(Ordering::SeqCst) > 0;
                    let (dials, cell) = handle.block_on(lane.visit());
                    let step = Duration::from_micros(20);
                    if last == Some(cell) {
                        pause += step;
                    } else {
                        pause = pause.saturating_sub(step);
                        // Its process was still there, but it was the next one that served.
                        races.fetch_add(usize::from(there && last.is_some()), Ordering::Relaxed);
                    }
                    dialled_again.fetch_add(dials - 1, Ordering::Relaxed);
                    last = Some(cell);
                }
            });
        }
    });
    let (races, visits) = (races.into_inner(), visits.into_inner());
    println!("of {visits} visitors {races} came while the last process was there and were served by the next");
    println!("{} of them had been connected to the last before it went", dialled_again.into_inner());
    assert!(races >= RACES, "only {races} races in {visits} visits");
}
