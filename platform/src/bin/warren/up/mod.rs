//! `warren up`: the supervisor of a single node.
//!
//! ```text
//!   check ─▶ lock ─▶ end leftovers ─▶ directories, sockets ─▶ launcher, resolver, proxy, platform, receiver
//!                                                                 │ each with its keeper: spawn, READY=1,
//!                                                                 │ restart with growing waits
//!   SIGHUP ─▶ check ─▶ SIGHUP to all but the launcher             ▼
//!   SIGTERM, SIGINT ─▶ SIGTERM: receiver, platform, launcher (ends containers), resolver, proxy
//! ```
//!
//! It gives its children what systemd would give them: sockets (LISTEN_FDS), users, readiness, signals. The listening
//! sockets stay open here, so that a program that restarts loses no connection.
//!
//! If the supervisor is killed, the kernel asks its unprivileged children to end (they drain as for SIGTERM); the
//! launcher stays with the containers until the next `warren up` or `warren down` ends it in order. Nothing that was
//! acknowledged depends on either.

pub mod crew;
mod keeper;
mod leftovers;
mod prepare;
mod priority;
mod sockets;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, Mode, flock};
use tokio::sync::mpsc;
use warren_config::{Directory, Folder, Node};
use warren_daemon::{Lifecycle, Signal};

use crate::{Config, machine, tell};
use crew::Program;
use keeper::{Keeper, News};
use priority::Priority;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Directory with the programs [default: where `warren` itself is]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// How long a program may take to report readiness. The launcher sweeps what a killed node left before it does.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A node that is about to run, or to be cleaned up: configuration and lock.
pub struct Site {
    pub node: Node,
    pub tenants: Directory,
    folder: Folder,
    pub config: PathBuf,
    programs: PathBuf,
    _lock: File,
}

