//! What a program in a container sees and cannot do, told by one that tries.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;

use node::Node;
use warren_launcher_api::{ExitStatus, Limits};

/// x86-64's numbers of calls, with the arguments to try.
const REFUSED: [(&str, &str); 24] = [
    ("unshare(CLONE_NEWUSER)", "272 268435456"),
    ("clone(CLONE_NEWUSER)", "56 268435473"),
    ("setns", "308 3 0"),
    ("mount", "165 0 0 0 0 0"),
    ("umount2", "166 0 0"),
    ("open_tree", "428 0 0 0"),
    ("pivot_root", "155 0 0"),
    ("chroot", "161 0"),
    ("ptrace(TRACEME)", "101 0 0 0 0"),
    ("bpf", "321 0 0 0"),
    ("io_uring_setup", "425 1 0"),
    ("keyctl", "250 0 0 0 0 0"),
    ("userfaultfd", "323 0"),
    ("perf_event_open", "298 0 0 0 0 0"),
    ("memfd_create", "319 0 0"),
    ("mknod", "133 0 8192 0"),
    ("setuid", "105 0"),
    ("prctl(PR_SET_DUMPABLE)", "157 4 1 0 0 0"),
    ("socket(AF_NETLINK)", "41 16 3 0"),
    ("socket(AF_PACKET)", "41 17 3 0"),
    ("socket(AF_INET, SOCK_RAW, ICMP)", "41 2 3 1"),
    ("socket(AF_INET, SOCK_DGRAM, ICMP)", "41 2 2 1"),
    ("socket(AF_INET, SOCK_STREAM, SCTP)", "41 2 1 132"),
    ("socket(AF_VSOCK)", "41 40 1 0"),
];

#[test]
fn a_container_sees_itself_and_nothing_else() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let mut acme = platform.wake("acme");
    let mut globex = platform.wake("globex");
    let mut talk = acme.talk();
    globex.talk().ask("write /var/spool/warren/secret of-globex");
    talk.ask("write /var/spool/warren/secret of-acme");
    let mut ask = |question: &str| talk.ask(question);

    assert_eq!(ask("read /var/spool/warren/secret"), "of-acme|");
    assert_eq!(ask("list /var/spool/warren"), "secret");
    let status = ask("read /proc/self/status");
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "Groups:\t",
        "Pid:\t1|",
        "SigBlk:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    // Of /proc only itself.
    let processes = ask("list /proc");
    assert!(processes.split(' ').filter(|name| name.parse::<u32>().is_ok()).all(|pid| pid == "1"), "{processes}");
    for hidden in ["/proc/kcore", "/proc/keys", "/proc/sys/kernel/hostname", "/proc/mounts-of-others", "/sys/kernel"] {
        assert!(ask(&format!("read {hidden}")).starts_with("error"), "{hidden}");
    }
    // Descriptors: the three it was given, and its own.
    let descriptors = ask("links /proc/self/fd");
    assert!(
        descriptors
            .split(' ')
            .all(|link| link == "/dev/null" || link.starts_with("socket:") || link.starts_with("/proc/1/fd")),
        "{descriptors}"
    );
    // Mounts: root, proc, dev and its devices, tmp, volume; the root only to be read; no path that tells anything.
    let mounts = ask("read /proc/self/mountinfo");
    let root = mounts.split('|').find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains(" ro,"), "{root}");
    let volume = mounts.split('|').find(|line| line.split(' ').nth(4) == Some("/var/spool/warren")).unwrap();
    assert!(volume.contains("nosuid,nodev,noexec") && !volume.contains("acme"), "{volume}");
    assert!(!mounts.contains("/tmp/warren-launcher-") || mounts.matches("rootfs").count() <= 1, "{mounts}");
    for place in ["/x", "/etc/x", "/dev/x", "/proc/x", "/var/x", "/guest"] {
        assert!(ask(&format!("write {place} text")).starts_with("error"), "{place} can be written");
    }
    assert_eq!(ask("write /tmp/x text"), "written");
    assert!(ask("fill /tmp/y 20").starts_with("error"), "/tmp is small");
    let environment = ask("environment");
    for wanted in ["LISTEN_FDS=3", "LISTEN_PID=1", "LISTEN_FDNAMES=submission:relay:control"] {
        assert!(environment.contains(wanted), "{environment}");
    }
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("CARGO"), "{environment}");
    // The network: nothing answers, as nobody holds a door here; entrances of its own only.
    for address in
        ["198.51.100.1:25", "198.51.100.1:80", "127.0.0.1:22", "127.0.0.1:25", "[2001:db8::1]:25", "10.0.0.1:443"]
    {
        assert!(ask(&format!("dial {address}")).starts_with("error"), "{address}");
    }
    assert!(!ask("read /proc/self/net/unix").contains("launcher.sock"));
    if cfg!(target_arch = "x86_64") {
        for (what, call) in REFUSED {
            assert_eq!(ask(&format!("syscall {call}")), "errno 1", "{what}");
        }
        assert_eq!(ask("syscall 435 0 0"), "errno 38", "clone3 sends libc to clone");
    }

    // Outside: files belong to ranges of the tenants' own, processes to another.
    use std::os::unix::fs::MetadataExt;
    let owner = |number: u32| fs::metadata(node.path(&format!("state/volumes/{number}/secret"))).unwrap().uid();
    assert_eq!((owner(1), owner(2)), (0x7000_0000 + 1024 + 1000, 0x7000_0000 + 2048 + 1000));
    let pid = |cell: &node::Awake| {
        let listed = node
            .groups()
            .into_iter()
            .find_map(|group| fs::read_to_string(group.join(format!("c{}/cgroup.procs", cell.cell))).ok());
        listed.unwrap().trim().parse::<i32>().unwrap()
    };
    let (one, other) = (pid(&acme), pid(&globex));
    assert_ne!(
        fs::metadata(format!("/proc/{one}")).unwrap().uid(),
        fs::metadata(format!("/proc/{other}")).unwrap().uid()
    );
    for namespace in ["user", "pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&one.to_string()), of("self"), "{namespace}");
        assert_ne!(of(&one.to_string()), of(&other.to_string()), "{namespace}");
    }
}

