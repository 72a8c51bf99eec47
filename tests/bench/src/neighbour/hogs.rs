//! Tenants that take all they can get, and whoever keeps them at it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::sockopt;
use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use warren_control::{ApiReply, ApiRequest, TenantName};
use warren_lab::Lab;
use warren_packet::Packets;
use warren_scenarios::{Node, Tenant, leftovers};

use super::letter;

/// Programs of `tests/probe/hog.rs`, by the names of their tenants.
pub const PROGRAMS: [&str; 6] = ["forker", "filler", "littler", "eater", "opener", "flooder"];
/// A tenant with a real MSA whose user sends mail after mail.
pub const SENDER: &str = "sender";
/// The image of the programs.
pub const IMAGE: &str = "hog";

/// Sessions of the sender at once.
const SESSIONS: usize = 8;
/// Those that were ended are wanted again so soon; the fleet makes them wait as long as it finds right.
const AGAIN: Duration = Duration::from_millis(200);
/// For an answer, before something else is done.
const PATIENCE: Duration = Duration::from_millis(20);

/// All tenants that may be hogs.
pub fn tenants() -> Vec<Tenant> {
    let limits = "memory = \"48M\"\npids = 24\nopen_files = 96\nfile_size = \"16M\"\nvolume_size = \"32M\"";
    let mut all: Vec<Tenant> = PROGRAMS
        .into_iter()
        .map(|name| {
            let mut tenant = Tenant::new(name, "mallory");
            tenant.extra = format!("image = \"{IMAGE}\"\n[limits]\n{limits}\n");
            tenant
        })
        .collect();
    let mut sender = Tenant::new(SENDER, "mallory");
    sender.extra = without_limits();
    all.push(sender);
    all
}

/// Who sends without end is stopped by its limits after some minutes. Here it is to go on.
pub fn without_limits() -> String {
    let much = ["account_messages_per_hour", "account_recipients_per_hour", "messages_per_hour", "recipients_per_hour"];
    let much: String = much.into_iter().map(|limit| format!("{limit} = 1000000\n")).collect();
    format!("[limits]\n{much}")
}

/// Says when dropped that it is over, however that came: a scope ends when its threads do.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the hogs need.
#[derive(Clone, Copy)]
pub struct Sty<'a> {
    pub lab: &'a Lab,
    pub node: &'a Node<'a>,
    pub tls: &'a Arc<ClientConfig>,
    pub images: &'a Path,
}

impl Sty<'_> {
    /// Runs `work` with these at it. Afterwards they are gone, and what they have written, too.
    pub fn beside<T>(&self, names: &[&str], work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let programs: Vec<&str> = names.iter().copied().filter(|name| PROGRAMS.contains(name)).collect();
        let over = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            let end = Over(&over);
            let keeper = scope.spawn(|| self.keep_awake(&programs, &over));
            if names.contains(&SENDER) {
                let client = self.lab.namespace("client").context("the lab has no client")?;
                for _ in 0..SESSIONS {
                    let (client, over) = (client.clone(), &over);
                    scope.spawn(move || warren_scenarios::inside(&client, || self.send(over)));
                }
            }
            let done = work();
            drop(end);
            keeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            done
        });
        self.end(&programs)?;
        done
    }

    fn desk(&self) -> anyhow::Result<Desk> {
        Desk::open(&self.node.run_dir().join("platform.sock"))
    }

    fn keep_awake(&self, names: &[&str], over: &AtomicBool) -> anyhow::Result<()> {
        let mut desk = self.desk()?;
        while !over.load(Ordering::Relaxed) {
            for name in names {
                // Whoever is backed off is answered later.
                if !desk.waits_for(name) {
                    desk.order(name, |tag, tenant| ApiRequest::Wake { tag, tenant })?;
                }
            }
            desk.hear()?;
            std::thread::park_timeout(AGAIN);
        }
        Ok(())
    }

    fn send(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            // The point is that it tries.
            let _ = letter::submit(self.tls, "mallory@sender.example", "flood@plain.example");
        }
    }

    /// Ends them, has the fleet forget how they ended, and empties their volumes.
    fn end(&self, programs: &[&str]) -> anyhow::Result<()> {
        let mut desk = self.desk()?;
        for name in programs {
            desk.order(name, |tag, tenant| ApiRequest::Suspend { tag, tenant })?;
        }
        while desk.waits() {
            // Again, as one of them may have been starting.
            self.kill()?;
            desk.hear()?;
        }
        for name in programs {
            desk.order(name, |tag, tenant| ApiRequest::Resume { tag, tenant })?;
            let state = self.node.state_dir();
            if let Ok(number) = fs::read_link(state.join("tenants").join(name)) {
                for entry in fs::read_dir(state.join("volumes").join(number)).into_iter().flatten().flatten() {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        while desk.waits() {
            desk.hear()?;
        }
        // Whoever is measured next does not wait for the disk to be done with what is gone.
        ensure!(Command::new("sync").status().context("sync")?.success(), "sync failed");
        Ok(())
    }

    fn kill(&self) -> anyhow::Result<()> {
        let program = self.images.join(IMAGE).join("rootfs/warren-msa");
        let program = fs::metadata(program).map(|about| (about.dev(), about.ino())).context("the hogs' program")?;
        for (pid, _) in leftovers::processes() {
            let runs = fs::metadata(format!("/proc/{pid}/exe")).map(|about| (about.dev(), about.ino()));
            if runs.is_ok_and(|runs| runs == program)
                && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(())
    }
}

/// A connection to the platform's socket, for at most one question about each tenant at a time.
struct Desk {
    packets: Packets,
    asked: BTreeMap<u64, String>,
    tag: u64,
}

impl Desk {
    fn open(socket: &Path) -> anyhow::Result<Self> {
        let packets = Packets::connect(socket).context("connect to the platform")?;
        sockopt::set_socket_timeout(&packets, sockopt::Timeout::Recv, Some(PATIENCE)).context("set a timeout")?;
        Ok(Desk { packets, asked: BTreeMap::new(), tag: 0 })
    }

    fn order(&mut self, name: &str, request: impl FnOnce(u64, TenantName) -> ApiRequest) -> anyhow::Result<()> {
        let tenant = TenantName::new(name).context("a tenant's name")?;
        self.tag += 1;
        self.asked.insert(self.tag, name.to_owned());
        self.packets.send(&request(self.tag, tenant), &[]).context("ask the platform")
    }

    fn waits(&self) -> bool {
        !self.asked.is_empty()
    }

    fn waits_for(&self, name: &str) -> bool {
        self.asked.values().any(|asked| asked == name)
    }

    /// What has been answered, waiting a little for it.
    fn hear(&mut self) -> anyhow::Result<()> {
        while self.waits() {
            match self.packets.recv::<ApiReply>() {
                Ok(Some((reply, _))) => drop(self.asked.remove(&reply.tag())),
                Ok(None) => bail!("the platform hung up"),
                Err(error) if error.would_block() => return Ok(()),
                Err(error) => return Err(error).context("hear the platform"),
            }
        }
        Ok(())
    }
}
