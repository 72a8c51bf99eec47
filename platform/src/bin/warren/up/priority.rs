//! The node's programs go before tenants' containers when the processor is short.
//!
//! The launcher makes a control group for them, a sibling of the containers' with a hundred times their weight, and is in it. `warren up`
//! follows it there, and thereby all that it starts from then on. At the end it goes back to where it was, and takes the group away.
//!
//! On v2, alone in its group, as systemd's service with `Delegate=yes` is, `warren up` goes first: only a group without processes gives
//! controllers to groups below it, and below its own the containers are systemd's to account, and to end with the service.

use std::fs;
use std::path::{Path, PathBuf};

use warren_launcher_api::DAEMONS_GROUP;
use warren_platform::nice::NODE;

/// Where we are, and where we were.
pub struct Priority {
    group: PathBuf,
    before: PathBuf,
}

/// Raises our nice value, which children inherit: for those that are started before there is the group, and where there is none.
pub fn be_first() -> Result<(), rustix::io::Errno> {
    rustix::process::setpriority_process(None, NODE)
}

/// Starts a program with a nice value of its own, or with ours if it may not have that.
pub fn start_with<T>(nice: i32, start: impl FnOnce() -> T) -> T {
    let raised = nice != NODE && rustix::process::setpriority_process(None, nice).is_ok();
    let started = start();
    if raised {
        // Less than one has is never refused.
        let _ = rustix::process::setpriority_process(None, NODE);
    }
    started
}

impl Priority {
    /// Before the launcher starts: makes the daemons' group below ours, and room in ours, if we are alone in it on v2.
    pub fn lead(node: &str) -> Result<Option<Self>, String> {
        let (hierarchy, before) = own()?;
        if !hierarchy.unified || before == hierarchy.mount {
            return Ok(None);
        }
        let file = before.join("cgroup.procs");
        let processes = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let own = std::process::id().to_string();
        if processes.lines().any(|process| process != own) {
            return Ok(None);
        }
        let group = before.join(node).join(DAEMONS_GROUP);
        fs::create_dir_all(&group)
            .and_then(|()| fs::write(group.join("cgroup.procs"), "0"))
            .map_err(|error| format!("{}: {error}", group.display()))?;
        Ok(Some(Self { group, before }))
    }

    /// Enters the group of the launcher with this pid, if it is the one that it makes for the programs of this node.
    pub fn follow(launcher: u32, node: &str) -> Result<Self, String> {
        let (hierarchy, before) = own()?;
        let group = place(&hierarchy, &launcher.to_string())?;
        if !group.ends_with(Path::new(node).join(DAEMONS_GROUP)) {
            return Err(format!("the launcher is in {}", group.display()));
        }
        fs::write(group.join("cgroup.procs"), "0").map_err(|error| format!("{}: {error}", group.display()))?;
        Ok(Self { group, before })
    }

    /// Goes back; nobody else is left.
    pub fn give_up(self) {
        // What stays are empty directories, which the next start uses and `warren down` removes.
        if fs::write(self.before.join("cgroup.procs"), "0").is_ok() {
            let _ = fs::remove_dir(&self.group);
            let _ = self.group.parent().map(fs::remove_dir);
        }
    }
}

/// The hierarchy with the controller of the processor, and where we are in it.
fn own() -> Result<(Hierarchy, PathBuf), String> {
    let hierarchy = hierarchy(&read("/proc/self/mountinfo")?).ok_or("no cgroup controller cpu is mounted")?;
    let own = place(&hierarchy, "self")?;
    Ok((hierarchy, own))
}

fn place(hierarchy: &Hierarchy, pid: &str) -> Result<PathBuf, String> {
    let text = read(&format!("/proc/{pid}/cgroup"))?;
    hierarchy.place(&text).ok_or_else(|| format!("/proc/{pid}/cgroup does not say where it is"))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// Where the controller of the processor is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
}

fn hierarchy(mountinfo: &str) -> Option<Hierarchy> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let unified = match (right.next()?, right.nth(1)?) {
            ("cgroup2", _) if mount == Path::new("/sys/fs/cgroup") => true,
            ("cgroup", options) if options.split(',').any(|option| option == "cpu") => false,
            _ => return None,
        };
        Some(Hierarchy { mount, unified })
    })
}

impl Hierarchy {
    /// The directory of a process, by its `/proc/PID/cgroup`.
    fn place(&self, cgroup: &str) -> Option<PathBuf> {
        let path = cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = if self.unified { number == "0" } else { controllers.split(',').any(|name| name == "cpu") };
            ours.then_some(path)
        })?;
        Some(self.mount.join(path.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_in_both_versions() {
        let hybrid = "25 24 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            26 24 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            29 24 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchy(hybrid).unwrap();
        let own = "5:memory:/a\n3:cpu,cpuacct:/c\n0::/x\n";
        assert_eq!(found.place(own), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/c")));
        let found = hierarchy("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert_eq!(found.place("0::/warren/daemons\n"), Some(PathBuf::from("/sys/fs/cgroup/warren/daemons")));
        assert_eq!(hierarchy("24 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