#[test]
fn hogs_are_held_to_their_limits() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let limits = Limits {
        memory_bytes: 32 << 20,
        pids: 12,
        cpu_weight: 25,
        file_bytes: 3 << 20,
        open_files: 64,
        ..Limits::default()
    };
    let mut hog = platform.try_wake("hog", "msa", limits).unwrap();
    let mut neighbour = platform.wake("neighbour");
    // What only the scheduler shows: written where the kernel reads it.
    let weights: Vec<String> = node
        .groups()
        .iter()
        .flat_map(|group| ["cpu.shares", "cpu.weight"].map(|file| group.join(format!("c{}", hog.cell)).join(file)))
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    assert!(weights.iter().any(|weight| ["256", "25"].contains(&weight.trim())), "{weights:?}");
    let mut talk = hog.talk();
    let threads: u32 = talk.ask("threads 50").parse().unwrap();
    assert!(threads < 12, "{threads} threads");
    let limits = talk.ask("read /proc/self/limits");
    assert!(limits.contains("Max open files            64                   64"), "{limits}");
    let open: u32 = talk.ask("open 100").parse().unwrap();
    assert!((40..64).contains(&open), "{open} more files");
    // RLIMIT_FSIZE: SIGXFSZ ends the program unless it handles it; what was written stays.
    talk.say("fill /var/spool/warren/big 5");
    assert_eq!(
        talk.line(),
        "error File too large (os error 27)",
        "PID 1 ignores signals without a handler, so it gets the error"
    );
    talk.say("eat 200");
    assert_eq!(platform.exited(hog.cell), ExitStatus::Signal(9));
    assert_eq!(neighbour.talk().ask("eat 50"), (50 << 20).to_string());
}

#[test]
fn a_volume_that_holds_too_much_ends_its_container() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let limits = Limits { volume_bytes: 8 << 20, ..Limits::default() };
    let mut neighbour = platform.wake("neighbour");
    let mut hog = platform.try_wake("hog", "msa", limits.clone()).unwrap();
    let mut talk = hog.talk();
    // It may be ended before it can answer.
    talk.say("fill /var/spool/warren/big 20");
    assert_eq!(platform.exited(hog.cell), ExitStatus::OverVolume);
    // It may run again, for its volume to become smaller, but not to grow.
    let mut hog = platform.try_wake("hog", "msa", limits).unwrap();
    assert!(!hog.has_ended(std::time::Duration::from_secs(2)), "it has not grown");
    let mut talk = hog.talk();
    talk.say("fill /var/spool/warren/more 8");
    assert_eq!(platform.exited(hog.cell), ExitStatus::OverVolume);
    assert_eq!(neighbour.talk().ask("fill /var/spool/warren/x 20"), "filled");
    // The watcher's death harms nobody, and another one watches on.
    node.kill_watcher();
    let limits = Limits { volume_bytes: 8 << 20, ..Limits::default() };
    let mut other = platform.try_wake("other", "msa", limits).unwrap();
    other.talk().say("fill /var/spool/warren/x 30");
    assert_eq!(platform.exited(other.cell), ExitStatus::OverVolume);
}
