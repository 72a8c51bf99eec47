//! Control groups, v1 (and hybrid) or v2: where ours are, what is written into them, how they go away.
//!
//! ```text
//! v1   /sys/fs/cgroup/memory/OWN/NAME/c17     and the same for pids, cpu, devices; OWN may differ per hierarchy
//! v2   /sys/fs/cgroup/OWN/NAME/c17            OWN must hold no process: we are in OWN/NAME/daemons
//! ```
//!
//! The launcher itself, and whoever follows it, is in `NAME/daemons` of the hierarchy with the controller `cpu` (`daemons.rs`).

mod daemons;

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, Limits};

use crate::layout;

/// Controllers that every container is put under.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];
/// Used on v1 if it is there. `cpuacct` tells who burns the processor. A user namespace refuses devices that are not of its own mounts
/// anyway; `devices` is the second lock.
const WANTED: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "devices"];
/// On v2 handed down if it is there: what a tenant writes is then charged to the tenant, and where the disk's scheduler knows weights each
/// container has its share. On v1 it does not see what is written behind.
const IO: &str = "io";
/// Where v2 is, if it has controllers.
const UNIFIED: &str = "/sys/fs/cgroup";
/// What a container has in `/dev`: null, zero, full, random, urandom, tty, and terminals of its own.
const DEVICES: [&str; 8] =
    ["c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw", "c 5:0 rw", "c 5:2 rw", "c 136:* rw"];

/// One mounted hierarchy that we use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
    own: PathBuf,
}

/// Where containers go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    name: String,
    unified: bool,
    hierarchies: Vec<Hierarchy>,
    unused: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds them by what the kernel says of us. `name` is the directory that holds the containers' groups.
    pub fn discover(name: &str) -> Result<Cgroups, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        // Not there on v1.
        let offered = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers")).unwrap_or_default();
        Cgroups::from_text(name, &read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?, &offered)
    }

    /// `offered` are the controllers that v2 has.
    fn from_text(name: &str, mountinfo: &str, own: &str, offered: &str) -> Result<Cgroups, String> {
        let mut cgroups =
            Cgroups { name: name.to_owned(), unified: false, hierarchies: Vec::new(), unused: Vec::new() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(mount), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
            let mount = PathBuf::from(mount);
            let options: Vec<&str> = right.split(' ').nth(2).unwrap_or("").split(',').collect();
            if kind == "cgroup" {
                let controllers: Vec<String> =
                    options.iter().filter(|option| WANTED.contains(option)).map(|option| option.to_string()).collect();
                match own_path(own, controllers.first().map(String::as_str)) {
                    Some(path) => cgroups.add(controllers, mount, daemons::outside(path, name)),
                    None => cgroups.unused.push(mount),
                }
            } else if kind == "cgroup2" && mount == Path::new(UNIFIED) {
                cgroups.unified = true;
                let path =
                    own_path(own, Some("")).ok_or("/proc/self/cgroup does not show a place in the v2 hierarchy")?;
                let offered = offered.split_whitespace().filter(|name| NEEDED.contains(name) || *name == IO);
                cgroups.add(offered.map(str::to_owned).collect(), mount, daemons::outside(path, name));
            }
        }
        let has = |needed: &&str| {
            cgroups.hierarchies.iter().any(|hierarchy| hierarchy.controllers.iter().any(|name| name == needed))
        };
        match NEEDED.iter().find(|needed| !has(needed)) {
            None => Ok(cgroups),
            Some(needed) if cgroups.unified => Err(format!(
                "no {needed} in {UNIFIED}/cgroup.controllers: the kernel was started without this controller \
                 (cgroup_disable={needed}, or it wants cgroup_enable={needed}), or a v1 mount holds it"
            )),
            Some(needed) => Err(format!(
                "no cgroup controller {needed}: mount cgroup2 at {UNIFIED}, or the v1 controllers below it \
                 (`mount -t cgroup -o {needed} {needed} {UNIFIED}/{needed}`)"
            )),
        }
    }

    fn add(&mut self, controllers: Vec<String>, mount: PathBuf, path: &str) {
        // A mount of a hierarchy seen earlier adds nothing.
        if self.hierarchies.iter().all(|known| known.controllers != controllers) {
            let own = mount.join(path.trim_start_matches('/'));
            self.hierarchies.push(Hierarchy { controllers, mount, own });
        }
    }

    /// Makes the directories that hold the containers' groups; on v2 hands the controllers down to them, for which we must leave the
    /// group in which we were started.
    pub fn prepare(&mut self) -> io::Result<()> {
        if self.unified {
            self.find_room()?;
        }
        for parent in self.parents() {
            fs::create_dir_all(parent)?;
        }
        self.enter_daemons()
    }

    /// v2: a group with processes cannot give controllers to children. If we are alone in ours, we leave it, as `warren up` does before it
    /// starts us; otherwise (a shell's session) the containers go below the root of the hierarchy.
    fn find_room(&mut self) -> io::Result<()> {
        let Some(hierarchy) = self.hierarchies.first_mut() else { return Ok(()) };
        if hierarchy.own != hierarchy.mount {
            let processes = fs::read_to_string(hierarchy.own.join("cgroup.procs"))?;
            let own = std::process::id().to_string();
            if processes.lines().any(|process| process != own) {
                hierarchy.own = hierarchy.mount.clone();
            }
        }
        Ok(())
    }

    /// Where control groups are mounted, ours and those that we do not use.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies
            .iter()
            .map(|hierarchy| hierarchy.mount.as_path())
            .chain(self.unused.iter().map(PathBuf::as_path))
    }

    /// The directories of [`parents`](Self::parents), open, so that groups can be made where nothing is mounted.
    pub fn open(&self) -> io::Result<Groups> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let parents = self.parents().into_iter().map(|parent| Ok(open(&parent, flags, Mode::empty())?));
        Ok(Groups { unified: self.unified, parents: parents.collect::<io::Result<_>>()? })
    }

    /// The directories that hold the containers' groups, one per hierarchy.
    pub fn parents(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.own.join(&self.name)).collect()
    }

    /// Writes a tenant's limits into its container's groups.
    pub fn limit(&self, cell: CellId, limits: &Limits) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let directory = hierarchy.own.join(&self.name).join(layout::container_name(cell));
            for controller in &hierarchy.controllers {
                for (file, value, optional) in settings(controller, self.unified, limits) {
                    match fs::write(directory.join(file), value) {
                        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) if optional && error.kind() == io::ErrorKind::PermissionDenied => {}
                        Err(error) => return Err(io::Error::new(error.kind(), format!("{file}: {error}"))),
                        Ok(()) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// What a container uses, page cache and kernel's share included.
    pub fn memory(&self, cell: CellId) -> Option<u64> {
        let file = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        let holds_it = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|name| name == "memory");
        let hierarchy = self.hierarchies.iter().find(holds_it)?;
        let group = hierarchy.own.join(&self.name).join(layout::container_name(cell));
        fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
    }

    /// Whether the kernel has this process in this cell's groups.
    pub fn holds(parents: &[PathBuf], cell: CellId, pid: i32) -> bool {
        let name = layout::container_name(cell);
        parents.iter().any(|parent| processes(&parent.join(&name)).contains(&pid))
    }
}

