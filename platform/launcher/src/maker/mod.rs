//! The maker: has slots made, reaps them, and owns nothing else.
//!
//! ```text
//! launcher ──Seat{cell}──▶ maker: a process waits in the cell's control groups (seat.rs)
//!          ──Make{cell, …}──▶ maker ──▶ that process: cell → bundle → libcontainer create → pidfd …
//!          ◀─Made + descriptors──   (then everything is closed, and the process ends)
//!          ──Reap{pid}──▶ waitpid ──Reaped{status}──▶
//! ```
//!
//! It is a process of its own because a container that waits for its start holds a copy of every descriptor of the process that
//! created it: in the launcher these would be clients' connections and other tenants' doors. So the maker keeps sockets to launcher and
//! seats and nothing more, and is single-threaded because libcontainer clones without exec. Its mount namespace is private and shows no
//! control groups: libcontainer, which would move each container into its groups and have everybody wait for that, finds a machine
//! without them, and the containers are born where they belong.

mod bundle;
mod cell;
mod container;
mod netlink;
mod seat;
mod seccomp;

pub use bundle::standalone as bundle;
pub use cell::BlankIdmap;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, ExitStatus};
use warren_packet::Packets;

use crate::cgroup::Cgroups;
use crate::image::{Entrance, Image};
use seat::{Seat, Tools};

/// To the maker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToMaker {
    /// First message: where things are.
    Begin {
        /// The run directory.
        run: PathBuf,
        /// The directory of images.
        images: PathBuf,
        /// Where containers go.
        cgroups: Cgroups,
    },
    /// Have a process wait in the control groups of a cell that is to be made later.
    Seat {
        /// Its number.
        cell: CellId,
    },
    /// Make a slot.
    Make {
        /// Its number.
        cell: CellId,
        /// First id of its range.
        base: u32,
        /// What runs in it.
        image: Image,
    },
    /// Wait for a child that has exited.
    Reap {
        /// Whose.
        cell: CellId,
        /// The child.
        pid: i32,
    },
}

/// From the maker, in the order of the requests.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromMaker {
    /// A slot waits. Descriptors: pidfd, user namespace of a [`BlankIdmap`], its `uid_map`, its `gid_map`.
    Made {
        /// Its number.
        cell: CellId,
        /// Its init.
        pid: i32,
    },
    /// No slot came of it; whatever there is of it is to be swept.
    MakeFailed {
        /// Its number.
        cell: CellId,
        /// The step and the kernel's answer.
        reason: String,
    },
    /// The child is gone.
    Reaped {
        /// Whose.
        cell: CellId,
        /// How it ended.
        status: ExitStatus,
    },
}

/// The descriptors 3, 4 and 5, which libcontainer hands on to the container. In the maker, and where a container has fewer, they are `/dev/null`.
struct Handed([OwnedFd; 3]);

impl Handed {
    fn new() -> io::Result<Handed> {
        let handed = Handed([dev_null()?, dev_null()?, dev_null()?]);
        let numbers = handed.0.each_ref().map(|descriptor| descriptor.as_raw_fd());
        if numbers != [3, 4, 5] {
            return Err(io::Error::other(format!("descriptors 3 to 5 are taken: got {numbers:?}")));
        }
        Ok(handed)
    }

    fn set(&mut self, descriptors: &[OwnedFd]) -> io::Result<()> {
        for (place, descriptor) in self.0.iter_mut().zip(descriptors) {
            rustix::io::dup2(descriptor, place)?;
        }
        Ok(())
    }
}

