//! A launcher of our own, asked to wake a tenant as the platform asks.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use warren_launcher_api::{CellId, Event, ImageName, Limits, Request, Role, SOCKET_NAME, Stage, VERSION};
use warren_packet::Packets;

use crate::msa;

/// For everything that is not measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running launcher and our connection to it in the platform's role.
pub struct Launcher {
    child: Child,
    packets: Packets,
    log: PathBuf,
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
}

impl Launcher {
    /// Starts one with so many slots, with its state below `home`.
    pub fn start(program: &Path, home: &Path, images: &Path, slots: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(home).with_context(|| format!("make {}", home.display()))?;
        let log = home.join("log");
        let errors = File::create(&log).context("make the launcher's log")?;
        let (state, run) = (home.join("state"), home.join("run"));
        for directory in [&state, &run] {
            std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let mut child = Command::new(program)
            .arg("--state")
            .arg(state)
            .arg("--run")
            .arg(&run)
            .arg("--images")
            .arg(images)
            .args(["--cgroup", &format!("warren-bench-{}-{slots}", std::process::id()), "--slots", &slots.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let end = Instant::now() + PATIENCE;
        let packets = loop {
            match Packets::connect(run.join(SOCKET_NAME)) {
                Ok(packets) => break packets,
                Err(e) => {
                    if let Some(status) = child.try_wait().context("watch the launcher")? {
                        bail!("the launcher ended ({status}):\n{}", std::fs::read_to_string(&log).unwrap_or_default());
                    }
                    if Instant::now() > end {
                        return Err(e).context("connect to the launcher");
                    }
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
        };
        let launcher = Launcher { child, packets, log, slots, tag: 0 };
        launcher.packets.send(&Request::Hello { role: Role::Platform, version: VERSION }, &[]).context("say hello")?;
        match launcher.hear()? {
            (Event::Welcome { version: VERSION }, _) => Ok(launcher),
            (other, _) => bail!("not welcomed but told {other:?}"),
        }
    }

    /// Waits until all slots are there, so that making them is not measured.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let tag = self.ask(|tag| Request::Status { tag })?;
            let status = loop {
                match self.hear()?.0 {
                    Event::Status { tag: of, status } if of == tag => break status,
                    _ => {}
                }
            };
            if status.slots_ready >= status.slots_wanted.max(self.slots) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} of {} slots after {PATIENCE:?}; {}", status.slots_ready, self.slots, self.log());
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Wakes the tenant, waits for its banner, and ends it again.
    pub fn wake(&mut self) -> anyhow::Result<Wake> {
        let (tenant, image) = (msa::tenant()?, ImageName::new("msa").context("the image's name")?);
        let began = Instant::now();
        let limits = Limits::default();
        let tag = self.ask(|tag| Request::Wake { tag, tenant: tenant.clone(), image: image.clone(), limits })?;
        let (cell, slot, stages, descriptors) = loop {
            match self.hear()? {
                (Event::Woken { tag: of, cell, slot, stages }, fds) if of == tag => break (cell, slot, stages, fds),
                (Event::Failed { tag: of, error }, _) if of == tag => {
                    bail!("the launcher cannot wake the tenant: {error}; {}", self.log())
                }
                _ => {}
            }
        };
        let answered = began.elapsed();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().context("Woken came without its descriptors");
        let (_pidfd, control, entrance) = (next()?, next()?, next()?);
        msa::banner(control, entrance).with_context(|| self.log())?;
        let total = began.elapsed();
        self.stop(cell)?;
        Ok(Wake { total, slot, stages, answered })
    }

    fn stop(&mut self, cell: CellId) -> anyhow::Result<()> {
        let tag = self.ask(|tag| Request::Stop { tag, cell, grace_ms: 0 })?;
        loop {
            match self.hear()?.0 {
                Event::Stopped { tag: of } if of == tag => return Ok(()),
                Event::Failed { tag: of, error } if of == tag => bail!("the launcher cannot stop the tenant: {error}"),
                _ => {}
            }
        }
    }

    fn ask(&mut self, request: impl FnOnce(u64) -> Request) -> anyhow::Result<u64> {
        self.tag += 1;
        self.packets.send(&request(self.tag), &[]).context("ask the launcher")?;
        Ok(self.tag)
    }

    fn hear(&self) -> anyhow::Result<(Event, Vec<OwnedFd>)> {
        let heard = self.packets.recv().context("hear the launcher")?;
        heard.with_context(|| format!("the launcher hung up; {}", self.log()))
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("its log ends:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends its containers and slots before itself.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                eprintln!("warren-bench: the launcher had to be killed; look for control groups named warren-bench-*");
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