/// The directories that hold the containers' groups, one per hierarchy.
#[derive(Debug)]
pub struct Groups {
    unified: bool,
    parents: Vec<OwnedFd>,
}

impl Groups {
    /// Makes the group of a cell in which its seat is to be born; on v1 nobody can be.
    pub fn birthplace(&self, cell: CellId) -> io::Result<Option<OwnedFd>> {
        if self.unified { self.make(cell) } else { Ok(None) }
    }

    /// Makes the groups of a cell, without limits.
    fn make(&self, cell: CellId) -> io::Result<Option<OwnedFd>> {
        let name = layout::container_name(cell);
        let mut last = None;
        for parent in &self.parents {
            match mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
                // A number belongs to one cell for ever: an earlier try has come so far.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let group = openat(parent, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            // Only the hierarchy of this controller has the file.
            match write_at(&group, "devices.deny", "a") {
                Ok(()) => DEVICES.iter().try_for_each(|rule| write_at(&group, "devices.allow", rule))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            last = Some(group);
        }
        Ok(last)
    }

    /// Makes the groups of a cell, and moves the calling process into them. The kernel waits for a grace period of RCU: ten milliseconds and more.
    pub fn enter(&self, cell: CellId) -> io::Result<()> {
        self.make(cell)?;
        let procs = format!("{}/cgroup.procs", layout::container_name(cell));
        self.parents.iter().try_for_each(|parent| write_at(parent, &procs, "0"))
    }
}

fn write_at(directory: &OwnedFd, file: &str, text: &str) -> io::Result<()> {
    let file = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// Our path in the hierarchy that has this controller (v1), or in the unified one (the empty name).
fn own_path<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    let controller = controller?;
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

/// File, value, and whether it may be missing (swap accounting is a kernel option).
fn settings(controller: &str, unified: bool, limits: &Limits) -> Vec<(&'static str, String, bool)> {
    let weight = u64::from(limits.cpu_weight.clamp(1, 10_000));
    match (controller, unified) {
        ("memory", true) => vec![
            ("memory.max", limits.memory_bytes.to_string(), false),
            ("memory.swap.max", "0".to_owned(), true),
            ("memory.oom.group", "1".to_owned(), true),
        ],
        ("memory", false) => vec![
            ("memory.limit_in_bytes", limits.memory_bytes.to_string(), false),
            ("memory.memsw.limit_in_bytes", limits.memory_bytes.to_string(), true),
        ],
        ("pids", _) => vec![("pids.max", limits.pids.to_string(), false)],
        ("cpu", true) => vec![("cpu.weight", weight.to_string(), false)],
        // 1024 shares are what a weight of 100 is.
        ("cpu", false) => vec![("cpu.shares", (weight * 1024 / 100).max(2).to_string(), false)],
        _ => Vec::new(),
    }
}

/// What the processes of a group have used of the processors, if it can tell.
pub fn processor_time(group: &Path) -> Option<Duration> {
    if let Ok(nanoseconds) = fs::read_to_string(group.join("cpuacct.usage")) {
        return nanoseconds.trim().parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()).map(Duration::from_micros)
}

/// Has a group run only when nobody else wants to, or with its weight again, which the kernel forgets meanwhile. Does nothing to a group
/// of another controller.
pub fn stand_back(group: &Path, back: bool, weight: u32) -> io::Result<()> {
    match fs::write(group.join("cpu.idle"), if back { "1" } else { "0" }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => done?,
    }
    if back {
        return Ok(());
    }
    let unified = group.join("cpu.weight").exists();
    let limits = Limits { cpu_weight: weight, ..Limits::default() };
    settings("cpu", unified, &limits).into_iter().try_for_each(|(file, value, _)| fs::write(group.join(file), value))
}

fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills every process of a group: v2 has a file for that. On v1 a pid is signalled only through a descriptor, checked to be still in the
/// group once we hold it.
pub fn kill_all(group: &Path) {
    // Opened, not made: elsewhere there is no such file (nor before Linux 5.14).
    if let Ok(mut all) = fs::File::options().write(true).open(group.join("cgroup.kill"))
        && all.write_all(b"1").is_ok()
    {
        return;
    }
    let held: Vec<(i32, OwnedFd)> = processes(group)
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?)))
        .collect();
    let still = processes(group);
    for (pid, pidfd) in held {
        if still.contains(&pid) {
            // It can only be gone by itself.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
25 24 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
26 24 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
27 24 0:23 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
28 24 0:24 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
29 24 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn hybrid_gives_a_path_of_our_own_in_each_hierarchy() {
        let own = "5:memory:/a/b\n4:pids:/\n3:cpu,cpuacct:/c\n2:freezer:/\n0::/x\n";
        let cgroups = Cgroups::from_text("warren", HYBRID, own, "").unwrap();
        assert!(!cgroups.unified);
        assert_eq!(
            cgroups.parents(),
            ["/sys/fs/cgroup/cpu,cpuacct/c/warren", "/sys/fs/cgroup/memory/a/b/warren", "/sys/fs/cgroup/pids/warren"]
                .map(PathBuf::from)
        );
        assert_eq!(cgroups.unused, [PathBuf::from("/sys/fs/cgroup/freezer")]);
        assert_eq!(cgroups.mounts().count(), 4);
    }

    const V2: &str = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn unified_gives_one() {
        let own = "0::/system.slice/warren.service\n";
        let cgroups = Cgroups::from_text("warren", V2, own, "cpuset cpu io memory hugetlb pids\n").unwrap();
        assert!(cgroups.unified);
        assert_eq!(cgroups.parents(), [PathBuf::from("/sys/fs/cgroup/system.slice/warren.service/warren")]);
        assert_eq!(cgroups.hierarchies[0].controllers, ["cpu", "io", "memory", "pids"]);
    }

    #[test]
    fn a_missing_controller_is_named_with_the_cure() {
        let error = Cgroups::from_text("warren", "", "", "").unwrap_err();
        assert!(error.contains("memory") && error.contains("mount"), "{error}");
        let error = Cgroups::from_text("warren", V2, "0::/\n", "cpu io pids\n").unwrap_err();
        assert!(error.contains("memory") && error.contains("cgroup_enable"), "{error}");
    }

    #[test]
    fn weights_become_shares() {
        let limits = Limits { cpu_weight: 50, ..Limits::default() };
        assert_eq!(settings("cpu", false, &limits), [("cpu.shares", "512".to_owned(), false)]);
        assert_eq!(settings("cpu", true, &limits), [("cpu.weight", "50".to_owned(), false)]);
    }
}
