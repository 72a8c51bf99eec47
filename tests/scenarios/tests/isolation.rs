//! A hostile program inside a real tenant's container, in the MSA's place, reaches nothing but the doors, and not its accomplice in
//! another.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use warren_lab::{Lab, LabConfig};
use warren_scenarios::images::{add, copies};
use warren_scenarios::{Node, Setup, Tenant};

/// Runs the hostile program as the MSA of two tenants until it has reported, beside a neighbour. `more` has the image's description
/// changed.
fn probed(more: impl FnOnce(&Path), look: impl FnOnce(&BTreeMap<&str, &str>, &str)) {
    let images = copies(&["msa"]);
    add(images.path(), "probe", "probe/probe.rs");
    more(&images.path().join("probe"));
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let bad = ["hostile", "accomplice"].map(|name| {
        let mut tenant = Tenant::new(name, "mallory");
        tenant.extra = "image = \"probe\"".into();
        tenant
    });
    let tenants = bad.into_iter().chain([Tenant::acme()]).collect();
    let setup = Setup { tenants, images: Some(images.path().to_owned()), ..Setup::default() };
    let node = Node::start(&lab, &setup);
    // The neighbour lives beside it.
    node.ask(&["tenant", "wake", "acme"]);
    // Sockets of the machine and of the node's network, where whoever is there can be met.
    let met = |who: &str| {
        let name = SocketAddr::from_abstract_name(format!("warren-probe/{who}")).unwrap();
        // Another run of this test may have it. One of us is there.
        let there = UnixListener::bind_addr(&name);
        UnixStream::connect_addr(&name).expect("who shares the network is met");
        there
    };
    let _on_the_host = met("host");
    let _on_the_node = warren_scenarios::inside(&lab.node_ns(), || met("node"));
    for name in ["hostile", "accomplice"] {
        let _ = node.warren(&["tenant", "wake", name]);
    }
    let volumes = ["hostile", "accomplice"].map(|name| {
        let volume = node.state_dir().join("tenants").join(name);
        let number = node.wait_until("the probe's volume", || std::fs::read_link(&volume).ok());
        node.state_dir().join("volumes").join(number)
    });
    let read = |volume: &PathBuf, file: &str| {
        node.wait_until("the probe", || std::fs::read_to_string(volume.join(file)).ok().filter(|text| !text.is_empty()))
    };
    // Each can be met by now, wherever it can be met.
    volumes.iter().for_each(|volume| drop(read(volume, "there")));
    volumes.iter().for_each(|volume| std::fs::write(volume.join("go"), "").unwrap());
    let [hostile, accomplice] = volumes.each_ref().map(|volume| read(volume, "report"));
    for (report, own) in [(&accomplice, "accomplice"), (&hostile, "hostile")] {
        let said = lines(report);
        assert_eq!(said["go"], "ok", "{own} did not wait until all could be met");
        for who in ["hostile", "accomplice", "node", "host"] {
            let outcome = said[format!("meet {who}").as_str()];
            assert_eq!(outcome == "ok", who == own, "{own} meets {who}: {outcome}");
        }
    }
    println!("{hostile}");
    look(&lines(&hostile), &hostile);
    // It listens to nobody, and ends with the node all the same.
    node.stop();
}

fn lines(report: &str) -> BTreeMap<&str, &str> {
    report.lines().filter_map(|l| l.split_once(": ").or_else(|| Some((l.strip_suffix(':')?, "")))).collect()
}

