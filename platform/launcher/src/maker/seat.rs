//! A seat: a process that sits in a cell's control groups before there is a container.
//!
//! ```text
//! ahead      maker ──clone──▶ seat: makes the groups of cell N, enters them (v1: 12 ms of RCU; v2: is born there), waits
//! at Make    maker ──order──▶ seat: cell → bundle → libcontainer create ──Made + pidfd──▶ maker;  ends
//! ```
//!
//! A move into a control group makes the kernel wait for a grace period, half of what a container costs to make; children are in
//! the group of their parent at no cost. So the waiting is done when nobody waits for it, by an empty process that costs next to nothing: a
//! seat has no namespace, no mount, no image, no tenant. It also is what keeps the containers from each other in the making: each is
//! made by a process that makes nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use serde::{Deserialize, Serialize};
use warren_launcher_api::CellId;
use warren_packet::Packets;

use super::cell::Cell;
use super::{BlankIdmap, Handed, container};
use crate::cgroup::Groups;
use crate::image::{Entrance, Image};
use crate::sys::Content;

/// What all containers are made with.
pub struct Tools<'a> {
    /// The run directory.
    pub run: &'a Path,
    /// Where the cells' groups are made.
    pub groups: &'a Groups,
    /// The network namespace to return to.
    pub home: &'a OwnedFd,
    /// Compiled filters: for entrances that are inherited, and for images that listen themselves.
    pub filters: &'a [Rc<Vec<libc::sock_filter>>; 2],
}

/// The one thing that a seat is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    base: u32,
    image: Image,
}

/// And what it answers, with the container's pidfd.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Made { pid: i32 },
    Failed { reason: String },
}

/// A process in the groups of a cell, seen by the maker.
pub struct Seat {
    pid: Pid,
    pidfd: OwnedFd,
    /// Until it is forgotten, or told to end.
    packets: Option<Packets>,
}

impl Seat {
    /// The process makes the groups and enters them by itself, or is born in them. `others` are no business of the child's.
    pub fn new(cell: CellId, tools: &Tools<'_>, handed: &mut Handed, others: impl FnOnce()) -> io::Result<Seat> {
        let group = tools.groups.birthplace(cell).map_err(doing("make a control group"))?;
        let (ours, its) = Packets::pair().map_err(io::Error::other)?;
        let mut ours = Some(ours);
        let (pid, pidfd) = crate::sys::clone(0, group.as_ref().map(AsFd::as_fd), || {
            others();
            // Held by us, it would never be closed.
            drop(ours.take());
            let seated = match group {
                Some(_) => Ok(()),
                None => tools.groups.enter(cell).map_err(doing("enter control groups")),
            };
            let Ok(Some((order, _))) = its.recv::<Order>() else { return 1 };
            let made = seated.and_then(|()| order.carry_out(cell, tools, handed));
            let told = match &made {
                Ok((pid, pidfd)) => its.send(&Answer::Made { pid: *pid }, &[pidfd.as_fd()]),
                Err(error) => its.send(&Answer::Failed { reason: error.to_string() }, &[]),
            };
            i32::from(told.is_err() || made.is_err())
        })?;
        Ok(Seat { pid, pidfd, packets: ours })
    }

    /// Somebody sits there: it has not died meanwhile.
    pub fn is_taken(&self) -> bool {
        matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None))
    }

    /// This process is the seat's.
    pub fn is(&self, pid: i32) -> bool {
        self.pid.as_raw_nonzero().get() == pid
    }

    /// In another child of the maker's: closes what is this seat's.
    pub fn forget(&mut self) {
        drop(self.packets.take());
    }

    /// Has the container made; answers its init with its pidfd, and the tenant's id maps to be. The seat then ends, and the container
    /// is the maker's child.
    pub fn make(&self, base: u32, image: Image) -> io::Result<(i32, [OwnedFd; 4])> {
        let gone = || io::Error::other("the process that was to make the container is gone");
        let packets = self.packets.as_ref().ok_or_else(gone)?;
        packets.send(&Order { base, image }, &[]).map_err(io::Error::other)?;
        // Meanwhile, on another processor; the waiting init has no copy.
        let idmap = BlankIdmap::new().map_err(doing("make idmap"));
        // Its end alone does not close the socket: what it has begun may hold the other one.
        let mut heard = [PollFd::new(packets, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(errno) = poll(&mut heard, None) {
            if errno != Errno::INTR {
                return Err(errno.into());
            }
        }
        if heard[0].revents().is_empty() {
            return Err(gone());
        }
        let (answer, mut descriptors) = packets.recv().map_err(io::Error::other)?.ok_or_else(gone)?;
        match (answer, descriptors.pop()) {
            (Answer::Made { pid }, Some(pidfd)) => {
                let idmap = idmap?;
                Ok((pid, [pidfd, idmap.user, idmap.uid_map, idmap.gid_map]))
            }
            (Answer::Made { .. }, None) => Err(io::Error::other("the container came without its pidfd")),
            (Answer::Failed { reason }, _) => Err(io::Error::other(reason)),
        }
    }
}

impl Drop for Seat {
    /// It ends when its socket closes, or has ended; only then are its children ours.
    fn drop(&mut self) {
        drop(self.packets.take());
        // It can only be reaped already.
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

impl Order {
    fn carry_out(self, cell: CellId, tools: &Tools<'_>, handed: &mut Handed) -> io::Result<(i32, OwnedFd)> {
        let Order { base, image } = self;
        let parts = Cell::new(base, image.entrance, tools.home).map_err(doing("make cell"))?;
        handed.set(&parts.entrances).map_err(doing("hand entrances over"))?;
        let filter = &tools.filters[usize::from(image.entrance == Entrance::Own)];
        if image.entrance == Entrance::Own {
            own_root(&image, &parts)?;
        }
        let pid =
            container::create(tools.run, cell, &image, &parts, filter.clone()).map_err(doing("create container"))?;
        let process = Pid::from_raw(pid).ok_or_else(|| io::Error::other("libcontainer gave no pid"))?;
        Ok((pid, pidfd_open(process, PidfdFlags::empty()).map_err(|errno| doing("open pidfd")(errno.into()))?))
    }
}

/// The root of an image with users of its own, mounted over itself: the files of its ids 0 to 1,023 are those of the same ids in the
/// container. (Other images own nothing in theirs.) In a mount namespace of the seat's, so that it goes with it, however that ends: two mounts
/// on one another cannot both be mapped, and the image would be of no use to the next seat.
fn own_root(image: &Image, cell: &Cell) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let rootfs = image.rootfs.as_path();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, rootfs, flags)?;
    crate::sys::idmap_mount(tree.as_fd(), cell.user.as_fd(), Content::Programs)
        .map_err(|error| io::Error::new(error.kind(), format!("map ids of {}: {error}", rootfs.display())))?;
    Ok(move_mount(&tree, c"", CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn doing(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
