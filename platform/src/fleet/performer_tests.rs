//! The performer against a launcher and an MSA that the tests play, over real sockets in this process's own namespace.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as StdUnixListener},
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SocketType, socket},
    process::{PidfdFlags, getpid, pidfd_open},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    time::timeout,
};
use warren_control::{
    Entrance, FromMsa, LineReader, Retry, Settings, ToMsa,
    api::{StartReason, TenantInfo, TenantState},
    send,
};
use warren_launcher_api::{
    CellId, CellInfo, CellUse, Event, ExitStatus, ImageName, LauncherError, Limits, Request, TenantName, VERSION,
};
use warren_packet::{
    PacketListener,
    aio::{AsyncListener, AsyncPackets},
};

use crate::suspended::Suspended;

use super::{Doors, Handle, Launch, Setup, Unavailable, clock::unix_ms, policy::Policy, start, words::Refusal};

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn launch(tenant: &TenantName) -> Option<Launch> {
    (*tenant == acme()).then(|| Launch {
        image: ImageName::new("msa").unwrap(),
        limits: Limits::default(),
        settings: Settings {
            tenant: acme(),
            hostname: "mail.example.net".into(),
            domains: vec!["acme.example".into()],
            accounts: Default::default(),
            max_message_bytes: 1000,
            max_recipients: 10,
            max_queue_bytes: 1 << 20,
            idle_ms: 1000,
            retry: Retry { first_ms: 1, factor_percent: 100, max_ms: 1, expire_ms: 1 },
            hop_limit: 10,
        },
    })
}

/// The node around the performer.
struct Node {
    files: tempfile::TempDir,
    listener: AsyncListener,
    control: UnixListener,
    entrance: Option<TcpListener>,
    doors: Doors,
}

impl Node {
    async fn new() -> Node {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        let name = format!("warren-test-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed));
        let control = StdUnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        control.set_nonblocking(true).unwrap();
        let entrance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let listener = PacketListener::listen(files.path().join("launcher.sock")).unwrap();
        Node {
            listener: AsyncListener::new(listener).unwrap(),
            control: UnixListener::from_std(control).unwrap(),
            doors: Doors { control: name, submission: entrance.local_addr().unwrap().port(), relay: 1 },
            entrance: Some(entrance),
            files,
        }
    }

    fn store(&self) -> PathBuf {
        self.files.path().join("due.jsonl")
    }

    fn platform(&self, start_deadline: Duration) -> Handle {
        let launcher = self.files.path().join("launcher.sock");
        let policy = Policy::default();
        let suspended = Arc::new(Suspended::open(&self.store().with_extension("suspended")).unwrap());
        let doors = self.doors.clone();
        let setup = Setup { launcher, store: self.store(), start_deadline, policy, doors, suspended };
        start(setup, Arc::new(launch), &[acme()]).unwrap()
    }

    /// The performer's next connection, greeted and told what runs.
    async fn launcher(&self, cells: &[u64]) -> Launcher {
        let launcher = Launcher(soon(self.listener.accept()).await.unwrap());
        assert!(matches!(launcher.hear().await, Request::Hello { .. }));
        launcher.say(&Event::Welcome { version: VERSION }, vec![]).await;
        let Request::List { tag } = launcher.hear().await else { panic!("not asked what runs") };
        let info = |cell: &u64| CellInfo {
            cell: CellId(*cell),
            tenant: acme(),
            image: ImageName::new("msa").unwrap(),
            started_unix_ms: 0,
        };
        let pidfds = cells.iter().map(|_| pidfd()).collect();
        launcher.say(&Event::Cells { tag, cells: cells.iter().map(info).collect(), more: false }, pidfds).await;
        launcher
    }

    /// The MSA's end of the next control connection, with its settings read.
    async fn msa(&self) -> Msa {
        let (stream, _) = soon(self.control.accept()).await.unwrap();
        let mut msa = Msa(LineReader::new(stream));
        let Some(ToMsa::Settings(settings)) = soon(msa.0.recv()).await.unwrap() else { panic!("no settings") };
        assert_eq!(settings.hostname, "mail.example.net");
        msa
    }

    /// Somebody came in at the entrance.
    async fn visited(&self) {
        soon(self.entrance.as_ref().unwrap().accept()).await.unwrap();
    }
}

struct Launcher(AsyncPackets);

impl Launcher {
    async fn hear(&self) -> Request {
        loop {
            match soon(self.0.recv()).await.unwrap().expect("the platform hung up").0 {
                // Asked whenever a journal is new or a tenant went without a word; no test is about the answer.
                Request::Due { tag, .. } => self.say(&Event::Due { tag, due: vec![] }, vec![]).await,
                request => return request,
            }
        }
    }

    async fn say(&self, event: &Event, descriptors: Vec<OwnedFd>) {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.0.send(event, &descriptors).await.unwrap();
    }

