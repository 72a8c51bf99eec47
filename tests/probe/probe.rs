//! A hostile program in the MSA's place: it runs inside a real tenant's container, tries every way out that it knows, and writes
//! what happened to `report` in its volume, a line each: `name: outcome`.
//!
//! Attacks with a CVE number of their own are in `named`.
//!
//! Standard library only, so that `rustc` alone builds it: `rustc -O --edition 2024 -C target-feature=+crt-static probe.rs`.

mod named;

use std::ffi::{c_char, c_int, c_long};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::Duration;

const VOLUME: &str = "/var/spool/warren";

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: u64, data: *const u8) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn setuid(uid: u32) -> c_int;
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some(named::TELL) => return println!("{}", named::told()),
        Some(_) => return,
    }
    let (told, settings) = mpsc::channel();
    let control = std::thread::spawn(move || control(told));
    let tenant = settings.recv().unwrap_or_default();
    // Whoever can be met at such a name shares a network namespace. Somebody outside says when all are there.
    let meeting = |who: &str| std::os::unix::net::SocketAddr::from_abstract_name(format!("warren-probe/{who}")).expect("a name");
    let _meet_me = UnixListener::bind_addr(&meeting(&tenant));
    let _ = fs::write(format!("{VOLUME}/there"), &tenant);
    let all_there = (0..3000).any(|_| {
        let go = fs::exists(format!("{VOLUME}/go")).unwrap_or(false);
        if !go {
            std::thread::sleep(Duration::from_millis(20));
        }
        go
    });
    let mut report = String::new();
    let mut say = |name: &str, outcome: String| report.push_str(&format!("{name}: {}\n", outcome.replace('\n', " ")));
    // Without it, that nobody is met proves nothing.
    say("go", if all_there { "ok" } else { "nobody came" }.to_owned());

    // The network: nothing answers but port 25 of a foreign address (the exit door) and the resolver.
    let ports = [22, 24, 53, 80, 443, 465, 587, 2525, 3306, 8080];
    let hosts = ["203.0.113.10", "198.51.100.10", "198.51.100.53", "10.0.0.1", "192.168.0.1", "169.254.169.254", "8.8.8.8", "[2001:db8::1]"];
    let mut reached = Vec::new();
    for host in hosts {
        for port in ports {
            let target: SocketAddr = format!("{host}:{port}").parse().expect("a literal address");
            if TcpStream::connect_timeout(&target, Duration::from_secs(2)).is_ok() {
                reached.push(target.to_string());
            }
        }
    }
    say("reached", reached.join(" "));
    for target in ["198.51.100.10:25", "203.0.113.10:25", "127.0.0.1:25", "10.0.0.1:25", "169.254.169.254:25", "[::1]:25"] {
        say(&format!("dial {target}"), greeting(target));
    }
    say("udp foreign resolver", udp("198.51.100.53:53"));
    say("udp any port", udp("203.0.113.10:9"));
    let interfaces: Vec<String> = read("/proc/net/dev").lines().skip(2).filter_map(|l| Some(l.split(':').next()?.trim().to_owned())).collect();
    say("interfaces", interfaces.join(" "));
    say("abstract sockets", read("/proc/net/unix").lines().filter_map(|l| l.split_whitespace().nth(7)).collect::<Vec<_>>().join(" "));

    for who in ["hostile", "accomplice", "node", "host"] {
        say(&format!("meet {who}"), result(UnixStream::connect_addr(&meeting(who))));
    }

    // Sockets of other kinds.
    for (name, domain, kind, protocol) in
        [("raw", 2, 3, 1), ("raw6", 10, 3, 58), ("packet", 17, 3, 0), ("netlink route", 16, 3, 0), ("netlink audit", 16, 3, 9), ("netlink netfilter", 16, 3, 12), ("netlink uevent", 16, 3, 15), ("netlink generic", 16, 3, 16), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("bluetooth", 31, 3, 0)]
    {
        // SAFETY: plain system call; a descriptor that it may return is left to the process.
        say(&format!("socket {name}"), errno(unsafe { socket(domain, kind, protocol) } as i64));
    }

    // The kernel. Numbers are those of x86_64 and, where they differ, aarch64.
    let n = |x86: c_long, arm: c_long| if cfg!(target_arch = "x86_64") { x86 } else { arm };
    for (name, number) in [
        ("bpf", n(321, 280)), ("io_uring_setup", 425), ("ptrace", n(101, 117)), ("keyctl", n(250, 219)), ("add_key", n(248, 217)),
        ("userfaultfd", n(323, 282)), ("perf_event_open", n(298, 241)), ("setns", n(308, 268)), ("pivot_root", n(155, 41)),
        ("chroot", n(161, 51)), ("open_tree", 428), ("move_mount", 429), ("fsopen", 430), ("init_module", n(175, 105)),
        ("kexec_load", n(246, 104)), ("open_by_handle_at", n(304, 265)), ("process_vm_readv", n(310, 270)), ("mknod", n(133, 33)),
        ("pidfd_getfd", 438), ("landlock_create_ruleset", 444), ("request_key", n(249, 218)), ("memfd_create", n(319, 279)),
        ("memfd_secret", 447), ("execveat", n(322, 281)), ("umount2", n(166, 39)), ("mount_setattr", 442), ("personality", n(135, 92)),
        ("seccomp", n(317, 277)), ("sethostname", n(170, 161)), ("settimeofday", n(164, 170)), ("syslog", n(103, 116)),
        ("reboot", n(169, 142)), ("swapon", n(167, 224)), ("quotactl", n(179, 60)), ("fanotify_init", n(300, 262)),
        ("name_to_handle_at", n(303, 264)), ("mlockall", n(151, 230)), ("sched_setscheduler", n(144, 119)), ("process_madvise", 440),
        ("shmget", n(29, 194)), ("msgget", n(68, 186)), ("semget", n(64, 190)), ("mq_open", n(240, 180)), ("kcmp", n(312, 272)),
        ("pidfd_open", 434), ("sched_setattr", n(314, 274)), ("ioprio_set", n(251, 30)), ("acct", n(163, 89)), ("fsconfig", 431),
    ] {
        // SAFETY: null arguments; the kernel validates them.
        say(&format!("call {name}"), errno(unsafe { syscall(number, 0, 0, 0, 0, 0) }));
    }
    // SAFETY: plain system calls on literals.
    unsafe {
        say("unshare user", errno(unshare(0x1000_0000) as i64));
        say("unshare net", errno(unshare(0x4000_0000) as i64));
        say("unshare cgroup", errno(unshare(0x0200_0000) as i64));
        say("clone user", errno(syscall(n(56, 220), 0x1000_0000_u64 | 17, 0, 0, 0, 0)));
        // With flags in memory, where no filter sees them: clone_args of 64 bytes.
        let arguments = [0x1000_0000_u64, 0, 0, 0, 17, 0, 0, 0];
        say("clone3 user", errno(syscall(435, arguments.as_ptr(), 64)));
        say("memfd", errno(syscall(n(319, 279), c"program".as_ptr(), 0)));
        // A software clock of this process, the most harmless there is: perf_event_attr of 112 bytes.
        let mut attributes = [0_u64; 14];
        attributes[0] = 112 << 32 | 1;
        say("perf event", errno(syscall(n(298, 241), attributes.as_ptr(), 0, -1, -1, 0)));
        for kind in [c"tmpfs", c"proc", c"sysfs", c"cgroup", c"cgroup2", c"overlay", c"mqueue"] {
            let name = kind.to_string_lossy();
            say(&format!("mount {name}"), errno(mount(c"none".as_ptr(), c"/tmp".as_ptr(), kind.as_ptr(), 0, std::ptr::null()) as i64));
        }
        say("setuid 0", errno(setuid(0) as i64));
    }

    // Files.
    for path in [
        "/owned", "/warren-msa", "/etc/resolv.conf", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/dev/owned",
        "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs",
        "/sys/kernel/uevent_helper", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
    ] {
        say(&format!("write {path}"), result(fs::OpenOptions::new().write(true).create(true).open(path)));
    }
    // Its own program, which is everybody's (CVE-2019-5736), and programs of its own.
    say("write own program", result(fs::OpenOptions::new().write(true).open("/proc/self/exe")));
    for place in [VOLUME, "/tmp", "/dev"] {
        say(&format!("run from {place}"), result(run_copy(place)));
    }
    // What somebody outside may read later: `next-due` is read by the launcher, as root.
    for (name, target) in [("next-due", "/proc/1/root/etc/shadow"), ("up", ".."), ("device", "/dev/null")] {
        let _ = std::os::unix::fs::symlink(target, format!("{VOLUME}/{name}"));
    }
    say("write through up", result(fs::write(format!("{VOLUME}/up/owned"), b"x")));
    say("link program", result(fs::hard_link("/warren-msa", format!("{VOLUME}/hard"))));
    say("raise open files", errno(raise_open_files()));
    say("write own oom_score_adj", result(fs::write("/proc/self/oom_score_adj", "-1000")));
    say("write volume", result(fs::write(format!("{VOLUME}/own"), b"x")));
    for path in [
        "/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sysvipc/shm", "/proc/sys/kernel/core_pattern",
        "/sys", "/dev/mem", "/dev/kmsg", "/var/lib/warren", "/run",
    ] {
        say(&format!("read {path}"), result(fs::read_dir(path).map(|_| ()).or_else(|_| fs::File::open(path).map(|_| ()))));
    }
    let pids = fs::read_dir("/proc").map(|d| d.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).map(|p| p.to_string()).collect::<Vec<_>>());
    say("pids", pids.unwrap_or_default().join(" "));
    let status = read("/proc/self/status");
    for key in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:", "CapInh:", "NoNewPrivs:", "Seccomp:"] {
        say(key.trim_end_matches(':'), status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("?").trim().to_owned());
    }
    say("uid_map", read("/proc/self/uid_map").split_whitespace().collect::<Vec<_>>().join(" "));
    say("mounts", read("/proc/self/mountinfo").lines().filter_map(|l| l.split_whitespace().nth(4)).collect::<Vec<_>>().join(" "));
    let kinds = read("/proc/self/mountinfo");
    let mut kinds: Vec<&str> = kinds.lines().filter_map(|l| l.split_once(" - ")?.1.split(' ').next()).collect();
    kinds.sort();
    kinds.dedup();
    say("file systems", kinds.join(" "));
    say("control groups", read("/proc/self/cgroup").lines().filter_map(|l| l.rsplit(':').next()).filter(|path| *path != "/").collect::<Vec<_>>().join(" "));
    let open: Vec<String> = fs::read_dir("/proc/self/fd").map(|d| d.flatten().filter_map(|e| Some(fs::read_link(e.path()).ok()?.display().to_string())).collect()).unwrap_or_default();
    say("descriptors", open.join(" "));
    say("siblings", fs::read_dir(format!("{VOLUME}/..")).map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")).unwrap_or_default());

    // Last, as they change what is there.
    for (number, outcome) in named::all() {
        say(number, outcome);
    }

    // Written whole or not at all: whoever waits for it sees it complete.
    if fs::write(format!("{VOLUME}/report.new"), &report).is_ok() {
        let _ = fs::rename(format!("{VOLUME}/report.new"), format!("{VOLUME}/report"));
    }
    let _ = control.join();
}

