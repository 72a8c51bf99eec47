//! What a container may ask the kernel for: what a static Rust program with tokio needs, and nothing else. Images that listen themselves
//! are foreign programs with users of their own (`Entrance::Own`); they get `FOREIGN` too.
//!
//! A list of what is allowed, so that a call the kernel learns tomorrow is refused. Refused calls answer EPERM; `clone3` answers
//! ENOSYS, because its flags lie in memory that a filter cannot read and libc then falls back to `clone`, whose flags it can.

use std::fs::File;
use std::io::{Read, Seek};

use crate::image::Entrance;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use serde_json::{Value, json};

const ALLOWED: &[&str] = &[
    // memory
    "brk",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    // files of the volume and /tmp
    "access",
    "chdir",
    "chmod",
    "close",
    "close_range",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fcntl",
    "fdatasync",
    "flock",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getcwd",
    "getdents64",
    "link",
    "linkat",
    "lseek",
    "lstat",
    "mkdir",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "stat",
    "statfs",
    "statx",
    "symlink",
    "symlinkat",
    "sync_file_range",
    "truncate",
    "umask",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
    "writev",
    // sockets (socket and socketpair below)
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    // waiting
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd2",
    "pipe2",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "inotify_init1",
    "inotify_add_watch",
    "inotify_rm_watch",
    // threads, processes, signals (clone, prctl below)
    "arch_prctl",
    "execve",
    "exit",
    "exit_group",
    "futex",
    "get_robust_list",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgrp",
    "getpid",
    "getppid",
    "getrlimit",
    "getrusage",
    "gettid",
    "getuid",
    "kill",
    "membarrier",
    "pause",
    "prlimit64",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "signalfd4",
    "tgkill",
    "wait4",
    "waitid",
    // time and chance
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "getcpu",
    "getrandom",
    "gettimeofday",
    "nanosleep",
    "sysinfo",
    "time",
    "times",
    "uname",
];

/// What programs from a distribution need beside it: processes and users of their own, older calls, the list of interfaces.
const FOREIGN: &[&str] = &[
    "alarm",
    "capget",
    "chown",
    "epoll_create",
    "eventfd",
    "fchown",
    "fchownat",
    "fork",
    "getdents",
    "getitimer",
    "getpgid",
    "getpriority",
    "getresgid",
    "getresuid",
    "getsid",
    "inotify_init",
    "lchown",
    "msync",
    "pipe",
    "sched_getparam",
    "sched_getscheduler",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setitimer",
    "setpgid",
    "setpriority",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setrlimit",
    "setsid",
    "setuid",
    "tkill",
    "utime",
    "utimes",
    "vfork",
];

/// Flags of `clone` that make namespaces. CLONE_NEWTIME is not among them: in `clone` its bit is part of the signal number.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64
    & 0xffff_ffff;

