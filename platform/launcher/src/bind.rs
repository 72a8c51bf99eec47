//! The steps that turn a waiting slot into a tenant's container. About a millisecond, nearly all of it the kernel's.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_thread_name_spaces};
use warren_launcher_api::{CellId, Limits, VOLUME_PATH};

use crate::layout;
use crate::maker::BlankIdmap;
use crate::sys::Content;
use crate::volume::Volume;

/// Puts the volume into the container: a detached copy of the mount, idmapped, so that files on disk belong to the tenant's own range
/// while the container sees its usual user; moved onto an empty directory of the image from within the container's mount namespace, so
/// that no mount of the host changes and none is left to undo.
pub fn mount_volume(volume: &Volume, idmap: BlankIdmap, base: u32, pidfd: &OwnedFd, home: &OwnedFd) -> io::Result<()> {
    let user = idmap.write(volume.disk_base, base).map_err(step("write id maps"))?;
    let tree = detached(&volume.path)?;
    crate::sys::idmap_mount(tree.as_fd(), user.as_fd(), Content::Files)
        .map_err(step("map ids of the volume's mount"))?;
    move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|errno| step("enter the container's mounts")(errno.into()))?;
    let moved = move_mount(&tree, c"", CWD, VOLUME_PATH, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    crate::sys::return_home(home, LinkNameSpaceType::Mount);
    moved.map_err(|errno| step("mount the volume")(errno.into()))
}

/// Says whether this file system can do what [`mount_volume`] needs.
pub fn probe_idmapped_mounts(directory: &Path) -> Result<(), String> {
    let probe = || -> io::Result<()> {
        let user = BlankIdmap::new()?.write(crate::ids::disk_base(0), crate::ids::disk_base(1))?;
        crate::sys::idmap_mount(detached(directory)?.as_fd(), user.as_fd(), Content::Files)
    };
    probe().map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EPERM) => format!(
            "the file system of {} cannot do idmapped mounts ({error}): put --state on ext4, xfs or btrfs",
            directory.display()
        ),
        Some(libc::ENOSYS) => "the kernel has no idmapped mounts: Linux 5.15 or newer is needed".to_owned(),
        _ => format!("idmapped mount of {}: {error}", directory.display()),
    })
}

fn detached(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, directory, flags).map_err(|errno| step("open the volume")(errno.into()))
}

/// Sets the limits that belong to the process; the others belong to its cgroups.
pub fn limit_process(pid: i32, limits: &Limits) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    // The node's programs may have priority; what runs in a container has none.
    rustix::process::setpriority_process(pid, 0)?;
    // A slot has what we have ourselves, and more cannot be given without CAP_SYS_RESOURCE.
    let open_files = u64::from(limits.open_files).min(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    for (resource, value) in [(Resource::Fsize, limits.file_bytes), (Resource::Nofile, open_files)] {
        prlimit(pid, resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    Ok(())
}

/// Lets the waiting init go on to the program. By the notify socket itself, which libcontainer's `start` reaches after rereading and
/// rewriting its files; and through a descriptor, as a socket's path may be no longer than 108 bytes.
pub fn start(run: &Path, cell: CellId) -> io::Result<()> {
    let socket = layout::notify_socket(run, cell);
    let directory = File::open(socket.parent().unwrap_or(run))?;
    let name = socket.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?.write_all(b"start container")
}

fn step(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
