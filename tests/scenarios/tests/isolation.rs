//! A hostile program inside a real tenant's container, in the MSA's place, reaches nothing but the doors.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use warren_lab::{Lab, LabConfig};
use warren_scenarios::images::{add, copies};
use warren_scenarios::{Node, Setup, Tenant};

/// Runs the hostile program as a tenant's MSA until it has reported, beside a neighbour. `more` has the image's description changed.
fn probed(more: impl FnOnce(&Path), look: impl FnOnce(&BTreeMap<&str, &str>, &str)) {
    let images = copies(&["msa"]);
    add(images.path(), "probe", "probe/probe.rs");
    more(&images.path().join("probe"));
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut hostile = Tenant::new("hostile", "mallory");
    hostile.extra = "image = \"probe\"".into();
    let setup =
        Setup { tenants: vec![hostile, Tenant::acme()], images: Some(images.path().to_owned()), ..Setup::default() };
    let node = Node::start(&lab, &setup);
    // The neighbour lives beside it.
    node.ask(&["tenant", "wake", "acme"]);
    let _ = node.warren(&["tenant", "wake", "hostile"]);
    let volumes = node.state_dir().join("volumes");
    let report = node.wait_until("the probe's report", || {
        std::fs::read_dir(&volumes).ok()?.flatten().find_map(|v| std::fs::read_to_string(v.path().join("report")).ok())
    });
    println!("{report}");
    let said: BTreeMap<&str, &str> =
        report.lines().filter_map(|l| l.split_once(": ").or_else(|| Some((l.strip_suffix(':')?, "")))).collect();
    look(&said, &report);
    // It listens to nobody, and ends with the node all the same.
    node.stop();
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
    for name in ["read /proc/kcore", "read /dev/mem", "read /dev/kmsg", "read /var/lib/warren"] {
        assert!(said[name].starts_with("refused"), "{name}: {}", said[name]);
    }
    is("write volume", "ok");
    is("siblings", "warren");
    is("pids", "1");
    is("NoNewPrivs", "1");
    is("Seccomp", "2");
    let map: Vec<u64> = said["uid_map"].split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(map[1] >= 65_536 && map[2] <= 1_024, "uid_map {map:?}");
    assert!(
        said["descriptors"].split(' ').all(|d| !d.contains("/var/lib") && !d.contains("cgroup")),
        "{}",
        said["descriptors"]
    );
}

/// Asserts that everything whose name begins so was refused, but for these.
fn refused(said: &BTreeMap<&str, &str>, beginnings: &[&str], but: &[&str]) {
    let mut looked_at = 0;
    for (name, outcome) in said.iter().filter(|(name, _)| beginnings.iter().any(|b| name.starts_with(b))) {
        if !but.contains(name) {
            assert!(outcome.starts_with("refused"), "{name}: {outcome}");
            looked_at += 1;
        }
    }
    assert!(looked_at >= beginnings.len(), "the probe tried less than it should: {said:?}");
}

const ATTEMPTS: [&str; 11] = [
    "socket ",
    "call ",
    "unshare ",
    "clone ",
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
            for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"] {
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
            assert_eq!(said["CapEff"], said["CapBnd"]);
            assert_eq!(said["CapAmb"], "0000000000000000");
        },
    );
}