/// What holds in every image.
fn reaches_nothing_but_its_doors(said: &BTreeMap<&str, &str>, report: &str) {
    let is = |name: &str, expected: &str| assert_eq!(said.get(name).copied(), Some(expected), "{name}\n{report}");
    is("reached", "");
    is("abstract sockets", "");
    // Port 25 of the world is the proxy, which dials no address of its own networks.
    for target in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"] {
        assert!(said[format!("dial {target}:25").as_str()].starts_with("421"), "{target}\n{report}");
    }
    for path in [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/key-users",
        "/proc/timer_list",
        "/proc/sysvipc/shm",
        "/proc/sys/kernel/core_pattern",
        "/sys",
        "/dev/mem",
        "/dev/kmsg",
        "/var/lib/warren",
    ] {
        let outcome = said[format!("read {path}").as_str()];
        assert!(outcome.starts_with("refused"), "{path}: {outcome}");
    }
    // No list of groups, no sysfs, no place of the machine's control groups: nothing where a release agent could be written.
    is("control groups", "");
    for kind in ["cgroup", "cgroup2", "sysfs", "debugfs", "tracefs", "bpf", "securityfs", "mqueue"] {
        assert!(!said["file systems"].split(' ').any(|there| there == kind), "{kind} in {}", said["file systems"]);
    }
    is("write volume", "ok");
    is("siblings", "warren");
    is("pids", "1");
    is("NoNewPrivs", "1");
    is("Seccomp", "2");
    for number in NUMBERED {
        assert!(said[number].starts_with("refused"), "{number}: {}", said[number]);
    }
    for name in ["CapInh", "CapAmb"] {
        is(name, "0000000000000000");
    }
    let map: Vec<u64> = said["uid_map"].split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(map[1] >= 65_536 && map[2] <= 1_024, "uid_map {map:?}");
    assert!(
        said["descriptors"].split(' ').all(|d| !d.contains("/var/lib") && !d.contains("cgroup")),
        "{}",
        said["descriptors"]
    );
}

/// What others' runtimes were open to.
const NUMBERED: [&str; 6] =
    ["CVE-2019-5736", "CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881", "CVE-2025-27612"];

/// Asserts that everything whose name begins so was refused, but for these.
fn refused(said: &BTreeMap<&str, &str>, beginnings: &[&str], but: &[&str]) {
    let mut looked_at = 0;
    for (name, outcome) in said.iter().filter(|(name, _)| beginnings.iter().any(|b| name.starts_with(b))) {
        if !but.contains(name) {
            assert!(outcome.starts_with("refused"), "{name}: {outcome}");
            // By the filter, not by the arguments, which are null: EPERM, or ENOSYS.
            let by_filter = ["(os error 1)", "(os error 38)"].iter().any(|errno| outcome.ends_with(errno));
            assert!(by_filter || !name.starts_with("call "), "{name}: {outcome}");
            looked_at += 1;
        }
    }
    assert!(looked_at >= beginnings.len(), "the probe tried less than it should: {said:?}");
}

const ATTEMPTS: [&str; 14] = [
    "socket ",
    "call ",
    "unshare ",
    "clone ",
    "clone3 ",
    "memfd",
    "perf event",
    "mount",
    "write /",
    "write own",
    "write through",
    "udp ",
    "run ",
    "raise ",
];

#[test]
fn a_container_reaches_nothing_but_its_doors() {
    probed(
        |_| {},
        |said, report| {
            reaches_nothing_but_its_doors(said, report);
            // Not even the list of interfaces and of sockets is there: `/proc` shows processes only.
            assert_eq!(said["interfaces"], "");
            refused(said, &ATTEMPTS, &["mounts"]);
            refused(said, &["setuid ", "link "], &[]);
            for name in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(said[name], "0000000000000000", "{name}");
            }
        },
    );
}

#[test]
fn an_image_that_listens_itself_reaches_no_more() {
    let description = r#"{"args": ["/warren-msa"], "entrance": "own", "uid": 0, "gid": 0, "capabilities": ["CAP_CHOWN",
        "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]}"#;
    probed(
        |image| std::fs::write(image.join("image.json"), description).unwrap(),
        |said, report| {
            reaches_nothing_but_its_doors(said, report);
            // Its own /dev is a few KiB of its own memory, where nothing can be run and no device be made; of netlink it may ask for
            // the interfaces, of which there is `lo`.
            refused(said, &ATTEMPTS, &["mounts", "write /dev/owned", "socket netlink route"]);
            let capabilities = u64::from_str_radix(said["CapBnd"], 16).unwrap();
            // CHOWN DAC_OVERRIDE KILL SETGID SETUID NET_BIND_SERVICE, and nothing else ever.
            assert_eq!(capabilities, 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10, "{}", said["CapBnd"]);
            assert_eq!([said["CapEff"], said["CapPrm"]], [said["CapBnd"]; 2]);
        },
    );
}
