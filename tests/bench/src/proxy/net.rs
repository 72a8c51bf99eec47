//! The benchmark's own internet.
//!
//! ```text
//!   cell (lo only, every address local) ── door ──▶ node 198.51.100.1 ══ veth ══ mx 198.51.100.10
//!   sender                                          the path, direct sender       sink
//! ```

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use super::sink::{BROKEN_MX, TLS_MX};
use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// Where paths leave from, and direct senders.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Where the sink is.
pub const MX: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Connections that may wait in a door.
const BACKLOG: i32 = 4096;

/// A network namespace; it lives as long as this, or a process or socket in it.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    fn create() -> anyhow::Result<Self> {
        // A thread of its own, for a thread is what a namespace is entered by.
        let made = std::thread::spawn(|| -> anyhow::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("open a network namespace")?.into())
        });
        Ok(Namespace(made.join().expect("the thread returns its errors")?))
    }

    /// A cell: whatever address is dialled in it, it arrives at a door.
    pub fn cell() -> anyhow::Result<Self> {
        let cell = Self::create()?;
        cell.within(|| ip("link set lo up\nroute add local 0.0.0.0/0 dev lo\n"))??;
        cell.within(many_ports)??;
        Ok(cell)
    }

    /// Runs `work` with this namespace as the network; what it opens or starts stays there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
                Ok(work())
            });
            done.join().expect("work does not panic")
        })
    }

    /// A listener in it.
    pub fn door(&self, at: SocketAddr) -> anyhow::Result<TcpListener> {
        let listen = || -> std::io::Result<TcpListener> {
            let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&at.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        self.within(listen)?.with_context(|| format!("listen on {at} in a cell"))
    }
}

/// The node and the MX host, joined by one wire.
pub fn node_and_mx() -> anyhow::Result<(Namespace, Namespace)> {
    let (node, mx) = (Namespace::create()?, Namespace::create()?);
    let other = format!("/proc/{}/fd/{}", std::process::id(), mx.0.as_raw_fd());
    node.within(|| {
        ip(&format!(
            "link set lo up\nlink add eth0 type veth peer name eth0 netns {other}\naddr add {NODE}/24 dev eth0\nlink set eth0 up\n"
        ))
    })??;
    mx.within(|| ip(&format!("link set lo up\naddr add {MX}/24 dev eth0\naddr add {TLS_MX}/24 dev eth0\naddr add {BROKEN_MX}/24 dev eth0\nlink set eth0 up\n")))??;
    node.within(many_ports)??;
    Ok((node, mx))
}

/// A hundred thousand short connections in a row find a port each.
fn many_ports() -> anyhow::Result<()> {
    for (name, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("set {name}"))?;
    }
    Ok(())
}

/// Runs `ip -batch` on these commands.
fn ip(commands: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip (Debian: iproute2)")?;
    child.stdin.take().expect("it was asked for").write_all(commands.as_bytes()).context("write to ip")?;
    let output = child.wait_with_output().context("wait for ip")?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
