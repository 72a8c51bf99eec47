//! The transparent proxy of a node: every session with an MX goes through it. See `warren_proxy`.

use std::{net, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokio::net::UnixDatagram;
use tokio::task::JoinSet;
use warren_config::Node;
use warren_daemon::{Inherited, Lifecycle, Signal};
use warren_packet::{PacketListener, aio::AsyncListener};
use warren_proxy::{
    control::{self, Callers},
    egress::{Moment, Policy},
    egress_store::{Flush, Keeping, Memory},
    giving_back::give_back,
    launcher, metrics,
    proxy::{Parts, Proxy},
    settings::{Settings, egress_rules},
    standalone::{self, Entrance, Visitors},
    workers::Workers,
};
use warren_session::{Recorder, RecorderSettings};
use warren_tlsrpt::{Folder, Reporter, ReporterThread};
use warren_wire::ClientTls;

/// Gives the memory of sessions that ended back to the system, and takes less time than the C library's. Measured: docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long sessions may go on after SIGTERM: their messages are being taken over, and a second delivery is worse than a wait.
const DRAIN: Duration = Duration::from_secs(25);
/// How long records may take to be written at the end.
const LAST_RECORDS: Duration = Duration::from_secs(3);

/// Where MTAs' TLS is configured.
const CERTIFICATE: &str = "[proxy.standalone] certificate and key";

/// Who may ask by `warren egress`, and what by `warren metrics`.
const ROOT: u32 = 0;

/// Carries the tenants' sessions to the MX hosts, and records them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of warren.toml.
    #[arg(long, default_value = warren_config::DEFAULT_DIRECTORY)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    warren_daemon::run("warren-proxy", start(arguments))
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let mut inherited = Inherited::adopt()?;
    let mut lifecycle = Lifecycle::start().context("cannot listen for signals")?;
    let node = Node::load(&arguments.config)?;
    let exits = inherited.take_tcp_std("exit")?;
    let control = control_socket(&mut inherited, &node)?;
    let notes = names_socket(&mut inherited, &node)?;
    inherited.finish()?;
    let directory = node.paths.own("sessions");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let recording = RecorderSettings { keep: node.proxy.keep_sessions, ..RecorderSettings::new(&directory) };
    let (recorder, recording) = if node.proxy.record {
        Recorder::in_directory(&directory, recording).context("cannot start recording")?
    } else {
        Recorder::off()
    };
    let (tls_reports, reporting) = reporter(&node);
    let (memory, remembered) = Memory::open(&node.paths.egress_database()).await;
    let proxy = Proxy::new(Parts {
        settings: Settings::of(&node),
        policy: Policy::new(egress_rules(&node), remembered.state, Moment::current()),
        notes,
        tls: ClientTls::with_system_roots(node.proxy.ca_file.as_deref()).context("[proxy] ca_file")?,
        recorder,
        tls_reports,
    });
    proxy.offer_tls(Entrance::of(&node).context(CERTIFICATE)?);
    let senseless = proxy.detector().remember(remembered.baselines);
    if senseless > 0 {
        tracing::warn!(senseless, "some of what was usual at operators makes no sense, and is learned anew");
    }
    let memory = memory.keep(proxy.departures(), proxy.detector());
    let flush = memory.as_ref().map(Keeping::flush);
    let mut doors = open_doors(&proxy, &node, exits, control.map(|control| (control, flush)))?;
    warren_daemon::ready();
    while lifecycle.next().await == Signal::Reload {
        match Node::load(&arguments.config) {
            Ok(node) => {
                proxy.reload(Settings::of(&node), egress_rules(&node));
                match Entrance::of(&node) {
                    Ok(entrance) => proxy.offer_tls(entrance),
                    Err(error) => tracing::error!(%error, "the old certificate stays: {CERTIFICATE}"),
                }
            }
            Err(problems) => tracing::error!("the old configuration stays: {problems}"),
        }
    }
    // No new sessions; those under way end behind their transactions.
    doors.shutdown().await;
    proxy.drain(DRAIN).await;
    let remembering = async {
        if let Some(memory) = memory {
            memory.finish(LAST_RECORDS).await;
        }
    };
    tokio::join!(recording.finish(LAST_RECORDS), remembering, last_reports(reporting));
    Ok(())
}