fn dev_null() -> io::Result<OwnedFd> {
    Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Runs until the launcher closes the socket, which is standard input, or dies.
pub fn run() -> io::Result<()> {
    crate::sys::close_inherited();
    // The launcher blocks the signals that it reads from a descriptor; containers must not inherit that.
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut handed = Handed::new()?;
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 6)?;
    rustix::stdio::dup2_stdin(dev_null()?)?;
    let socket = Packets::from(socket);
    let Some((ToMaker::Begin { run, images, cgroups }, _)) = receive(&socket)? else { return Ok(()) };
    // Containers outlive the seats that made them, and are ours to reap then.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let groups = cgroups.open()?;
    let view = enter_private_view(&cgroups, images)?;
    let filters = [
        Rc::new(seccomp::compile(Entrance::Inherited).map_err(io::Error::other)?),
        Rc::new(seccomp::compile(Entrance::Own).map_err(io::Error::other)?),
    ];
    let home: OwnedFd = File::open("/proc/self/ns/net")?.into();
    let tools = Tools { run: &run, groups: &groups, home: &home, filters: &filters };
    let mut seats: BTreeMap<CellId, Seat> = BTreeMap::new();
    let mut containers = BTreeSet::new();
    // What a seat had begun when it failed is our child, too, and is ended by its control group.
    let mut strays = false;
    while let Some((request, _)) = receive(&socket)? {
        strays = strays && reap_strays(|pid| containers.contains(&pid) || seats.values().any(|seat| seat.is(pid)));
        match request {
            ToMaker::Begin { .. } => return Err(io::Error::other("begun twice")),
            ToMaker::Seat { cell } => {
                // Without it the container is made later, in a seat made then, or the reason is told then.
                if let Ok(seat) = sit(cell, &tools, &mut handed, &mut seats) {
                    seats.insert(cell, seat);
                }
            }
            ToMaker::Make { cell, base, mut image } => {
                image.rootfs = view.path_of(&image.rootfs);
                let seat = match seats.remove(&cell).filter(Seat::is_taken) {
                    Some(seat) => Ok(seat),
                    None => sit(cell, &tools, &mut handed, &mut seats),
                };
                // The seat is waited for after the answer.
                match seat
                    .as_ref()
                    .map_err(|error| error.to_string())
                    .and_then(|seat| seat.make(base, image).map_err(|error| error.to_string()))
                {
                    Ok((pid, descriptors)) => {
                        containers.insert(pid);
                        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
                        socket.send(&FromMaker::Made { cell, pid }, &borrowed).map_err(io::Error::other)?;
                    }
                    Err(reason) => {
                        strays = true;
                        let answer = FromMaker::MakeFailed { cell, reason };
                        socket.send(&answer, &[]).map_err(io::Error::other)?;
                    }
                }
            }
            ToMaker::Reap { cell, pid } => {
                containers.remove(&pid);
                let answer = FromMaker::Reaped { cell, status: reap(pid) };
                socket.send(&answer, &[]).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// A seat for this cell, whose process has nothing to do with the seats of others.
fn sit(cell: CellId, tools: &Tools<'_>, handed: &mut Handed, seats: &mut BTreeMap<CellId, Seat>) -> io::Result<Seat> {
    Seat::new(cell, tools, handed, || seats.values_mut().for_each(Seat::forget))
}

fn receive(socket: &Packets) -> io::Result<Option<(ToMaker, Vec<OwnedFd>)>> {
    socket.recv().map_err(io::Error::other)
}

/// Reaps children that nobody asks for; says whether some still live.
fn reap_strays(is_known: impl Fn(i32) -> bool) -> bool {
    let children = crate::process::children();
    let strays = children.into_iter().filter(|pid| !is_known(*pid)).filter_map(Pid::from_raw);
    strays.filter(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None))).count() > 0
}

fn reap(pid: i32) -> ExitStatus {
    let Some(pid) = Pid::from_raw(pid) else { return ExitStatus::Unknown };
    match waitpid(Some(pid), WaitOptions::empty()) {
        Ok(Some((_, status))) => crate::process::exit_status(status),
        // Not ours: it was made by an earlier maker.
        _ => ExitStatus::Unknown,
    }
}

/// Where the maker sees the images.
struct View {
    images: PathBuf,
    seen: PathBuf,
}

impl View {
    fn path_of(&self, rootfs: &Path) -> PathBuf {
        rootfs.strip_prefix(&self.images).map_or_else(|_| rootfs.to_owned(), |within| self.seen.join(within))
    }
}

/// Where everybody looks for control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Directories that every system has, with nothing in them that a container is made from.
const STAGES: [&str; 4] = ["/mnt", "/srv", "/media", "/opt"];

/// A mount namespace that shows no control groups, and the images at a place that everybody may reach: an init that prepares its root
/// is nobody to the host, and could not pass through, say, /root.
fn enter_private_view(cgroups: &Cgroups, images: PathBuf) -> io::Result<View> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    // Downstream, not private: images on file systems mounted later are seen.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    for groups in cgroups.mounts() {
        unmount(groups, UnmountFlags::DETACH)?;
    }
    // What libcontainer takes for a machine of the old kind with no controller; with what else was mounted there.
    mount("tmpfs", CGROUP_ROOT, "tmpfs", MountFlags::RDONLY, c"size=4k,mode=555")?;
    let stage = STAGES.iter().map(Path::new).find(|stage| stage.is_dir() && !images.starts_with(stage));
    match stage {
        Some(stage) if images.is_dir() => {
            mount_bind_recursive(&images, stage)?;
            Ok(View { images, seen: stage.to_owned() })
        }
        _ => Ok(View { seen: images.clone(), images }),
    }
}
