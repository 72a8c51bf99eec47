//! A launcher of our own, asked to wake tenants as the platform asks.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::sockopt;
use warren_launcher_api::{
    CellId, Event, ImageName, Limits, Request, Role, SOCKET_NAME, Stage, Status, TenantName, VERSION,
};
use warren_packet::Packets;

use crate::daemon::Daemon;
use crate::msa;
use crate::place::Place;

/// For everything that is not measured.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the end of one container more.
const PATIENCE_EACH: Duration = Duration::from_millis(100);

/// A running launcher, our connection to it in the platform's role, and what the platform holds of tenants that are awake.
pub struct Launcher {
    // First, so that the launcher sees us go before it is told to end.
    packets: Packets,
    awake: BTreeMap<CellId, (OwnedFd, File)>,
    daemon: Daemon,
    slots: u64,
    tag: u64,
}

/// One measured wake.
pub struct Wake {
    /// Request to banner.
    pub total: Duration,
    /// Whether a warm slot was there.
    pub slot: bool,
    /// The launcher's own account of its part.
    pub stages: Vec<Stage>,
    /// Request to answer, as seen from here.
    pub answered: Duration,
    /// The container.
    pub cell: CellId,
}

impl Launcher {
    /// Starts one with so many slots. `name` tells it from others of this run.
    pub fn start(place: &Place, name: &str, slots: u64) -> anyhow::Result<Self> {
        let (state, run) = (place.state().join(name), place.run().join(name));
        for directory in [&state, &run] {
            std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let mut command = Command::new(place.program("warren-launcher")?);
        command.arg("--state").arg(&state).arg("--run").arg(&run).arg("--images").arg(place.images());
        let group = format!("warren-bench-{}-{name}", std::process::id());
        command.args(["--cgroup", &group, "--grace-ms", "0", "--slots", &slots.to_string()]);
        let mut daemon = Daemon::start(&mut command, &state.join("log"))?;
        let end = Instant::now() + PATIENCE;
        let packets = loop {
            match Packets::connect(run.join(SOCKET_NAME)) {
                Ok(packets) => break packets,
                Err(e) if Instant::now() > end => return Err(e).context("connect to the launcher"),
                Err(_) => daemon.check().context("the launcher")?,
            }
            std::thread::park_timeout(Duration::from_millis(5));
        };
        sockopt::set_socket_timeout(&packets, sockopt::Timeout::Recv, Some(PATIENCE)).context("set a timeout")?;
        let launcher = Launcher { packets, awake: BTreeMap::new(), daemon, slots, tag: 0 };
        launcher.packets.send(&Request::Hello { role: Role::Platform, version: VERSION }, &[]).context("say hello")?;
        match launcher.hear()? {
            (Event::Welcome { version: VERSION }, _) => Ok(launcher),
            (other, _) => bail!("not welcomed but told {other:?}"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// How it is.
    pub fn status(&mut self) -> anyhow::Result<Status> {
        let tag = self.ask(|tag| Request::Status { tag })?;
        loop {
            if let (Event::Status { tag: of, status }, _) = self.hear()?
                && of == tag
            {
                return Ok(status);
            }
        }
    }

    /// Waits until the status is as wanted.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("no {what} after {PATIENCE:?} but {status:?}; {}", self.daemon.last_words());
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until all slots are there, so that making them is not measured.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let slots = self.slots;
        self.wait("full pool", |status| status.slots_ready >= status.slots_wanted.max(slots)).map(drop)
    }

    /// Wakes a tenant and waits for its banner. It stays awake, and its pidfd and control channel are kept, as the platform keeps them.
    pub fn wake(&mut self, tenant: &TenantName) -> anyhow::Result<Wake> {
        let image = ImageName::new("msa").context("the image's name")?;
        let began = Instant::now();
        let limits = Limits::default();
        let tag = self.ask(|tag| Request::Wake { tag, tenant: tenant.clone(), image, limits })?;
        let (cell, slot, stages, descriptors) = loop {
            match self.hear()? {
                (Event::Woken { tag: of, cell, slot, stages }, fds) if of == tag => break (cell, slot, stages, fds),
                (Event::Failed { tag: of, error }, _) if of == tag => {
                    bail!("the launcher cannot wake {tenant}: {error}; {}", self.daemon.last_words())
                }
                _ => {}
            }
        };
        let answered = began.elapsed();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().context("Woken came without its descriptors");
        let (pidfd, control, entrance) = (next()?, next()?, next()?);
        let control = msa::banner(tenant, control, entrance).with_context(|| self.daemon.last_words())?;
        let total = began.elapsed();
        self.awake.insert(cell, (pidfd, control));
        let containers = u32::try_from(self.awake.len()).unwrap_or(u32::MAX);
        self.daemon.patience(PATIENCE + PATIENCE_EACH * containers);
        Ok(Wake { total, slot, stages, answered, cell })
    }

    /// Ends a container.
    pub fn stop(&mut self, cell: CellId) -> anyhow::Result<()> {
        let tag = self.ask(|tag| Request::Stop { tag, cell, grace_ms: 0 })?;
        loop {
            match self.hear()?.0 {
                Event::Stopped { tag: of } if of == tag => break,
                Event::Failed { tag: of, error } if of == tag => bail!("the launcher cannot stop the tenant: {error}"),
                _ => {}
            }
        }
        self.awake.remove(&cell);
        Ok(())
    }

    fn ask(&mut self, request: impl FnOnce(u64) -> Request) -> anyhow::Result<u64> {
        self.tag += 1;
        self.packets.send(&request(self.tag), &[]).context("ask the launcher")?;
        Ok(self.tag)
    }

    fn hear(&self) -> anyhow::Result<(Event, Vec<OwnedFd>)> {
        let heard = self.packets.recv().context("hear the launcher")?;
        heard.with_context(|| format!("the launcher hung up; {}", self.daemon.last_words()))
    }
}