/// Only one supervisor holds it at a time.
pub fn lock_file(node: &Node) -> PathBuf {
    node.paths.run.join("up.lock")
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let site = Site::enter(arguments)?;
    // First: what a killed `warren up` left may still hold the ports.
    leftovers::end(&site.node)?;
    let problems = machine::problems(&site.node, &site.config, &site.tenants, &site.programs);
    if !problems.is_empty() {
        return Err(tell::Several(problems).into());
    }
    for problem in machine::foreign_egress(&site.node) {
        // It may come later, as addresses that wander do; until then mail leaves from the others.
        tell::warning(&problem);
    }
    if let Err(errno) = priority::be_first() {
        tell::warning(&format!("the node's programs get no priority: {errno}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(supervise(site))
}

/// What `warren down` does once it holds the lock: ends what is left, lets a launcher sweep the containers, removes the
/// sockets.
pub fn clean(arguments: &Arguments) -> anyhow::Result<()> {
    let site = Site::enter(arguments)?;
    leftovers::end(&site.node)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let users = prepare::Users::find(&site.node)?;
        prepare::directories(&site.node, &users)?;
        let programs = prepare::programs(&site.programs, &site.node, &users)?;
        let launcher = crew::launcher(&site.node, &users, &programs, sockets::launcher(&site.node)?);
        let mut crew = Crew::default();
        crew.start(launcher).await?;
        crew.stop().await;
        anyhow::Ok(())
    })?;
    leftovers::remove_sockets(&site.node);
    tell::line("warren is down: nothing is left")
}

impl Site {
    /// Loads the configuration and takes the lock.
    fn enter(arguments: &Arguments) -> anyhow::Result<Self> {
        // First: tenants' files are not for everybody's eyes, and would only seem broken.
        if !rustix::process::geteuid().is_root() {
            bail!("not root: the launcher makes namespaces and containers, so run this as root");
        }
        let directory = &arguments.config.directory;
        let config =
            directory.canonicalize().with_context(|| format!("configuration directory {}", directory.display()))?;
        let node = Node::load(&config)?;
        let mut folder = Folder::new(&config);
        let tenants = folder.read(&node, &Directory::default())?;
        warren_daemon::keep_from_children().context("closing what was inherited")?;
        // Children inherit it: what they make is theirs to open up.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        fs::create_dir_all(&node.paths.run).with_context(|| format!("making {}", node.paths.run.display()))?;
        let lock = lock(&node)?;
        let programs = programs_directory(arguments.bin_dir.as_deref())?;
        Ok(Self { node, tenants, folder, config, programs, _lock: lock })
    }
}

/// Where the programs are: as given, or beside `warren` itself.
pub fn programs_directory(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = given {
        return directory.canonicalize().with_context(|| format!("--bin-dir {}", directory.display()));
    }
    let own = std::env::current_exe().context("finding the programs beside `warren`")?;
    Ok(own.parent().map(PathBuf::from).unwrap_or_default())
}

/// Takes the lock and writes our pid into it.
fn lock(node: &Node) -> anyhow::Result<File> {
    let path = lock_file(node);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("opening {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        file.read_to_string(&mut pid).with_context(|| format!("reading {}", path.display()))?;
        bail!("this node is up already: `warren up` is process {0}; end it by `kill {0}`", pid.trim());
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

async fn supervise(mut site: Site) -> anyhow::Result<()> {
    // From here on signals are ours: a Ctrl-C while the node starts stops it in order.
    let mut lifecycle = Lifecycle::start().context("listening for signals")?;
    let began = Instant::now();
    let users = prepare::Users::find(&site.node)?;
    prepare::directories(&site.node, &users)?;
    let programs = prepare::programs(&site.programs, &site.node, &users)?;
    let all = crew::all(&site, &users, &programs)?;
    let mut crew = Crew::default();
    match Priority::lead(&site.node.cgroup.name) {
        Ok(priority) => crew.priority = priority,
        // Then the launcher finds another place.
        Err(reason) => tell::warning(&format!("the containers cannot be below the node's own control group: {reason}")),
    }
    let started = tokio::select! {
        started = crew.start_all(all, &site.node.cgroup.name) => started.map(|()| true),
        () = drained(&mut lifecycle) => Ok(false),
    };
    if let Ok(true) = started {
        tell::line(&format!("warren is up ({} ms): {}", began.elapsed().as_millis(), summary(&site)))?;
        // Who started this program may wait for it too.
        warren_daemon::ready();
        serve(&mut site, &crew, &mut lifecycle).await;
    }
    tokio::select! {
        () = crew.stop() => {}
        () = drained(&mut lifecycle) => {
            eprintln!("warren: asked twice: killing what is still there");
            crew.hurry();
            crew.stop().await;
        }
    }
    crew.priority.into_iter().for_each(Priority::give_up);
    leftovers::remove_sockets(&site.node);
    started?;
    tell::line("warren is down")
}

/// Waits for a signal to stop; reloads make no sense where this is used.
async fn drained(lifecycle: &mut Lifecycle) {
    while lifecycle.next().await != Signal::Drain {}
}

/// Until a signal to stop comes.
async fn serve(site: &mut Site, crew: &Crew, lifecycle: &mut Lifecycle) {
    while lifecycle.next().await == Signal::Reload {
        let loaded = Node::load(&site.config).and_then(|node| Ok((site.folder.read(&node, &site.tenants)?, node)));
        match loaded {
            Ok((tenants, node)) => {
                for section in site.node.needs_restart(&node) {
                    eprintln!("warren: {section} changed: that takes effect when `warren up` starts again");
                }
                let changes = site.tenants.changes(&tenants);
                let (added, removed, changed) = (changes.added.len(), changes.removed.len(), changes.changed.len());
                eprintln!(
                    "warren: configuration reloaded: {added} tenants added, {removed} removed, {changed} changed"
                );
                site.tenants = tenants;
                crew.reload();
            }
            Err(problems) => {
                tell::error(&problems.into());
                eprintln!("warren: configuration not reloaded: the old one stays in force");
            }
        }
    }
}

fn summary(site: &Site) -> String {
    let listen = &site.node.listen;
    let addresses = [("submission", &listen.submission), ("submissions", &listen.submissions), ("smtp", &listen.smtp)];
    let mut parts: Vec<String> =
        addresses.iter().flat_map(|(name, all)| all.iter().map(move |address| format!("{name} {address}"))).collect();
    parts.push(format!("{} tenants", site.tenants.tenants().len()));
    parts.join(", ")
}

/// The running programs, in the order in which they started.
#[derive(Default)]
struct Crew {
    keepers: Vec<Keeper>,
    priority: Option<Priority>,
}

impl Crew {
    async fn start_all(&mut self, programs: Vec<Program>, node: &str) -> anyhow::Result<()> {
        for program in programs {
            let name = program.name;
            let pid = self.start(program).await?;
            if name == crew::LAUNCHER && self.priority.is_none() {
                match Priority::follow(pid, node) {
                    Ok(priority) => self.priority = Some(priority),
                    Err(reason) => {
                        tell::warning(&format!("the node's programs get no priority over containers: {reason}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts one program and waits until it is ready; answers its pid.
    async fn start(&mut self, program: Program) -> anyhow::Result<u32> {
        let name = program.name;
        let (sender, mut news) = mpsc::channel(8);
        let began = Instant::now();
        self.keepers.push(Keeper::start(Arc::new(program), sender));
        match tokio::time::timeout(READY_DEADLINE, news.recv()).await {
            Ok(Some(News::Ready { pid })) => {
                tell::line(&format!("{name:<16} ready  pid {pid:<8} {} ms", began.elapsed().as_millis()))?;
                Ok(pid)
            }
            Ok(Some(News::Died { how })) => bail!("{name} did not start: {how}"),
            Ok(None) => bail!("{name} did not start"),
            Err(_) => bail!("{name} did not report READY=1 within {} s", READY_DEADLINE.as_secs()),
        }
    }

    fn reload(&self) {
        self.keepers.iter().for_each(Keeper::reload);
    }

    /// No more patience for any of them.
    fn hurry(&self) {
        self.keepers.iter().for_each(Keeper::kill);
    }

    /// Stops all in the order that lets mail end well: whoever brings mail first, the way out last.
    async fn stop(&mut self) {
        for name in crew::STOP_ORDER {
            for keeper in self.keepers.iter_mut().filter(|keeper| keeper.name == name) {
                keeper.stop().await;
            }
        }
    }
}
