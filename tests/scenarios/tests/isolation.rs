//! A hostile program inside a real tenant's container, in the MSA's place, reaches nothing but the doors.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use warren_lab::{Lab, LabConfig};
use warren_scenarios::{Node, Setup, Tenant};

/// The image `probe`: a copy of the MSA's with `tests/probe/probe.rs` in the place of its program.
fn build_image(images: &Path) {
    let msa = match std::env::var_os("WARREN_IMAGES") {
        Some(images) => images.into(),
        None => warren_lab::find_program("warren").unwrap().with_file_name("images"),
    };
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    copy(&msa.join("msa"), &images.join("msa"));
    copy(&msa.join("msa"), &images.join("probe"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../probe/probe.rs");
    let program = images.join("probe/rootfs/warren-msa");
    std::fs::remove_file(&program).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]).arg(&program).arg(source);
    assert!(rustc.status().unwrap().success());
}

#[test]
fn a_container_reaches_nothing_but_its_doors() {
    let images = tempfile::Builder::new().prefix("warren-images-").tempdir().unwrap();
    std::fs::set_permissions(images.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    build_image(images.path());
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
    let is = |name: &str, expected: &str| assert_eq!(said.get(name).copied(), Some(expected), "{name}\n{report}");

    is("reached", "");
    // Not even the list of interfaces and of sockets is there: `/proc` shows processes only.
    is("interfaces", "");
    is("abstract sockets", "");
    // Port 25 of the world is the proxy, which dials no address of its own networks.
    for target in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"] {
        assert!(said[format!("dial {target}:25").as_str()].starts_with("421"), "{target}\n{report}");
    }
    for (name, outcome) in &said {
        let refused = [
            "socket ",
            "call ",
            "unshare ",
            "clone ",
            "mount",
            "setuid ",
            "write /",
            "write own",
            "write through",
            "udp ",
            "run ",
            "raise ",
            "link ",
        ]
        .iter()
        .any(|p| name.starts_with(p));
        if refused && *name != "mounts" {
            assert!(outcome.starts_with("refused"), "{name}: {outcome}");
        }
    }
    for name in ["read /proc/kcore", "read /dev/mem", "read /dev/kmsg", "read /var/lib/warren"] {
        assert!(said[name].starts_with("refused"), "{name}: {}", said[name]);
    }
    is("write volume", "ok");
    is("siblings", "warren");
    is("pids", "1");
    for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"] {
        is(name, "0000000000000000");
    }
    is("NoNewPrivs", "1");
    is("Seccomp", "2");
    let map: Vec<u64> = said["uid_map"].split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(map[1] >= 65_536 && map[2] <= 1_024, "uid_map {map:?}");
    assert!(
        said["descriptors"].split(' ').all(|d| !d.contains("/var/lib") && !d.contains("cgroup")),
        "{}",
        said["descriptors"]
    );
    // It listens to nobody, and ends with the node all the same.
    node.stop();
}