/// Everything of the type argument but the two flags that may be added to it.
const SOCKET_TYPE: u64 = 0xffff_ffff & !((libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64);

const IOCTLS: [u64; 4] = [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS];

/// Names of threads and mappings, and the parent's death signal; nothing that changes what the process may do.
const PRCTLS: [u64; 4] =
    [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_PDEATHSIG as u64, libc::PR_SET_VMA as u64];

/// Something that is allowed: a call, and what its arguments must be. Several of one call: any of them.
struct Rule {
    call: &'static str,
    arguments: Vec<Argument>,
}

/// `value` is what the argument must be, as far as `mask` covers it.
#[derive(Clone, Copy)]
struct Argument {
    index: u32,
    mask: Option<u64>,
    value: u64,
}

/// Everything that is allowed.
fn rules(entrance: Entrance) -> Vec<Rule> {
    let foreign = if entrance == Entrance::Own { FOREIGN } else { &[] };
    let plain = ALLOWED.iter().chain(foreign);
    let mut rules: Vec<Rule> = plain.map(|call| Rule { call, arguments: Vec::new() }).collect();
    let mut allow_if = |call, arguments: &[Argument]| rules.push(Rule { call, arguments: arguments.to_vec() });
    allow_if("clone", &[masked(0, NAMESPACE_FLAGS, 0)]);
    for command in IOCTLS {
        allow_if("ioctl", &[equal(1, command)]);
    }
    for option in PRCTLS {
        allow_if("prctl", &[equal(0, option)]);
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        for call in ["socket", "socketpair"] {
            allow_if(call, &[equal(0, libc::AF_UNIX as u64), masked(1, SOCKET_TYPE, kind as u64), equal(2, 0)]);
        }
        let own = if kind == libc::SOCK_STREAM { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [0, own] {
                let conditions =
                    [equal(0, family as u64), masked(1, SOCKET_TYPE, kind as u64), equal(2, protocol as u64)];
                allow_if("socket", &conditions);
            }
        }
    }
    if entrance == Entrance::Own {
        // A child tells by it that exec failed.
        let unix = equal(0, libc::AF_UNIX as u64);
        allow_if("socketpair", &[unix, masked(1, SOCKET_TYPE, libc::SOCK_SEQPACKET as u64), equal(2, 0)]);
        // What interfaces are there, as getifaddrs asks. Nobody in the cell has the capability to change anything by it.
        let family = equal(0, libc::AF_NETLINK as u64);
        let kind = masked(1, SOCKET_TYPE, libc::SOCK_RAW as u64);
        allow_if("socket", &[family, kind, equal(2, libc::NETLINK_ROUTE as u64)]);
    }
    rules
}

/// Compiles the filter for this machine's architecture. Done once: it takes milliseconds.
pub fn compile(entrance: Entrance) -> Result<Vec<libc::sock_filter>, String> {
    let failed = |error: libseccomp::error::SeccompError| format!("compile the seccomp filter: {error}");
    let mut filter = ScmpFilterContext::new(ScmpAction::Errno(libc::EPERM)).map_err(failed)?;
    for rule in rules(entrance) {
        let Some(call) = known(rule.call) else { continue };
        let conditions: Vec<_> = rule.arguments.iter().map(Argument::compare).collect();
        filter.add_rule_conditional(ScmpAction::Allow, call, &conditions).map_err(failed)?;
    }
    if let Some(call) = known("clone3") {
        filter.add_rule(ScmpAction::Errno(libc::ENOSYS), call).map_err(failed)?;
    }
    export(&filter)
}

/// The same filter as an OCI runtime's configuration has it.
pub fn oci(entrance: Entrance) -> Value {
    let allowed = rules(entrance).into_iter().filter(|rule| known(rule.call).is_some()).map(|rule| {
        let arguments = rule.arguments.iter().map(|argument| match argument.mask {
            Some(mask) => json!({
                "index": argument.index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": argument.value,
            }),
            None => json!({ "index": argument.index, "op": "SCMP_CMP_EQ", "value": argument.value }),
        });
        json!({ "names": [rule.call], "action": "SCMP_ACT_ALLOW", "args": arguments.collect::<Vec<_>>() })
    });
    let clone3 = json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS });
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM,
        "syscalls": allowed.chain([clone3]).collect::<Vec<_>>(),
    })
}

/// The call, if this architecture has it.
fn known(name: &str) -> Option<ScmpSyscall> {
    ScmpSyscall::from_name(name).ok().filter(|call| i32::from(*call) >= 0)
}

fn equal(index: u32, value: u64) -> Argument {
    Argument { index, mask: None, value }
}

fn masked(index: u32, mask: u64, value: u64) -> Argument {
    Argument { index, mask: Some(mask), value }
}

impl Argument {
    fn compare(&self) -> ScmpArgCompare {
        let op = self.mask.map_or(ScmpCompareOp::Equal, ScmpCompareOp::MaskedEqual);
        ScmpArgCompare::new(self.index, op, self.value)
    }
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<libc::sock_filter>, String> {
    let failed = |error: std::io::Error| format!("read the seccomp filter back: {error}");
    let memory =
        rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    filter.export_bpf(&memory).map_err(|error| format!("export the seccomp filter: {error}"))?;
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(failed)?;
    let (instructions, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || instructions.is_empty() || instructions.len() > usize::from(u16::MAX) {
        return Err(format!("the seccomp filter has {} bytes, which is no program", bytes.len()));
    }
    let instruction = |[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| libc::sock_filter {
        code: u16::from_ne_bytes([*c0, *c1]),
        jt: *jt,
        jf: *jf,
        k: u32::from_ne_bytes([*k0, *k1, *k2, *k3]),
    };
    Ok(instructions.iter().map(instruction).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_to_a_program_the_kernel_can_take() {
        for entrance in [Entrance::Inherited, Entrance::Own] {
            let filter = compile(entrance).unwrap();
            assert!((50..4096).contains(&filter.len()), "{} instructions", filter.len());
        }
    }

    #[test]
    fn what_must_be_refused_is_not_on_the_list() {
        let refused = "unshare setns mount umount2 move_mount fsopen open_tree mount_setattr pivot_root chroot ptrace bpf \
            io_uring_setup io_uring_enter keyctl add_key request_key userfaultfd perf_event_open process_vm_readv \
            process_vm_writev kexec_load init_module mknod mknodat memfd_create execveat open_by_handle_at seccomp personality \
            pidfd_getfd setuid setgid setgroups capset chown fchownat clone3 clone socket prctl ioctl vmsplice";
        for name in refused.split_whitespace() {
            assert!(!ALLOWED.contains(&name), "{name}");
            let users_own = ["setuid", "setgid", "setgroups", "chown", "fchownat"].contains(&name);
            assert!(users_own || !FOREIGN.contains(&name), "{name}");
        }
    }
}
