//! The launcher's own filter of system calls, which its maker, its watcher and everything that they start inherit.
//!
//! Its capabilities would allow what none of them ever does: tracing, loading modules and kernels, setting the clock, opening files by
//! handle past every mount, rings and programs in the kernel, talking to networks. Whoever takes it over by a flaw is refused these, and
//! cannot take the filter off. What is left is still powerful (mounts and namespaces are its work), so it is a list of what to refuse,
//! which holds for every library that it is linked with; the containers have a list of what to allow besides (`maker/seccomp.rs`).

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

const REFUSED: [&str; 43] = [
    // other processes' memory, descriptors and steps
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    // code and rings in the kernel
    "bpf",
    "perf_event_open",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    // the machine
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    "syslog",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "iopl",
    "ioperm",
    "nfsservctl",
    "lookup_dcookie",
    "vhangup",
    // files past the mounts
    "open_by_handle_at",
    "name_to_handle_at",
    "fanotify_init",
    "fanotify_mark",
    // keys
    "keyctl",
    "add_key",
    "request_key",
    // memory that is placed elsewhere
    "migrate_pages",
    "move_pages",
    "mbind",
];

/// Sockets that it makes: to its peers, in cells, and to set up a cell's network.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Loads the filter for good. Sets `no_new_privs` as well: nothing that it starts has set-user-id.
pub fn confine() -> Result<(), String> {
    load().map_err(|error| format!("load the launcher's seccomp filter: {error}"))
}

fn load() -> Result<(), SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    let refuse = ScmpAction::Errno(libc::EPERM);
    // Those that this architecture lacks need no rule.
    let known = |name: &&str| ScmpSyscall::from_name(name).ok().filter(|call| i32::from(*call) >= 0);
    for call in REFUSED.iter().filter_map(known) {
        filter.add_rule(refuse, call)?;
    }
    let socket = ScmpSyscall::from_name("socket")?;
    let highest = FAMILIES.into_iter().max().unwrap_or_default();
    for family in (0..=highest).filter(|family| !FAMILIES.contains(family)) {
        refuse_family(&mut filter, socket, ScmpCompareOp::Equal, family)?;
    }
    refuse_family(&mut filter, socket, ScmpCompareOp::Greater, highest)?;
    filter.load()
}

fn refuse_family(
    filter: &mut ScmpFilterContext,
    socket: ScmpSyscall,
    compared: ScmpCompareOp,
    family: libc::c_int,
) -> Result<(), SeccompError> {
    let family = family.unsigned_abs().into();
    let refuse = ScmpAction::Errno(libc::EPERM);
    filter.add_rule_conditional(refuse, socket, &[ScmpArgCompare::new(0, compared, family)]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags};

    use super::*;

    /// A filter is its thread's own, so the other tests keep their calls.
    #[test]
    fn what_it_never_does_it_cannot_do() {
        let tried = std::thread::spawn(|| {
            confine().unwrap();
            let sockets =
                [AddressFamily::PACKET, AddressFamily::from_raw(40), AddressFamily::UNIX, AddressFamily::INET];
            let sockets = sockets.map(|family| socket(family, SocketType::DGRAM, None).map(|_| ()));
            let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
            let taken = rustix::process::pidfd_getfd(&own, 0, PidfdGetfdFlags::empty()).map(|_| ());
            (sockets, taken, rustix::mount::mount_remount("/nowhere", rustix::mount::MountFlags::empty(), c""))
        });
        let (sockets, taken, mounted) = tried.join().unwrap();
        assert_eq!(sockets, [Err(Errno::PERM), Err(Errno::PERM), Ok(()), Ok(())]);
        assert_eq!(taken, Err(Errno::PERM));
        // Its work it can do: the path is wrong, not the call.
        assert_ne!(std::io::Error::from(mounted.unwrap_err()).kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn every_name_is_a_call() {
        for name in REFUSED {
            assert!(ScmpSyscall::from_name(name).is_ok(), "{name}");
        }
    }
}