/// Plays an MSA that is ready, until the platform lets go; says whose it is.
fn control(told: mpsc::Sender<String>) {
    let own = std::env::var("LISTEN_FDS").is_ok_and(|count| count == "1");
    // SAFETY: the last inherited descriptor is the control listener: 5, or 3 for an image that listens itself.
    let listener = unsafe { UnixListener::from_raw_fd(if own { 3 } else { 5 }) };
    let Ok((stream, _)) = listener.accept() else { return };
    let mut lines = BufReader::new(&stream);
    let mut line = String::new();
    let _ = lines.read_line(&mut line);
    let tenant = line.split_once("\"tenant\":\"").and_then(|(_, rest)| rest.split('"').next());
    let _ = told.send(tenant.unwrap_or_default().to_owned());
    let _ = (&stream).write_all(b"\"Ready\"\n");
    let entrance = if own {
        let Ok(entrance) = TcpListener::bind("127.0.0.1:587") else { return };
        entrance
    } else {
        // SAFETY: descriptor 3 is the submission entrance.
        unsafe { TcpListener::from_raw_fd(3) }
    };
    std::thread::spawn(move || {
        for client in entrance.incoming().flatten() {
            let _ = (&client).write_all(b"421 4.3.2 not a mail server\r\n");
        }
    });
    let _ = std::io::copy(&mut lines, &mut std::io::sink());
}

