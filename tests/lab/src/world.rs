//! The inside: from a fresh process to a running lab.
//!
//! `serve` is the owner's child. It only makes the namespaces, starts pid 1 in them and waits. `world` is that pid 1: it
//! builds everything, reports one JSON line, reaps, and leaves when the lifeline (its standard input) ends. It may not even
//! be asked: it dies with `serve` too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::config::{LabConfig, MtaKind, Tls};
use crate::mta::{self, HostPlan};
use crate::{dns, map, net, persona, policies, tls};

/// Where the lab keeps everything, as seen inside: the memory file system over `/run`.
pub const HOME: &str = "/run/lab";

/// How often a host is asked for its greeting while it starts.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The one line that a lab says to its owner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Everything answers.
    Ready(Ready),
    /// It could not be built; the lab is gone.
    Failed(String),
}

/// What the owner needs to reach inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Pid 1 of the lab, as the owner's pid namespace counts.
    pub pid: u32,
    /// Host name → descriptor number of its network namespace in that process.
    pub namespaces: BTreeMap<String, i32>,
    /// Certificate of the lab's authority, PEM.
    pub authority: String,
}

/// The owner's child: namespaces, then pid 1 in them.
pub fn serve(config: &LabConfig) -> anyhow::Result<i32> {
    if !rustix::process::geteuid().is_root() {
        bail!("a lab needs root: it makes network namespaces");
    }
    let cache = mta::cache()?;
    for mta in &config.mtas {
        if !mta::unpacked(&cache, *mta) {
            bail!("{} is not unpacked in {}: run tests/lab/packages", mta.name(), cache.display());
        }
    }
    // The way back to this program's file must be found before the mounts change.
    let program = std::env::current_exe().context("find this program")?;
    let kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(kinds).context("make the lab's namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("part from the machine's mounts")?;
    let mut world = Command::new(program);
    world.arg("world").arg("--config").arg(serde_json::to_string(config).context("pass the configuration on")?);
    let mut child = world.spawn().context("start pid 1")?;
    let status = child.wait().context("wait for pid 1")?;
    Ok(status.code().unwrap_or(1))
}

/// Pid 1.
pub fn world(config: &LabConfig) -> anyhow::Result<i32> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie this to its parent")?;
    // /proc is still the machine's: it knows this process by the number that the owner needs.
    let pid = fs::read_link("/proc/self").context("read /proc/self")?;
    let pid = pid.to_str().and_then(|p| p.parse().ok()).context("read /proc/self")?;
    // Before anything that takes time: an owner that is gone already must be noticed.
    std::thread::spawn(leave_with_owner);
    let started = Instant::now();
    mounts()?;
    let namespaces = net::build(&map::hosts(config), &map::bridge_addresses(config))?;
    let authority = tls::Authority::new().context("make the certificate authority")?;
    let home = Path::new(HOME);
    for domain in map::mailbox_domains(config) {
        let dir = home.join("mail").join(domain);
        fs::create_dir_all(&dir).context("make mailboxes")?;
        std::os::unix::fs::chown(&dir, Some(mta::LAB_UID), Some(mta::LAB_UID)).context("give mailboxes away")?;
    }
    fs::create_dir_all(home.join("log")).context("make logs")?;
    fs::create_dir_all(home.join("lists")).context("make lists")?;
    fs::create_dir_all(home.join("keys")).context("make the folder of keys")?;
    let mut hosts = Vec::new();
    for host in &config.mtas {
        let (_, namespace) =
            namespaces.iter().find(|(name, _)| *name == host.name()).context("a host without a namespace")?;
        let identity = authority.identity(&[host.host_name()]).context("sign a certificate")?;
        let plan = HostPlan {
            mta: *host,
            package: mta::cache()?.join(host.name()),
            home: home.join("hosts").join(host.name()),
            mail: home.join("mail"),
            certificate: identity.certificate,
            key: identity.key,
        };
        hosts.push(Running { mta: *host, pid: start_host(&plan, namespace)?, ended: Arc::default() });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let watched = hosts.iter().map(|host| (host.pid, host.ended.clone())).collect();
        let _reaper = tokio::spawn(reap(watched));
        answer(config, &authority, started).await?;
        let namespaces = namespaces.iter().map(|(name, ns)| ((*name).to_owned(), ns.fd())).collect();
        for host in &hosts {
            let patience = config.start_deadline.saturating_sub(started.elapsed());
            let name = host.mta.name();
            greeting(host, patience).await.with_context(|| format!("{name}; its log ends:\n{}", log_end(name)))?;
        }
        report(&Report::Ready(Ready { pid, namespaces, authority: authority.pem() }))?;
        std::future::pending::<()>().await;
        Ok(0)
    })
}

/// Says the one line.
pub fn report(report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report).context("write the report")?;
    line.push(b'\n');
    std::io::stdout().write_all(&line).context("write the report")
}

fn leave_with_owner() {
    let mut buffer = [0; 64];
    let mut stdin = std::io::stdin().lock();
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => std::process::exit(0),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => std::process::exit(0),
        }
    }
}

