//! Namespaces and links: a bridge in the lab's own namespace, a veth pair to each host.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::map::{self, Host};

/// The bridge's name, inside the lab only.
const BRIDGE: &str = "switch";

/// A host's network namespace; it lives as long as this descriptor or a process in it.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// A new, empty one.
    pub fn create() -> anyhow::Result<Self> {
        // A thread of its own, for a thread is what a namespace is entered by.
        let made = std::thread::spawn(|| -> anyhow::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("open a network namespace")?.into())
        });
        Ok(Namespace(made.join().expect("the thread returns its errors")?))
    }

    /// Its descriptor's number in this process (in a lab: pid 1): others reach it as `/proc/PID/fd/N`.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
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
}

/// Makes the bridge in the current namespace, and every host with its link.
pub fn build(hosts: &[Host], bridge_addresses: &[Ipv4Addr]) -> anyhow::Result<Vec<(&'static str, Namespace)>> {
    let mut switch = String::from("link set lo up\n");
    // No spanning tree and no delay: a port forwards as soon as it is up.
    switch += &format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n");
    for address in bridge_addresses {
        switch += &both(*address, BRIDGE);
    }
    switch += &format!("link set {BRIDGE} up\n");
    switch += &other_network(map::DNS, BRIDGE);
    let mut made = Vec::new();
    for host in hosts {
        let namespace = Namespace::create()?;
        switch += &format!("link add {} type veth peer name eth0 netns /proc/1/fd/{}\n", host.name, namespace.fd());
        switch += &format!("link set {} master {BRIDGE} up\n", host.name);
        made.push((host.name, namespace));
    }
    ip(&switch)?;
    for (host, (_, namespace)) in hosts.iter().zip(&made) {
        let mut commands = String::from("link set lo up\n");
        for address in &host.addresses {
            commands += &both(*address, "eth0");
        }
        commands += "link set eth0 up\n";
        commands += &other_network(host.addresses[0], "eth0");
        namespace.within(|| ip(&commands))??;
    }
    Ok(made)
}

/// The node's network and everybody else's are one wire: each reaches the other directly.
fn other_network(own: Ipv4Addr, device: &str) -> String {
    let node = map::NODE.contains(&own);
    let (four, six) =
        if node { ("198.51.100.0/24", "2001:db8:51::/64") } else { ("203.0.113.0/24", "2001:db8:113::/64") };
    format!("route add {four} dev {device}\nroute add {six} dev {device}\n")
}

/// An address and its twin. Nobody else has it, so there is no waiting for whoever might object.
fn both(address: Ipv4Addr, device: &str) -> String {
    format!("addr add {address}/24 dev {device}\naddr add {}/64 dev {device} nodad\n", map::twin(address))
}

/// Runs `ip -batch` on these commands, in the current namespace.
pub fn ip(commands: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip (Debian: iproute2)")?;
    child.stdin.take().expect("it was asked for").write_all(commands.as_bytes()).context("write to ip")?;
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