/// Puts a copy of this program there and runs it.
fn run_copy(place: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let copy = format!("{place}/copy");
    fs::copy("/proc/self/exe", &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let status = std::process::Command::new(&copy).arg("nothing").status();
    let _ = fs::remove_file(&copy);
    status.map(|_| ())
}

/// More descriptors than the limit allows.
fn raise_open_files() -> i64 {
    let wanted = [u64::MAX >> 1; 2];
    // SAFETY: RLIMIT_NOFILE of this process, from an array of the right size.
    unsafe { syscall(if cfg!(target_arch = "x86_64") { 302 } else { 261 }, 0, 7, wanted.as_ptr(), 0) as i64 }
}

fn greeting(target: &str) -> String {
    let target: SocketAddr = target.parse().expect("a literal address");
    match TcpStream::connect_timeout(&target, Duration::from_secs(2)) {
        Err(e) => format!("refused {e}"),
        Ok(mut stream) => {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(40)));
            let mut text = [0; 200];
            let n = stream.read(&mut text).unwrap_or(0);
            String::from_utf8_lossy(&text[..n]).trim().to_owned()
        }
    }
}

fn udp(target: &str) -> String {
    // A question for `.` of type NS: any DNS server would answer it.
    let question = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let attempt = || -> std::io::Result<usize> {
        let s = UdpSocket::bind("0.0.0.0:0")?;
        s.set_read_timeout(Some(Duration::from_millis(500)))?;
        s.connect(target)?;
        s.send(&question)?;
        s.recv(&mut [0; 512])
    };
    result(attempt())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn result<T>(r: std::io::Result<T>) -> String {
    match r {
        Ok(_) => "ok".to_owned(),
        Err(e) => format!("refused {e}"),
    }
}

fn errno(r: i64) -> String {
    if r >= 0 { "ok".to_owned() } else { format!("refused {}", std::io::Error::last_os_error()) }
}
