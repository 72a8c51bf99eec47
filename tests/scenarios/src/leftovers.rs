//! What a node must not leave behind: judged by names that only this node used, so that scenarios can run side by side.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Everything that is still there of the node with this folder and cgroup name, and of the namespaces that its containers had; empty
/// if it is gone without a trace.
pub fn of(folder: &Path, run: &Path, cgroup: &str, namespaces: &BTreeSet<String>) -> String {
    let mut found = String::new();
    for holder in holders(namespaces) {
        let _ = writeln!(found, "namespace {holder}");
    }
    let folder_name = folder.to_string_lossy();
    for dir in cgroups(cgroup) {
        let _ = writeln!(found, "cgroup {dir}");
    }
    for line in
        fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter(|l| l.contains(&*folder_name))
    {
        let _ = writeln!(found, "mount {line}");
    }
    for (pid, what) in processes() {
        let of_ours = what.cgroups.contains(&format!("/{cgroup}/")) || what.cgroups.contains(&format!("/{cgroup}\n"));
        if of_ours || what.command.contains(&*folder_name) {
            let _ = writeln!(found, "process {pid} {}", what.command);
        }
    }
    // Cells, bundles and container states live in folders of the run directory; sockets and pid files on its top.
    for place in fs::read_dir(run).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        for entry in fs::read_dir(place.path()).into_iter().flatten().flatten() {
            let _ = writeln!(found, "state {}", entry.path().display());
        }
    }
    found
}

/// The namespaces that processes in this cgroup have and `warren up` with this pid has not, as the kernel writes them (`net:[4026532001]`).
pub fn namespaces(cgroup: &str, up: u32) -> BTreeSet<String> {
    let of = |pid: &str| -> BTreeSet<String> { links(&format!("/proc/{pid}/ns")).collect() };
    let inside = processes().into_iter().filter(|(_, p)| p.cgroups.contains(&format!("/{cgroup}/")));
    let all: BTreeSet<String> = inside.flat_map(|(pid, _)| of(&pid.to_string())).collect();
    all.difference(&of(&up.to_string())).cloned().collect()
}

/// What keeps any of these: processes in them, open descriptors, mounts.
fn holders(namespaces: &BTreeSet<String>) -> Vec<String> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (pid, process) in processes() {
        for (place, what) in [("ns", "has"), ("fd", "holds")] {
            for name in links(&format!("/proc/{pid}/{place}")).filter(|name| namespaces.contains(name)) {
                found.push(format!("{name}: process {pid} {what} it: {}", process.command));
            }
        }
    }
    // The fourth field of an nsfs mount is the namespace.
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if line.split(' ').nth(3).is_some_and(|root| namespaces.contains(root)) {
            found.push(format!("mounted: {line}"));
        }
    }
    found
}

/// Where the links of a folder lead; none if it is gone.
fn links(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
}

/// A process as `/proc` tells it.
#[derive(Debug)]
pub struct Process {
    /// Arguments, separated by spaces.
    pub command: String,
    /// Its cgroups, a line each, with a final newline.
    pub cgroups: String,
    /// Its parent.
    pub parent: u32,
}

/// All processes of the machine.
pub fn processes() -> Vec<(u32, Process)> {
    let pids =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let text = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
        let command = String::from_utf8_lossy(&text("cmdline")?).replace('\0', " ").trim().to_owned();
        let cgroups = String::from_utf8_lossy(&text("cgroup")?).into_owned();
        let stat = String::from_utf8_lossy(&text("stat")?).into_owned();
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        // Corpses have no command; whoever must reap them is found by its own name.
        (!command.is_empty()).then_some((pid, Process { command, cgroups, parent }))
    })
    .collect()
}

/// Cgroup folders of this name, in every hierarchy, with all below them.
fn cgroups(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<_> = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy() == name {
                found.push(entry.path().display().to_string());
            }
            open.push(entry.path());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn who_holds_a_namespace_is_found() {
        let own: BTreeSet<String> = links("/proc/self/ns").filter(|name| name.starts_with("uts:")).collect();
        assert_eq!(own.len(), 1);
        let me = format!("process {} ", std::process::id());
        assert!(holders(&own).iter().any(|holder| holder.contains(&format!("{me}has it"))));
        let open = fs::File::open("/proc/self/ns/uts").expect("our own namespace");
        assert!(holders(&own).iter().any(|holder| holder.contains(&format!("{me}holds it"))), "{:?}", open.as_fd());
        assert!(holders(&BTreeSet::from(["uts:[1]".to_owned()])).is_empty());
    }
}
