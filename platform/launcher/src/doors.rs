//! Sockets made in a cell, for others to hold.
//!
//! ```text
//!   first holder ◀── exit; questions by UDP and TCP ── made once, kept here with the cell ── the same sockets ──▶ its successor
//! ```
//!
//! A door outlives its holder: whoever dials while there is none waits in its backlog, and whoever holds it next takes him in. An old holder that hangs and still
//! has it takes nothing from the new one, because connections wait in the socket and not with those who have it.
//!
//! A launcher has not got the sockets of the one before, and makes others beside them; holders close the earlier ones when they have these. Whoever waits in
//! them then, or is about to, waits in the new ones from there on: the cell's kernel is told to see to that.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::{fs, io};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getpeername, listen, socket_with,
    sockopt::{
        set_ipv6_v6only, set_socket_recv_buffer_size, set_socket_reuseaddr, set_socket_reuseport, socket_acceptconn,
        socket_type,
    },
};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_thread_name_spaces};
use warren_launcher_api::Role;

use crate::parcel::Parcel;

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
    crate::sys::return_home(home, LinkNameSpaceType::Network);
    result
}

/// The sockets of a cell that are made once. Two descriptors for each cell: with a third 5,000 cells would need more than the customary limit of 20,000.
#[derive(Default)]
pub struct Kept {
    exit: Option<OwnedFd>,
    /// By UDP, then by TCP.
    questions: Option<Parcel>,
}

impl Kept {
    /// Both doors, if they are not there yet; call it in the cell. Whoever runs in it then finds their addresses taken.
    pub fn make(&mut self) -> io::Result<()> {
        for role in [Role::Proxy, Role::Resolver] {
            self.door(role)?;
        }
        Ok(())
    }

    /// Whether both are there.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.exit.is_some() && self.questions.is_some()
    }

    /// The door that `role` holds; call it in the cell.
    ///
    /// With SO_REUSEPORT, so that a door can be made although somebody still has one of the same address that an earlier launcher made. The tenant cannot
    /// join in: the kernel asks for the same user, and for a capability to bind these ports at all.
    pub fn door(&mut self, role: Role) -> io::Result<Vec<OwnedFd>> {
        match role {
            Role::Proxy => Ok(vec![again(&mut self.exit, exit)?]),
            Role::Resolver => together(&mut self.questions, [questions, questions_by_tcp]),
            Role::Platform => Ok(Vec::new()),
        }
    }
}

/// The socket that is kept, or that `make` makes now. What an earlier holder shut or connected serves nobody any more.
fn again(kept: &mut Option<OwnedFd>, make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    match kept {
        Some(socket) if is_open(socket) => socket.try_clone(),
        _ => kept.insert(make()?).try_clone(),
    }
}

/// The same of several that are kept together.
fn together<const N: usize>(
    kept: &mut Option<Parcel>,
    make: [fn() -> io::Result<OwnedFd>; N],
) -> io::Result<Vec<OwnedFd>> {
    let mut known = match kept {
        Some(parcel) => parcel.open()?,
        None => Vec::new(),
    }
    .into_iter();
    let mut news = false;
    let mut good = |make: fn() -> io::Result<OwnedFd>| match known.next().filter(is_open) {
        Some(socket) => Ok(socket),
        None => {
            news = true;
            make()
        }
    };
    let sockets = make.into_iter().map(&mut good).collect::<io::Result<Vec<_>>>()?;
    if news {
        *kept = Some(Parcel::of(&sockets)?);
    }
    Ok(sockets)
}

/// Whether it still takes whoever comes: a stream listens, datagrams come from anybody.
fn is_open(socket: &OwnedFd) -> bool {
    if socket_type(socket) == Ok(SocketType::STREAM) {
        socket_acceptconn(socket) == Ok(true)
    } else {
        getpeername(socket).is_err()
    }
}

fn questions() -> io::Result<OwnedFd> {
    let socket = new_socket(AddressFamily::INET, SocketType::DGRAM)?;
    set_socket_recv_buffer_size(&socket, RESOLVER_BUFFER)?;
    bind(&socket, &RESOLVER)?;
    Ok(socket)
}

fn questions_by_tcp() -> io::Result<OwnedFd> {
    let socket = new_socket(AddressFamily::INET, SocketType::STREAM)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &RESOLVER)?;
    take_over()?;
    listen(&socket, RESOLVER_BACKLOG)?;
    Ok(socket)
}

/// When a listener is closed, those who wait in it are moved to another one of its address (Linux 5.14), and not reset. A setting of the network namespace that this
/// thread is in; the tenant cannot reach it.
fn take_over() -> io::Result<()> {
    match fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1") {
        // Somebody made it read-only, on purpose. Then who waits at that moment is reset, and his MSA tries again.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        result => result,
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
    take_over()?;
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{Shutdown, SocketAddrV4, connect, shutdown};

    use super::*;

    fn listener() -> io::Result<OwnedFd> {
        let socket = new_socket(AddressFamily::INET, SocketType::STREAM)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        listen(&socket, 1)?;
        Ok(socket)
    }

    fn datagrams() -> io::Result<OwnedFd> {
        let socket = new_socket(AddressFamily::INET, SocketType::DGRAM)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        Ok(socket)
    }

    fn number(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn a_door_is_kept_unless_a_holder_has_spoilt_it() {
        for (make, spoil) in [
            (listener as fn() -> io::Result<OwnedFd>, (|door| shutdown(door, Shutdown::Both)) as fn(&OwnedFd) -> _),
            (datagrams, |door| connect(door, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53))),
        ] {
            let mut kept = None;
            let first = again(&mut kept, make).unwrap();
            assert_eq!(number(&first), number(again(&mut kept, make).unwrap()));
            spoil(&first).unwrap();
            let other = again(&mut kept, make).unwrap();
            assert_ne!(number(&first), number(&other));
            assert_eq!(number(&other), number(again(&mut kept, make).unwrap()));
        }
    }

    #[test]
    fn of_those_that_are_kept_together_each_is_unless_a_holder_has_spoilt_it() {
        let make = [datagrams as fn() -> io::Result<OwnedFd>, listener];
        let numbers = |sockets: &[OwnedFd]| sockets.iter().map(number).collect::<Vec<_>>();
        let mut kept = None;
        let first = together(&mut kept, make).unwrap();
        let same = numbers(&first);
        assert_eq!(numbers(&together(&mut kept, make).unwrap()), same);
        shutdown(&first[1], Shutdown::Both).unwrap();
        let other = numbers(&together(&mut kept, make).unwrap());
        assert_eq!((other[0] == same[0], other[1] == same[1]), (true, false));
        assert_eq!(numbers(&together(&mut kept, make).unwrap()), other);
    }
}