    /// The next request, which must be a Wake.
    async fn wake(&self) -> u64 {
        match self.hear().await {
            Request::Wake { tag, tenant, .. } if tenant == acme() => tag,
            other => panic!("not a wake: {other:?}"),
        }
    }

    async fn woken(&self, tag: u64, cell: u64, sockets: usize) {
        let mut descriptors = vec![pidfd(), unix()];
        descriptors.extend((0..sockets).map(|_| tcp()));
        self.say(&Event::Woken { tag, cell: CellId(cell), slot: true, stages: vec![] }, descriptors).await;
    }

    async fn exited(&self, cell: u64) {
        self.say(&Event::Exited { cell: CellId(cell), tenant: acme(), status: ExitStatus::Code(0) }, vec![]).await;
    }
}

struct Msa(LineReader<UnixStream>);

impl Msa {
    async fn say(self, message: &FromMsa) {
        send(&mut self.0.into_inner(), message).await.unwrap();
    }
}

fn pidfd() -> OwnedFd {
    pidfd_open(getpid(), PidfdFlags::empty()).unwrap()
}

fn unix() -> OwnedFd {
    socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
}

fn tcp() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("in time")
}

const PATIENT: Duration = Duration::from_secs(30);

/// Somebody who wants to submit.
fn client(platform: &Handle) -> tokio::task::JoinHandle<Result<super::Connection, Unavailable>> {
    let platform = platform.clone();
    tokio::spawn(async move { platform.connect(&acme(), Entrance::Submission, None).await })
}

#[tokio::test]
async fn woken_for_a_client_and_again_when_mail_is_due() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    let first = client(&platform);
    let tag = launcher.wake().await;
    let second = client(&platform);
    launcher.woken(tag, 1, 1).await;
    let msa = node.msa().await;
    let first = soon(first).await.unwrap().unwrap();
    assert!(first.cold.is_some_and(|cold| cold.warm));
    node.visited().await;
    // One socket came along: the second client's is made on demand.
    let Request::Sockets { tag, cell: CellId(1), tcp: 1, control: 0 } = launcher.hear().await else { panic!() };
    launcher.say(&Event::Sockets { tag }, vec![tcp()]).await;
    assert!(soon(second).await.unwrap().unwrap().cold.is_none());
    node.visited().await;
    let due = unix_ms() + 600;
    msa.say(&FromMsa::Sleeping { next_due_unix_ms: Some(due) }).await;
    // Its last word and its end come by different ways: in this order nobody has to ask the volume.
    let heard = async {
        while platform.status().await.unwrap().draining == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(heard).await;
    launcher.exited(1).await;
    let tag = launcher.wake().await;
    assert!(unix_ms() >= due);
    assert!(fs::read_to_string(node.store()).unwrap().contains(&format!("{{\"due\":{due}}}")));
    launcher.woken(tag, 2, 4).await;
    node.msa().await;
}

#[tokio::test]
async fn who_finds_the_entrance_closed_gets_the_next_cell() {
    let mut node = Node::new().await;
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    node.entrance = None;
    let client = client(&platform);
    let tag = launcher.wake().await;
    launcher.woken(tag, 1, 4).await;
    node.msa().await.say(&FromMsa::Sleeping { next_due_unix_ms: None }).await;
    // It falls asleep as the client dials; the next cell's entrance is open.
    launcher.exited(1).await;
    let tag = launcher.wake().await;
    node.entrance = Some(TcpListener::bind(("127.0.0.1", node.doors.submission)).await.unwrap());
    launcher.woken(tag, 2, 4).await;
    node.msa().await;
    assert_eq!(soon(client).await.unwrap().unwrap().cell, CellId(2));
}

#[tokio::test]
async fn what_runs_already_is_adopted() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    let client = client(&platform);
    let launcher = node.launcher(&[7]).await;
    let Request::Sockets { tag, cell: CellId(7), tcp: 1, control: 1 } = launcher.hear().await else { panic!() };
    launcher.say(&Event::Sockets { tag }, vec![tcp(), unix()]).await;
    node.msa().await;
    assert_eq!(soon(client).await.unwrap().unwrap().cell, CellId(7));
}

#[tokio::test]
async fn a_launcher_that_dies_in_a_wake_is_asked_again() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    let client = client(&platform);
    launcher.wake().await;
    drop(launcher);
    let launcher = node.launcher(&[]).await;
    let tag = launcher.wake().await;
    launcher.woken(tag, 2, 4).await;
    node.msa().await;
    assert_eq!(soon(client).await.unwrap().unwrap().cell, CellId(2));
}

