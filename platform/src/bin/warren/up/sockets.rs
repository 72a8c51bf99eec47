//! The sockets of a node, bound once and handed to programs at every start.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, anyhow};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use socket2::{Domain, Protocol, Socket, Type};
use warren_config::Node;

use super::prepare::Users;
use crate::machine::{Owner, ROOT, bind_problem};

/// Connections that wait until a restarting program takes them.
const BACKLOG: i32 = 1024;

pub struct Sockets {
    pub launcher: OwnedFd,
    pub platform: OwnedFd,
    pub names: OwnedFd,
    pub proxy: OwnedFd,
    pub resolver: OwnedFd,
    pub receiver: OwnedFd,
    pub submission: Vec<OwnedFd>,
    pub submissions: Vec<OwnedFd>,
    pub smtp: Vec<OwnedFd>,
}

/// Binds all of them. The caller holds the node's lock, so whatever socket files are there are stale.
pub fn all(node: &Node, users: &Users) -> anyhow::Result<Sockets> {
    let submission = tcp("submission", &node.listen.submission)?;
    let submissions = tcp("submissions", &node.listen.submissions)?;
    let smtp = tcp("smtp", &node.listen.smtp)?;
    Ok(Sockets {
        launcher: launcher(node)?,
        // Root, and the receiver, which asks about recipients.
        platform: unix(&node.paths.platform_socket(), SocketType::SEQPACKET, users.receiver, 0o600)?,
        // The resolver writes, the proxy has the other end open.
        names: unix(&node.paths.names_socket(), SocketType::DGRAM, users.resolver, 0o600)?,
        // Root: `warren egress`; and the platform, which asks for metrics.
        proxy: unix(&node.paths.proxy_socket(), SocketType::SEQPACKET, users.platform, 0o600)?,
        // Root, and the platform, which asks for metrics.
        resolver: unix(&node.paths.resolver_socket(), SocketType::STREAM, users.platform, 0o600)?,
        receiver: unix(&node.paths.receiver_socket(), SocketType::STREAM, users.platform, 0o600)?,
        submission,
        submissions,
        smtp,
    })
}

/// Three users connect to the launcher, which tells them apart by what the kernel says of them; others are shown the
/// door.
pub fn launcher(node: &Node) -> anyhow::Result<OwnedFd> {
    unix(&node.paths.launcher_socket(), SocketType::SEQPACKET, ROOT, 0o666)
}

fn tcp(name: &str, addresses: &[SocketAddr]) -> anyhow::Result<Vec<OwnedFd>> {
    let listening =
        |address: &SocketAddr| tcp_listener(*address).map_err(|error| anyhow!(bind_problem(name, *address, &error)));
    addresses.iter().map(listening).collect()
}

fn tcp_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` is two addresses, not a conflict.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A unix socket at a path. Between binding and the change of owner nobody but root can connect.
fn unix(path: &Path, kind: SocketType, owner: Owner, mode: u32) -> anyhow::Result<OwnedFd> {
    let bound = || -> io::Result<OwnedFd> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        chown(path, Some(owner.uid), Some(owner.gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if kind != SocketType::DGRAM {
            listen(&socket, BACKLOG)?;
        }
        Ok(socket)
    };
    bound().with_context(|| format!("socket {}", path.display()))
}
