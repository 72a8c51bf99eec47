//! The same image under an OCI runtime from Debian, the way one would use it without a launcher of one's own: a network namespace with
//! its listeners, then `crun run` or `runc run`.
//!
//! The bundle is the launcher's own (`warren-launcher bundle`): the same root, program, namespaces, seccomp filter, limits. What differs is
//! in the runtime's favour: the volume is a plain bind mount without id mapping, and the network has no routes.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use serde_json::{Value, json};
use warren_control::{CONTROL_NAME, RELAY_PORT, SUBMISSION_PORT};
use warren_launcher_api::{Limits, VOLUME_PATH};

use crate::msa;
use crate::place::Place;

/// For the container's end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime, with a bundle of its own.
pub struct Runtime {
    name: &'static str,
    bundle: PathBuf,
    volume: PathBuf,
    root: PathBuf,
    /// What `warren-launcher bundle` says, with the image where it is seen.
    template: Value,
    images: PathBuf,
    seen: PathBuf,
    count: u64,
}

impl Runtime {
    /// The runtime, if this machine has it.
    pub fn find(name: &'static str, place: &Place) -> anyhow::Result<Option<Self>> {
        if Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let (bundle, root) = (place.run().join(name), place.run().join(format!("{name}-root")));
        let volume = place.state().join(format!("{name}-volume"));
        for directory in [&bundle, &volume] {
            std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let told = Command::new(place.program("warren-launcher")?)
            .args(["bundle", "--images"])
            .arg(place.images())
            .output()
            .context("ask the launcher for the bundle")?;
        let mut template: Value = serde_json::from_slice(&told.stdout)
            .with_context(|| format!("the launcher's bundle: {}", String::from_utf8_lossy(&told.stderr)))?;
        let user = ["/linux/uidMappings/0/hostID", "/process/user/uid"].map(|place| template.pointer(place)?.as_u64());
        let user = user.into_iter().sum::<Option<u64>>().and_then(|user| u32::try_from(user).ok());
        let user = user.context("the launcher's bundle names no user")?;
        std::os::unix::fs::chown(&volume, Some(user), Some(user)).context("give the volume away")?;
        let seen = place.run().join(format!("{name}-images"));
        std::fs::create_dir_all(&seen).with_context(|| format!("make {}", seen.display()))?;
        template["root"]["path"] = json!(seen.join("msa/rootfs"));
        let images = place.images().to_owned();
        Ok(Some(Runtime { name, bundle, volume, root, template, images, seen, count: 0 }))
    }

    /// The runtime's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs a container, waits for its banner, and ends it again: the time from nothing to banner.
    pub fn start(&mut self) -> anyhow::Result<Duration> {
        self.count += 1;
        let id = format!("warren-bench-{}-{}-{}", std::process::id(), self.name, self.count);
        // A thread of its own, for namespaces are entered by threads.
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                hide_unified_cgroups()?;
                // A container's root is nobody to the machine, and could not pass through, say, /root.
                mount(Some(&self.images), &self.seen, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .context("show the images where everybody may pass")?;
                self.measured(&id)
            });
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn measured(&self, id: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        loopback_up()?;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").context("open the network namespace")?;
        let control_name = SocketAddr::from_abstract_name(CONTROL_NAME).context("the control channel's name")?;
        let inherited: [OwnedFd; 3] = [
            TcpListener::bind(("127.0.0.1", SUBMISSION_PORT)).context("bind the entrance")?.into(),
            TcpListener::bind(("127.0.0.1", RELAY_PORT)).context("bind the entrance")?.into(),
            UnixListener::bind_addr(&control_name).context("bind the control channel")?.into(),
        ];
        let network = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let bundle = serde_json::to_vec(&self.config(id, &network)).context("write the bundle")?;
        std::fs::write(self.bundle.join("config.json"), bundle).context("write the bundle")?;
        let log = std::fs::File::create(self.bundle.join("log")).context("make the runtime's log")?;
        let mappings =
            inherited.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut child = self
            .command()
            .args(["run", "--preserve-fds", "3", "--bundle"])
            .arg(&self.bundle)
            .arg(id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .fd_mappings(mappings)
            .context("pass the listeners")?
            .spawn()
            .with_context(|| format!("run {}", self.name))?;
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let stream = rustix::net::SocketType::STREAM;
        let control = rustix::net::socket_with(rustix::net::AddressFamily::UNIX, stream, flags, None)?;
        let entrance = rustix::net::socket_with(rustix::net::AddressFamily::INET, stream, flags, None)?;
        let greeted = msa::banner(&msa::tenant("bench")?, control, entrance);
        let total = began.elapsed();
        let _ = self.command().args(["kill", id, "KILL"]).stderr(Stdio::null()).status();
        let end = Instant::now() + PATIENCE;
        while child.try_wait().context("watch the runtime")?.is_none() {
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        // Ends what is left, if anything: `run` deletes by itself.
        let _ = self.command().args(["delete", "--force", id]).stderr(Stdio::null()).status();
        match greeted {
            Ok(_) => Ok(total),
            Err(e) => {
                let log = std::fs::read_to_string(self.bundle.join("log")).unwrap_or_default();
                bail!("{}: {e:#}\n{log}", self.name)
            }
        }
    }

    /// The launcher's bundle, with what it gives at a wake: cell, volume, limits.
    fn config(&self, id: &str, network: &str) -> Value {
        let limits = Limits::default();
        let mut config = self.template.clone();
        let process = &mut config["process"];
        // The runtimes tell the number of the process themselves, or not at all.
        process["env"] = json!(["LISTEN_FDS=3", "LISTEN_FDNAMES=submission:relay:control"]);
        process["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "hard": limits.open_files, "soft": limits.open_files},
            {"type": "RLIMIT_FSIZE", "hard": limits.file_bytes, "soft": limits.file_bytes},
        ]);
        if let Some(mounts) = config["mounts"].as_array_mut() {
            let options = ["bind", "rw", "nosuid", "nodev", "noexec"];
            mounts.push(json!({"destination": VOLUME_PATH, "type": "bind", "source": self.volume, "options": options}));
        }
        let linux = &mut config["linux"];
        linux["cgroupsPath"] = json!(format!("/{id}"));
        linux["resources"] = json!({
            "memory": {"limit": limits.memory_bytes},
            "pids": {"limit": limits.pids},
            "cpu": {"shares": u64::from(limits.cpu_weight) * 1024 / 100},
        });
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "network");
            namespaces.push(json!({"type": "network", "path": network}));
        }
        config
    }

    /// The runtime, with its state where the launcher's is.
    fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command.arg("--root").arg(&self.root);
        command
    }
}

/// crun refuses a machine that has both kinds of control groups, unless it does not see the unified one.
fn hide_unified_cgroups() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("part from the machine's mounts")?;
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.controllers").exists() {
        umount2(unified, MntFlags::MNT_DETACH).context("hide the unified control groups")?;
    }
    Ok(())
}

/// Sets `lo` up in this thread's network, by one netlink message: starting `ip` would be measured too.
fn loopback_up() -> anyhow::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&NEWLINK.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    // struct ifinfomsg: family and type unspecified, index 1 (lo is always the first), flags, and which of them change
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&1_i32.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).context("ask for lo up")?;
    let mut answer = [0; 128];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).context("hear of lo")?;
    match answer.get(16..20).filter(|_| length >= 20) {
        Some([0, 0, 0, 0]) => Ok(()),
        _ => bail!("the kernel does not set lo up: {:?}", &answer[..length]),
    }
}