#[tokio::test]
async fn who_waits_for_a_socket_as_the_launcher_dies_gets_it_of_the_next() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    let first = client(&platform);
    let tag = launcher.wake().await;
    launcher.woken(tag, 1, 1).await;
    let _msa = node.msa().await;
    soon(first).await.unwrap().unwrap();
    let second = client(&platform);
    let Request::Sockets { cell: CellId(1), tcp: 1, control: 0, .. } = launcher.hear().await else { panic!() };
    drop(launcher);
    let launcher = node.launcher(&[1]).await;
    let Request::Sockets { tag, cell: CellId(1), tcp: 1, control: 0 } = launcher.hear().await else { panic!() };
    launcher.say(&Event::Sockets { tag }, vec![tcp()]).await;
    assert_eq!(soon(second).await.unwrap().unwrap().cell, CellId(1));
}

#[tokio::test]
async fn a_start_that_fails_is_tried_again_and_the_cause_is_told() {
    let node = Node::new().await;
    let platform = node.platform(Duration::from_millis(500));
    let launcher = node.launcher(&[]).await;
    let client = client(&platform);
    for _ in 0..2 {
        let tag = launcher.wake().await;
        let image = ImageName::new("msa").unwrap();
        let error = LauncherError::Image { image, reason: "it is missing".into() };
        launcher.say(&Event::Failed { tag, error }, vec![]).await;
    }
    let error = soon(client).await.unwrap().unwrap_err();
    assert!(matches!(error, Unavailable::Refused { why: Refusal::Failed | Refusal::Late, .. }), "{error}");
    let status = platform.status().await.unwrap();
    assert!(status.counters.contains(&("starts_failed".into(), 2)), "{:?}", status.counters);
}

async fn described(platform: &Handle) -> TenantInfo {
    let nothing = TenantInfo {
        name: acme(),
        state: TenantState::Asleep,
        domains: vec![],
        accounts: 0,
        next_due_unix_ms: None,
        queued: None,
        since_unix_ms: None,
        memory_bytes: None,
        started: None,
    };
    soon(platform.describe(vec![nothing])).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_tenant_is_described_with_its_start_and_what_it_uses_and_sleeps_when_it_is_suspended() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    let before = unix_ms();
    let client = client(&platform);
    let tag = launcher.wake().await;
    launcher.woken(tag, 1, 4).await;
    let mut msa = node.msa().await;
    soon(client).await.unwrap().unwrap();
    let (info, ()) = tokio::join!(described(&platform), async {
        let Request::Inspect { tag, cells } = launcher.hear().await else { panic!("not asked for what it uses") };
        let memory_bytes = Some(1_234_567);
        let found = cells.into_iter().map(|cell| CellUse { cell, memory_bytes, outdated: true }).collect();
        launcher.say(&Event::Inspected { tag, cells: found }, vec![]).await;
    });
    let started = info.started.unwrap();
    assert_eq!(
        (info.state, info.memory_bytes, started.reason),
        (TenantState::Awake, Some(1_234_567), StartReason::Connection)
    );
    assert!(started.at_unix_ms >= before && started.took_us.is_some() && info.since_unix_ms.is_some());

    let suspending = tokio::spawn({
        let platform = platform.clone();
        async move { platform.suspend(&acme()).await }
    });
    assert_eq!(soon(msa.0.recv()).await.unwrap(), Some(ToMsa::Drain));
    msa.say(&FromMsa::Sleeping { next_due_unix_ms: None }).await;
    launcher.exited(1).await;
    soon(suspending).await.unwrap().unwrap();
    let refused = soon(platform.connect(&acme(), Entrance::Relay, None)).await.unwrap_err();
    assert!(matches!(refused, Unavailable::Refused { why: Refusal::Suspended, .. }), "{refused}");
    let info = described(&platform).await;
    assert_eq!((info.state, info.started), (TenantState::Suspended, Some(started)));

    // Another platform with the same state holds to it.
    drop(platform);
    while soon(launcher.0.recv::<Request>()).await.unwrap().is_some() {}
    let platform = node.platform(PATIENT);
    let launcher = node.launcher(&[]).await;
    assert_eq!(described(&platform).await.state, TenantState::Suspended);
    soon(platform.resume(&acme())).await.unwrap();
    let _client = self::client(&platform);
    launcher.wake().await;
}

#[tokio::test]
async fn the_launcher_tells_how_it_is_and_nothing_while_it_is_away() {
    let node = Node::new().await;
    let platform = node.platform(PATIENT);
    assert_eq!(soon(platform.launcher()).await.unwrap(), None);
    let launcher = node.launcher(&[]).await;
    let (told, ()) = tokio::join!(soon(platform.launcher()), async {
        let Request::Status { tag } = launcher.hear().await else { panic!("not asked how it is") };
        let status = warren_launcher_api::Status { slots_ready: 4, ..Default::default() };
        launcher.say(&Event::Status { tag, status }, vec![]).await;
    });
    assert_eq!(told.unwrap().map(|status| status.slots_ready), Some(4));
}
