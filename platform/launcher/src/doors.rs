//! Sockets made in a cell, for others to hold.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, socket_with,
    sockopt::{set_ipv6_v6only, set_socket_recv_buffer_size, set_socket_reuseaddr, set_socket_reuseport},
};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use warren_launcher_api::Role;

/// Connections that wait for the proxy, per cell. A tenant can fill it, so it is small; its MSA waits and tries again.
const EXIT_BACKLOG: i32 = 32;
/// TCP questions that wait for the resolver, per cell.
const RESOLVER_BACKLOG: i32 = 16;
/// UDP questions that wait, per cell, in bytes with the kernel's overhead: some dozens.
const RESOLVER_BUFFER: usize = 64 * 1024;
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 53), 53);

/// Runs `task` in the network namespace of the process behind `pidfd`, and comes back.
pub fn in_cell<T>(pidfd: &OwnedFd, home: &OwnedFd, task: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::NETWORK)?;
    let result = task();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    result
}

/// The door that `role` holds; call it in the cell.
///
/// With SO_REUSEPORT, so that a door can be made anew while an earlier holder, hung or not yet gone, still has the old one. The tenant
/// cannot join in: the kernel asks for the same user, and for a capability to bind these ports at all.
pub fn door(role: Role) -> io::Result<Vec<OwnedFd>> {
    match role {
        Role::Proxy => Ok(vec![exit()?]),
        Role::Resolver => {
            let udp = new_socket(AddressFamily::INET, SocketType::DGRAM)?;
            set_socket_recv_buffer_size(&udp, RESOLVER_BUFFER)?;
            bind(&udp, &RESOLVER)?;
            let tcp = new_socket(AddressFamily::INET, SocketType::STREAM)?;
            set_socket_reuseaddr(&tcp, true)?;
            bind(&tcp, &RESOLVER)?;
            listen(&tcp, RESOLVER_BACKLOG)?;
            Ok(vec![udp, tcp])
        }
        Role::Platform => Ok(Vec::new()),
    }
}

/// `[::]:25` for both families, or `0.0.0.0:25` where the kernel has no IPv6.
fn exit() -> io::Result<OwnedFd> {
    let socket = match new_socket(AddressFamily::INET6, SocketType::STREAM) {
        Ok(socket) => {
            set_ipv6_v6only(&socket, false)?;
            set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 25, 0, 0))?;
            socket
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let socket = new_socket(AddressFamily::INET, SocketType::STREAM)?;
            set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 25))?;
            socket
        }
        Err(error) => return Err(error),
    };
    listen(&socket, EXIT_BACKLOG)?;
    Ok(socket)
}

fn new_socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

/// Unconnected sockets; call it in the cell. First `tcp`, then `control`.
pub fn sockets(tcp: usize, control: usize) -> io::Result<Vec<OwnedFd>> {
    let make = |family| Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?);
    let tcp = (0..tcp).map(|_| make(AddressFamily::INET));
    let control = (0..control).map(|_| make(AddressFamily::UNIX));
    tcp.chain(control).collect()
}
