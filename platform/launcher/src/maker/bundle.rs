//! The OCI runtime configuration of a slot: everything about a container that does not depend on its tenant.

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::ids;
use crate::image::{Entrance, Image, Tmpfs};

/// What `/proc` may not show and what may not be written there. It is mounted with `subset=pid`, so on today's kernels
/// none of these exist; on one without that option they are hidden one by one.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Writes the configuration. The image's root is given as the maker sees it. The namespaces are descriptors of the process that calls libcontainer: paths through `/proc/self/fd`
/// need no bind mounts to keep the namespaces alive. Nothing is said of control groups: whoever calls libcontainer sits in them.
pub fn config(image: &Image, user_namespace: i32, network_namespace: i32) -> Value {
    // As many as may be; the wake lowers it to the tenant's limit, and nobody may raise it then.
    let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let listening = match image.entrance {
        Entrance::Inherited => ["LISTEN_FDS=3", "LISTEN_FDNAMES=submission:relay:control"],
        Entrance::Own => ["LISTEN_FDS=1", "LISTEN_FDNAMES=control"],
    };
    let capabilities = &image.capabilities;
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": image.uid, "gid": image.gid },
            "args": image.args,
            "env": ["PATH=/", "HOME=/tmp", "LISTEN_PID=1", listening[0], listening[1]],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": [], "ambient": [],
            },
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files },
                { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
                { "type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 65536 },
                { "type": "RLIMIT_MSGQUEUE", "hard": 0, "soft": 0 },
                { "type": "RLIMIT_RTPRIO", "hard": 0, "soft": 0 },
                { "type": "RLIMIT_SIGPENDING", "hard": 1024, "soft": 1024 },
            ],
            "noNewPrivileges": true,
        },
        "root": { "path": image.rootfs, "readonly": true },
        "hostname": "msa",
        "mounts": [
            {
                "destination": "/proc", "type": "proc", "source": "proc",
                "options": ["nosuid", "noexec", "nodev", "subset=pid"],
            },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k", "nr_inodes=64"],
            },
            {
                "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=16m", "nr_inodes=1024"],
            },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
                { "type": "user", "path": format!("/proc/self/fd/{user_namespace}") },
                { "type": "network", "path": format!("/proc/self/fd/{network_namespace}") },
            ],
            "rootfsPropagation": "private",
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.extend(image.tmpfs.iter().map(|Tmpfs { path, kib }| {
            let size = format!("size={kib}k");
            json!({
                "destination": path, "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "nodev", "mode=755", size, "nr_inodes=1024"],
            })
        }));
    }
    config
}

/// The same for any OCI runtime: with namespaces that it makes itself, a range of ids that no cell has, and the filter, which the
/// launcher loads by itself. Limits, the volume and the cell are the caller's to add.
pub fn standalone(image: &Image) -> Value {
    let mut config = config(image, 0, 0);
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.iter_mut().filter_map(Value::as_object_mut).for_each(|namespace| drop(namespace.remove("path")));
    }
    let mappings = json!([{ "containerID": 0, "hostID": ids::disk_base(0), "size": ids::RANGE }]);
    config["linux"]["uidMappings"] = mappings.clone();
    config["linux"]["gidMappings"] = mappings;
    config["linux"]["seccomp"] = super::seccomp::oci(image.entrance);
    config
}
