//! `warren-platform`: the front door and the fleet, as one process without privileges.
//!
//! Sockets come from `warren up` or systemd (`submission`, `submissions`, `api`); started by hand it binds them itself.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use clap::Parser;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use warren_config::{DEFAULT_DIRECTORY, Node};
use warren_daemon::{Inherited, Lifecycle, Signal};
use warren_packet::{PacketListener, aio::AsyncListener};
use warren_platform::{
    api::Api,
    books::{Book, Books},
    diary::Diary,
    fleet::{self, Doors, Handle, Setup, policy::Policy},
    frontdoor::{FrontDoor, Listener, passwords::Verifier},
    metrics::{self, Asked},
    nice,
    rates::Counts,
    readings::Readings,
    suspended::Suspended,
};
use warren_wire::server;

/// How long sessions with an open transaction may finish when the program drains.
const DRAIN: Duration = Duration::from_secs(30);

/// The front door and the fleet of a Warren node.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    config: PathBuf,
}

/// Where clients and peers come in.
struct Sockets {
    submission: Vec<TcpListener>,
    submissions: Vec<TcpListener>,
    api: AsyncListener,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let diary = Diary::default();
    // Before all other threads: those that check passwords keep the priority that we were started with, and nobody else does.
    let verifier = Verifier::start().context("starting the threads that check passwords");
    let stepped_back = nice::step_back().context("leaving the priority to them");
    let program = async { start(arguments, diary.clone(), stepped_back.and(verifier)?).await };
    warren_daemon::run_witnessed("warren-platform", Arc::new(diary.clone()), program)
}

async fn start(arguments: Arguments, diary: Diary, verifier: Verifier) -> anyhow::Result<()> {
    let inherited = Inherited::adopt()?;
    let mut lifecycle = Lifecycle::start()?;
    let books = Arc::new(Books::open(&arguments.config).map_err(|problems| anyhow!("{problems}"))?);
    let book = books.current();
    let sockets = if inherited.is_empty() { bind(&book.node).await? } else { take(inherited)? };
    let tls = certificate(&book.node)?;
    let fleet = start_fleet(&books)?;
    let rates = Arc::new(Counts::open(book.node.paths.own("platform").join("rates.jsonl")));
    {
        let rates = Arc::clone(&rates);
        tokio::spawn(async move { rates.keep().await });
    }
    let draining = lifecycle.draining();
    let door = FrontDoor::new(Arc::clone(&books), tls, fleet.clone(), Arc::clone(&rates), draining, verifier);
    let sessions = {
        let door = Arc::clone(&door);
        Box::new(move || door.sessions())
    };
    let readings = Arc::new(Readings::default());
    let api = Api {
        books: Arc::clone(&books),
        fleet: fleet.clone(),
        sessions,
        frontdoor: Arc::clone(door.counts()),
        asked: Asked::default(),
        rates: Arc::clone(&rates),
        diary,
        readings: Arc::clone(&readings),
        started: Arc::new(book.node.clone()),
        operators: [0, rustix::process::geteuid().as_raw()].into(),
        receiver: receiver(&book.node),
    };
    let api = Arc::new(api);
    if let Some(address) = book.node.metrics.listen {
        let paths = &book.node.paths;
        let node = metrics::node::Node {
            api: Arc::clone(&api),
            proxy: paths.proxy_socket(),
            resolver: paths.resolver_socket(),
            receiver: paths.receiver_socket(),
        };
        tokio::spawn(metrics::node::serve(address, node));
    }
    tokio::spawn(api.serve(sockets.api, lifecycle.draining()));
    let plain = sockets.submission.into_iter().map(|socket| Listener { socket, tls_first: false });
    let tls_first = sockets.submissions.into_iter().map(|socket| Listener { socket, tls_first: true });
    for listener in plain.chain(tls_first) {
        tokio::spawn(Arc::clone(&door).accept(listener));
    }
    drop(book);
    warren_daemon::ready();
    while lifecycle.next().await == Signal::Reload {
        readings.begin();
        readings.end(reload(&books, &fleet, &door).await);
    }
    tracing::info!(sessions = door.sessions(), "draining");
    if tokio::time::timeout(DRAIN, door.empty()).await.is_err() {
        tracing::warn!(sessions = door.sessions(), "sessions are cut off");
    }
    rates.save();
    Ok(())
}