fn mounts() -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), flags | MsFlags::MS_NOEXEC, None::<&str>).context("mount /proc")?;
    // Memory, not disk: nothing can be left on it. suid and devices stay allowed: hosts' roots live here.
    mount(Some("lab"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("mount /run")?;
    fs::create_dir_all(HOME).context("make the lab's home")
}

/// A real MX program that was started.
struct Running {
    mta: MtaKind,
    pid: i32,
    ended: Arc<AtomicBool>,
}

/// Gives the host's pid.
fn start_host(plan: &HostPlan, namespace: &net::Namespace) -> anyhow::Result<i32> {
    let log = fs::File::create(log_path(plan.mta.name())).context("make a host's log")?;
    let also = log.try_clone().context("make a host's log")?;
    let plan = serde_json::to_string(plan).context("pass a host's plan on")?;
    // /proc/self/exe always runs, and what it becomes is reaped like any orphan: nobody waits for this child.
    let spawned = namespace.within(|| {
        let mut host = Command::new("/proc/self/exe");
        host.arg("host").arg("--plan").arg(plan);
        host.stdin(Stdio::null()).stdout(log).stderr(also).spawn()
    })?;
    let pid = spawned.context("start a host")?.id();
    i32::try_from(pid).context("a pid beyond the kernel's")
}

/// Name server and personas, on the bridge's own addresses.
async fn answer(config: &LabConfig, authority: &tls::Authority, started: Instant) -> anyhow::Result<()> {
    let table = dns::Table::new(&map::records(config))?;
    let udp = UdpSocket::bind((map::DNS, 53)).await.context("bind the name server")?;
    let tcp = TcpListener::bind((map::DNS, 53)).await.context("bind the name server")?;
    tokio::spawn(dns::serve(table, udp, tcp));
    if !config.policies.is_empty() {
        let names: Vec<String> = config.policies.iter().map(|policy| map::policy_host(&policy.domain)).collect();
        let server = authority.identity(&names).context("sign a certificate")?.server().context("set up TLS")?;
        let listener = TcpListener::bind((map::POLICIES, 443)).await.context("bind the policy host")?;
        tokio::spawn(policies::serve(config.policies.clone(), listener, TlsAcceptor::from(server)));
    }
    for script in map::personas(config) {
        let mut listeners = Vec::new();
        for address in [IpAddr::from(script.address), map::twin(script.address).into()] {
            let bound = TcpListener::bind((address, 25)).await;
            listeners.push(bound.with_context(|| format!("bind persona {} to {address}", script.name))?);
        }
        let name =
            script.domains.first().map(|d| map::mx_name(d)).unwrap_or_else(|| format!("{}.example", script.name));
        let mut names: Vec<String> = script.domains.iter().map(|d| map::mx_name(d)).collect();
        names.push(name.clone());
        names.dedup();
        let stranger = tls::Authority::named("Stranger").context("make an authority that nobody knows")?;
        let signer = if script.tls == Tls::Untrusted { &stranger } else { authority };
        let identity = signer.identity(&names).context("sign a certificate")?;
        fs::write(key_path(Path::new(HOME), &script.name), identity.tlsa()).context("publish a persona's key")?;
        let server = identity.server().context("set up TLS")?;
        let log = fs::File::create(log_path(&script.name)).context("make a persona's log")?;
        let host = persona::Host::new(script, name, TlsAcceptor::from(server), HOME.into(), log, started);
        let host = Arc::new(host);
        for listener in listeners {
            tokio::spawn(Arc::clone(&host).serve(listener));
        }
    }
    Ok(())
}

/// Where a host or persona logs.
fn log_path(name: &str) -> PathBuf {
    PathBuf::from(HOME).join("log").join(name)
}

/// Where the lab at `home` keeps the TLSA record that speaks for a persona's key.
pub fn key_path(home: &Path, name: &str) -> PathBuf {
    home.join("keys").join(name)
}

fn log_end(name: &str) -> String {
    let log = fs::read(log_path(name)).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned()
}

/// Waits for a host's 220.
async fn greeting(host: &Running, patience: Duration) -> anyhow::Result<()> {
    let ask = async {
        while !host.ended.load(Ordering::Relaxed) {
            let dial = TcpStream::connect(SocketAddr::from((host.mta.address(), 25)));
            if let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_secs(5), dial).await {
                let mut start = [0; 4];
                if stream.read_exact(&mut start).await.is_ok() && &start == b"220 " {
                    // Waited for, so that its log does not speak of a lost connection.
                    let _ = stream.write_all(b"QUIT\r\n").await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    return Ok(());
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        bail!("it ended at once")
    };
    tokio::time::timeout(patience, ask).await.context("it does not greet")?
}

/// Takes every child that ends: the hosts, and whatever they leave to pid 1.
async fn reap(hosts: Vec<(i32, Arc<AtomicBool>)>) {
    let Ok(mut ended) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child()) else { return };
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { break };
            for (_, ended) in hosts.iter().filter(|(host, _)| *host == pid.as_raw()) {
                ended.store(true, Ordering::Relaxed);
            }
        }
        if ended.recv().await.is_none() {
            return;
        }
    }
}
