//! System calls that no safe wrapper offers. All `unsafe` of the launcher stands here and is one call deep.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The child is born in the control group given (Linux 5.7); libc's constant does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child that waits in new namespaces until it is dropped. It shares nothing with us but memory it does not write.
pub struct Paused {
    pid: Pid,
    pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Paused {
    /// Clones a child into the namespaces of `flags` (`CLONE_NEW…`). The caller must be single-threaded.
    pub fn new(flags: i32) -> io::Result<Paused> {
        let (pid, pidfd) = clone(flags, None, Pause)?;
        Ok(Paused { pid, pidfd })
    }

    /// Its process id, valid as long as this value lives.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

/// What a child does that only waits: system calls with numbers, safe after any fork.
struct Pause;

impl Task for Pause {
    fn run(self) -> i32 {
        loop {
            // SAFETY: takes nothing and touches nothing.
            unsafe { libc::pause() };
        }
    }
}

/// What a cloned child does; the answer is its exit status.
pub trait Task {
    /// Runs in the child alone.
    fn run(self) -> i32;
}

impl<T: FnOnce() -> i32> Task for T {
    fn run(self) -> i32 {
        self()
    }
}

/// Clones a child that runs `task` and ends, and that is killed when we end. It may be born in a v2 control group. The caller must be
/// single-threaded.
pub fn clone(flags: i32, group: Option<BorrowedFd<'_>>, task: impl Task) -> io::Result<(Pid, OwnedFd)> {
    let parent = std::process::id();
    let mut pidfd: RawFd = -1;
    let into_group = if group.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let arguments = CloneArgs {
        flags: (flags | libc::CLONE_PIDFD) as u64 | into_group,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.map_or(0, |group| group.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are a valid clone_args of the size given, `pidfd` outlives the call. No stack is given and memory is
    // not shared (no CLONE_VM), so this is a fork of a process with one thread: the child may do what the parent may.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: system calls with numbers only.
            let orphan = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // Nobody else has our parent's number while it lives; 0 is a parent outside our pid namespace.
                libc::getppid() as u32 != parent
            };
            let status = match orphan {
                true => 1,
                // A panic must not go on in the parent's place.
                false => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.run())).unwrap_or(101),
            };
            // SAFETY: takes a number; what the parent wants to happen at its exit is not ours to do.
            unsafe { libc::_exit(status) }
        }
        pid => {
            let pid = Pid::from_raw(pid as i32).expect("clone3 gives the parent a positive pid");
            // SAFETY: the kernel has just put this descriptor into our table for us (CLONE_PIDFD).
            Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Both can only fail if it is gone already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What a mount holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Programs that nobody writes to: an image.
    Programs,
    /// A tenant's files, none of which is a program.
    Files,
}

/// Makes a detached mount idmapped by `user_namespace`, private, without set-user-id and devices, and either without programs or
/// read-only.
pub fn idmap_mount(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, content: Content) -> io::Result<()> {
    let own = match content {
        Content::Programs => libc::MOUNT_ATTR_RDONLY,
        Content::Files => libc::MOUNT_ATTR_NOEXEC,
    };
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | own,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is an empty C string, the attributes are a valid mount_attr of the size given; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Back into a namespace of our own, from a tenant's. Whoever cannot come back must not go on: what it would open next would be the
/// tenant's. The next launcher adopts what runs.
pub fn return_home(home: &OwnedFd, kind: LinkNameSpaceType) {
    if let Err(errno) = move_into_link_name_space(home.as_fd(), Some(kind)) {
        // Not `eprintln`, which panics when nobody reads.
        let _ = writeln!(io::stderr(), "warren-launcher: cannot leave a tenant's namespace: {errno}");
        std::process::abort();
    }
}

/// Closes every descriptor from 3 on. To be called first in `main`, when nothing in the program owns a descriptor yet.
pub fn close_inherited() {
    // SAFETY: takes numbers only. No value owns any of these descriptors: the runtime opens none before `main`, and this is its first act.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Takes over descriptor 3, which the starter has passed (`LISTEN_FDS`). To be called once, before anything is opened.
pub fn take_inherited_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes numbers; it fails if 3 is not open.
    if unsafe { libc::fcntl(3, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: 3 is open, as the call above showed, and was given to this program by its starter; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

/// Makes `variables` the whole environment. The caller must be single-threaded.
pub fn replace_environment(variables: HashMap<String, String>) {
    let earlier: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    // SAFETY: nobody reads the environment meanwhile, as there is one thread.
    unsafe {
        earlier.into_iter().for_each(|name| std::env::remove_var(name));
        variables.into_iter().for_each(|(name, value)| std::env::set_var(name, value));
    }
}

/// Closes the handles of detached /proc mounts that libcontainer's path library keeps for itself. Left to exec, taking such a mount
/// apart makes every start wait twice for all processors (an expedited RCU grace period each, about a millisecond together).
pub fn close_proc_handles() -> io::Result<()> {
    let numbers = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers: Vec<RawFd> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers {
        // SAFETY: a zeroed statfs is a valid one; the call writes into it and fails if the descriptor is not open.
        let on_proc = unsafe {
            let mut about: libc::statfs = std::mem::zeroed();
            libc::fstatfs(number, &raw mut about) == 0 && about.f_type == libc::PROC_SUPER_MAGIC
        };
        // SAFETY: fcntl with numbers. A path descriptor of /proc that is still open here belongs to that library, in a static that is
        // never dropped, and this process does nothing more with it: it waits, and becomes another program.
        unsafe {
            if on_proc && libc::fcntl(number, libc::F_GETFL) & libc::O_PATH != 0 {
                libc::close(number);
            }
        }
    }
    Ok(())
}

/// Loads a compiled filter for the calling thread and becomes `program`. Returns only if that failed.
pub fn confine_and_exec(filter: &[libc::sock_filter], program: &CStr, arguments: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let compiled = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `compiled` describes a live slice, which the kernel copies and does not write; SIG_DFL is no handler; `pointers` is a
    // null-terminated array of C strings that outlive the call. The environment is the one libcontainer has set.
    unsafe {
        // Rust's runtime ignores SIGPIPE in us, which exec would hand on to programs that do not expect it.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const compiled) != 0 {
            return io::Error::last_os_error();
        }
        libc::execv(program.as_ptr(), pointers.as_ptr());
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;

    #[test]
    fn a_child_is_born_in_a_group_of_the_second_version() {
        let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = places.into_iter().find(|place| place.join("cgroup.controllers").exists()) else {
            return println!("no control groups v2 here");
        };
        let name = format!("warren-test-birth-{}", std::process::id());
        let group = root.join(&name);
        fs::create_dir(&group).unwrap();
        let open: OwnedFd = File::open(&group).unwrap().into();
        let (pid, pidfd) = clone(0, Some(std::os::fd::AsFd::as_fd(&open)), Pause).unwrap();
        let child = Paused { pid, pidfd };
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).unwrap();
        drop(child);
        fs::remove_dir(&group).unwrap();
        assert!(groups.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)), "{groups}");
    }
}