/// The machine's, in bytes (`MemTotal` of /proc/meminfo); where nobody tells, memory bounds nothing.
fn memory() -> u64 {
    let about = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = about.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    total.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024))
}

fn start_fleet(books: &Arc<Books>) -> anyhow::Result<Handle> {
    let book = books.current();
    let state = book.node.paths.own("platform");
    std::fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
    let setup = Setup {
        launcher: book.node.paths.launcher_socket(),
        store: state.join("due.jsonl"),
        start_deadline: book.node.fleet.start_deadline,
        policy: Policy::within(warren_daemon::descriptors(), book.node.limits.connections, memory()),
        doors: Doors::default(),
        suspended: {
            let path = state.join("suspended");
            Arc::new(Suspended::open(&path).with_context(|| format!("reading {}", path.display()))?)
        },
    };
    let store = setup.store.clone();
    let tenants: Vec<_> = book.directory.tenants().map(|tenant| tenant.name.clone()).collect();
    let register = {
        let books = Arc::clone(books);
        Arc::new(move |tenant: &_| books.current().launch(tenant))
    };
    fleet::start(setup, register, &tenants).with_context(|| format!("opening {}", store.display()))
}

fn certificate(node: &Node) -> anyhow::Result<Arc<ServerConfig>> {
    Ok(match &node.tls {
        Some(files) => server::from_files(&files.certificate, &files.key)?,
        None => {
            let directory = node.paths.tls_directory("platform");
            std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
            server::self_signed(&directory, &node.hostname, None)?
        }
    })
}

fn take(mut inherited: Inherited) -> anyhow::Result<Sockets> {
    let sockets = Sockets {
        submission: inherited.take_tcp("submission")?,
        submissions: inherited.take_tcp("submissions")?,
        api: AsyncListener::new(PacketListener::from(inherited.take_seqpacket("api")?))?,
    };
    inherited.finish()?;
    Ok(sockets)
}

/// Started by hand: as the configuration says.
async fn bind(node: &Node) -> anyhow::Result<Sockets> {
    async fn all(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.with_context(|| format!("listening on {address} (see [listen] in warren.toml)"))?);
        }
        Ok(listeners)
    }
    let path = node.paths.platform_socket();
    let api = PacketListener::listen(&path).with_context(|| format!("listening at {}", path.display()))?;
    Ok(Sockets {
        submission: all(&node.listen.submission).await?,
        submissions: all(&node.listen.submissions).await?,
        api: AsyncListener::new(api)?,
    })
}

/// The receiver's user.
fn receiver(node: &Node) -> Option<u32> {
    match nix::unistd::User::from_name(&node.users.receiver) {
        Ok(Some(user)) => Some(user.uid.as_raw()),
        // A node without inbound mail needs no such user.
        Ok(None) => {
            tracing::warn!(user = node.users.receiver, "there is no such user: the receiver cannot ask us");
            None
        }
        Err(error) => {
            tracing::error!(user = node.users.receiver, %error, "looking up the receiver's user");
            None
        }
    }
}

/// A broken configuration changes nothing; what is wrong with it stands in the log, and is given back.
async fn reload(books: &Books, fleet: &Handle, door: &FrontDoor<Handle>) -> Option<String> {
    // Reading thousands of files takes a while; sessions go on meanwhile on the other threads.
    let changes = match tokio::task::block_in_place(|| books.reload()) {
        Ok(changes) => changes,
        Err(problems) => {
            tracing::error!("the configuration stays as it was: {problems}");
            return Some(problems.to_string());
        }
    };
    let (settings, containers, removed) = (changes.settings.len(), changes.container.len(), changes.removed.len());
    tracing::info!(settings, containers, removed, "configuration read again");
    if fleet.changed(changes).await.is_err() {
        tracing::error!("the fleet is gone");
    }
    let book: Arc<Book> = books.current();
    match certificate(&book.node) {
        Ok(tls) => door.set_tls(tls),
        Err(error) => tracing::error!("the certificate stays as it was: {error:#}"),
    }
    None
}
