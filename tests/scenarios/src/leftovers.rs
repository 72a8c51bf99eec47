//! What a node must not leave behind: judged by names that only this node used, so that scenarios can run side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Everything that is still there of the node with this folder and cgroup name, and of the namespaces that its containers had; empty
/// if it is gone without a trace.
pub fn of(folder: &Path, run: &Path, cgroup: &str, namespaces: &Namespaces) -> String {
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

/// Namespaces by the names that the kernel gives them (`net:[4026532001]`). They are held, because a name is given to the next namespace as soon as
/// nobody has the one before.
pub type Namespaces = BTreeMap<String, File>;

/// The namespaces that processes in this cgroup have and `warren up` with this pid has not.
pub fn namespaces(cgroup: &str, up: u32) -> Namespaces {
    let not_theirs: BTreeSet<String> = links(&format!("/proc/{up}/ns")).map(|(name, _)| name).collect();
    let inside = processes().into_iter().filter(|(_, p)| p.cgroups.contains(&format!("/{cgroup}/")));
    let theirs = inside.flat_map(|(pid, _)| links(&format!("/proc/{pid}/ns")));
    let held = theirs.filter(|(name, _)| !not_theirs.contains(name)).filter_map(|(_, path)| {
        let file = File::open(path).ok()?;
        // As it is called now that it is held.
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        Some((name.to_string_lossy().into_owned(), file))
    });
    held.filter(|(name, _)| !not_theirs.contains(name)).collect()
}

/// What keeps any of these beside us: processes in them, open descriptors, mounts.
fn holders(namespaces: &Namespaces) -> Vec<String> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let us = std::process::id();
    // A child of ours has what we have until it is what it is to become.
    for (pid, process) in processes().into_iter().filter(|(pid, process)| *pid != us && process.parent != us) {
        for (place, what) in [("ns", "has"), ("fd", "holds")] {
            let links = links(&format!("/proc/{pid}/{place}")).map(|(name, _)| name);
            for name in links.filter(|name| namespaces.contains_key(name)) {
                found.push(format!("{name}: process {pid} {what} it: {}", process.command));
            }
        }
    }
    // The fourth field of an nsfs mount is the namespace.
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if line.split(' ').nth(3).is_some_and(|root| namespaces.contains_key(root)) {
            found.push(format!("mounted: {line}"));
        }
    }
    found
}

/// Where the links of a folder lead, and where they are; none if it is gone.
fn links(folder: &str) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned(), entry.path())))
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
    let mut open: Vec<_> = vec![PathBuf::from("/sys/fs/cgroup")];
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
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_holds_a_namespace_is_found() {
        // A shell of another parent, which stays while its input is open and has our namespaces.
        let mut other = Command::new("sh");
        other.args(["-c", "exec 3<&0; (read line <&3) & echo $!; wait"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut other = other.spawn().expect("a shell");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.take().expect("its output")), &mut line)
            .expect("what it says");
        let pid: u32 = line.trim().parse().expect("a pid");
        let (name, path) = links("/proc/self/ns").find(|(name, _)| name.starts_with("uts:")).expect("our own");
        let own = Namespaces::from([(name, File::open(path).expect("our own namespace"))]);
        let found = holders(&own);
        assert!(found.iter().any(|holder| holder.contains(&format!("process {pid} has it"))), "{pid}: {found:?}");
        assert!(!found.iter().any(|holder| holder.contains(&format!("process {} ", std::process::id()))));
        drop(other.stdin.take());
        other.wait().expect("its end");
        assert!(holders(&Namespaces::new()).is_empty());
    }
}