/// Where sessions leave what they found about TLS. Mail needs none.
fn reporter(node: &Node) -> (Reporter, Option<ReporterThread>) {
    let path = node.paths.tls_reports();
    match Reporter::start(Folder::new(&path)) {
        Ok((reporter, thread)) => (reporter, Some(thread)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "nothing will be found for TLS reports");
            (Reporter::off(), None)
        }
    }
}

/// Has the last findings written, unless the disk takes too long.
async fn last_reports(thread: Option<ReporterThread>) {
    if let Some(thread) = thread {
        let _ = tokio::time::timeout(LAST_RECORDS, tokio::task::spawn_blocking(|| thread.finish())).await;
    }
}

/// Where `warren egress` asks: the inherited socket, or one of our own when started by hand. Mail needs none.
fn control_socket(inherited: &mut Inherited, node: &Node) -> anyhow::Result<Option<AsyncListener>> {
    if !inherited.is_empty() {
        let listener = PacketListener::from(inherited.take_seqpacket("control")?);
        return Ok(Some(AsyncListener::new(listener)?));
    }
    let path = node.paths.proxy_socket();
    match PacketListener::listen(&path).and_then(AsyncListener::new) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "`warren egress` will find nobody: its socket cannot be made");
            Ok(None)
        }
    }
}

/// Where the resolver tells names: the inherited socket, or one of our own when started by hand.
fn names_socket(inherited: &mut Inherited, node: &Node) -> anyhow::Result<Option<UnixDatagram>> {
    // Beside an MTA that asks other resolvers, nobody tells any.
    if node.proxy.standalone.as_ref().is_some_and(|standalone| standalone.resolver.is_empty()) {
        return Ok(None);
    }
    if !inherited.is_empty() {
        return Ok(Some(inherited.take_datagram("names")?));
    }
    let path = node.paths.names_socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let socket = UnixDatagram::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok(Some(socket))
}

/// Starts taking connections: from the launcher's cells, or from nftables. A standalone proxy that was started with listeners named `exit` (a socket
/// unit with `Transparent=`, a cell of somebody else's) opens none of its own.
fn open_doors(
    proxy: &Arc<Proxy>,
    node: &Node,
    exits: Vec<net::TcpListener>,
    control: Option<(AsyncListener, Option<Flush>)>,
) -> anyhow::Result<JoinSet<()>> {
    let workers = Workers::for_this_machine().context("start the threads that carry sessions")?;
    let mut doors = JoinSet::new();
    let notes = Arc::clone(proxy);
    doors.spawn(async move { notes.keep_reading_notes().await });
    let departures = Arc::clone(proxy.departures());
    doors.spawn(async move { departures.keep_time().await });
    let keeper = Arc::clone(proxy);
    doors.spawn(async move { keeper.keep_time().await });
    doors.spawn(give_back());
    if let Some((control, flush)) = control {
        let callers = Callers { operator: ROOT, scraper: platform_user(node) };
        doors.spawn(control::serve(control, callers, Arc::clone(proxy), flush));
    }
    if let (Some(address), Some(standalone)) = (node.metrics.listen, &node.proxy.standalone) {
        let resolver = (!standalone.resolver.is_empty()).then(|| node.paths.resolver_socket());
        doors.spawn(scrapers(address, metrics::Standalone { proxy: Arc::clone(proxy), resolver }));
    }
    match &node.proxy.standalone {
        Some(standalone) => {
            let listeners = if exits.is_empty() { standalone::open(standalone)? } else { exits };
            let visitors = Arc::new(Visitors::new(proxy, standalone.clone()));
            for listener in listeners {
                for worker in workers.all() {
                    let listener = listener.try_clone().context("share a listener")?;
                    doors.spawn_on(standalone::serve(Arc::clone(proxy), listener, Arc::clone(&visitors)), worker);
                }
            }
        }
        None => {
            let (proxy, socket) = (Arc::clone(proxy), node.paths.launcher_socket());
            doors.spawn(async move { match launcher::hold(proxy, workers, &socket).await {} });
        }
    }
    Ok(doors)
}

/// Who answers scrapers on a node.
fn platform_user(node: &Node) -> Option<u32> {
    let user = nix::unistd::User::from_name(&node.users.platform);
    user.ok().flatten().map(|user| user.uid.as_raw())
}

/// Answers scrapers, where there is no platform to do it. Mail needs none.
async fn scrapers(address: net::SocketAddr, source: metrics::Standalone) {
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => warren_metrics::http::serve(listener, source).await,
        Err(error) => tracing::error!(%address, %error, "[metrics] listen: nobody answers scrapers"),
    }
}
