//! A cell: user and network namespace made together, everything local, entrances open.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt::set_socket_reuseaddr,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use warren_launcher_api::{CONTROL_NAME, RELAY_PORT, SUBMISSION_PORT};

use super::netlink;
use crate::ids::RANGE;
use crate::image::Entrance;
use crate::sys::Paused;

/// Connections that wait for the MSA. The platform makes them, and while an MSA starts they all wait here.
const ENTRANCE_BACKLOG: i32 = 128;
/// The platform has one control connection; a second comes when it was restarted.
const CONTROL_BACKLOG: i32 = 4;

/// What a container is made from.
pub struct Cell {
    /// User namespace, its ids mapped to the slot's range.
    pub user: OwnedFd,
    /// Network namespace, owned by the user namespace.
    pub net: OwnedFd,
    /// 127.0.0.1:587, 127.0.0.1:24 and the control listener, in the order in which the program inherits them; only control for a program
    /// that listens itself.
    pub entrances: Vec<OwnedFd>,
}

impl Cell {
    /// Makes one for the id range at `base`. `home` is the network namespace to return to.
    pub fn new(base: u32, entrance: Entrance, home: &OwnedFd) -> io::Result<Cell> {
        let paused = Paused::new(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
        let pid = paused.pid();
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{map}"), format!("0 {base} {RANGE}\n"))?;
        }
        let user = File::open(format!("/proc/{pid}/ns/user"))?.into();
        let net = File::open(format!("/proc/{pid}/ns/net"))?.into();
        drop(paused);
        let entrances = within(&net, home, || {
            netlink::make_everything_local()?;
            Ok(match entrance {
                Entrance::Inherited => {
                    vec![tcp_listener(SUBMISSION_PORT)?, tcp_listener(RELAY_PORT)?, control_listener()?]
                }
                Entrance::Own => vec![control_listener()?],
            })
        })?;
        Ok(Cell { user, net, entrances })
    }
}

/// Runs `task` in the network namespace `there`, and comes back whatever it answers.
fn within<T>(there: &OwnedFd, home: &OwnedFd, task: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
    let result = task();
    crate::sys::return_home(home, LinkNameSpaceType::Network);
    result
}

fn tcp_listener(port: u16) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    listen(&socket, ENTRANCE_BACKLOG)?;
    Ok(socket)
}

fn control_listener() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(CONTROL_NAME.as_bytes())?)?;
    listen(&socket, CONTROL_BACKLOG)?;
    Ok(socket)
}

/// A user namespace for one volume, whose maps are not written yet: the tenant is unknown until the slot is bound. The open files
/// keep it alive and can still be written then, which spares a wake half a millisecond of cloning.
pub struct BlankIdmap {
    /// The namespace.
    pub user: OwnedFd,
    /// Its `uid_map`, open for writing.
    pub uid_map: OwnedFd,
    /// Its `gid_map`, open for writing.
    pub gid_map: OwnedFd,
}

impl BlankIdmap {
    /// Makes one.
    pub fn new() -> io::Result<BlankIdmap> {
        let paused = Paused::new(libc::CLONE_NEWUSER)?;
        let open = |file: &str| File::options().write(true).open(format!("/proc/{}/{file}", paused.pid()));
        Ok(BlankIdmap {
            user: File::open(format!("/proc/{}/ns/user", paused.pid()))?.into(),
            uid_map: open("uid_map")?.into(),
            gid_map: open("gid_map")?.into(),
        })
    }

    /// Lets files of the disk range at `disk` appear as those of the range at `slot`.
    pub fn write(self, disk: u32, slot: u32) -> io::Result<OwnedFd> {
        let map = format!("{disk} {slot} {RANGE}\n");
        for file in [self.uid_map, self.gid_map] {
            File::from(file).write_all(map.as_bytes())?;
        }
        Ok(self.user)
    }
}
