//! What memory is taken, and by whom.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Ids of containers begin here (the launcher's README): no other process of a machine has such.
const FIRST_CONTAINER_ID: u32 = 0x7000_0000;

/// All memory of the machine.
pub fn total_kib() -> u64 {
    field("/proc/meminfo", "MemTotal:")
}

/// What is still to be had, as the kernel reckons: everything is counted, its own share too.
pub fn available_kib() -> u64 {
    field("/proc/meminfo", "MemAvailable:")
}

/// A field of a process's status, such as `VmRSS:`, in KiB.
pub fn of_process(pid: u32, name: &str) -> u64 {
    field(&format!("/proc/{pid}/status"), name)
}

/// Its share of memory, what it shares with others divided among them, in KiB.
pub fn proportional_kib(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Memory of its own that processes other than containers and `ours` hold, in KiB: it comes and goes with whatever else the machine does.
pub fn foreign_kib(ours: &[u32]) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| entry.metadata().is_ok_and(|about| about.uid() < FIRST_CONTAINER_ID));
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let foreign = pids.filter(|pid| !ours.contains(pid) && !is_container(*pid));
    foreign.map(|pid| of_process(pid, "RssAnon:")).sum()
}

/// A process that is not dumpable belongs to root in /proc, whoever it is.
fn is_container(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
    uid.is_some_and(|uid| uid >= FIRST_CONTAINER_ID)
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A field of the status of a process and of all below it, summed up.
pub fn of_tree(pid: u32, name: &str) -> u64 {
    tree(pid).into_iter().map(|pid| of_process(pid, name)).sum()
}

/// What a process, all below it, and those of them that have ended used of the processors.
pub fn cpu_of_tree(pid: u32) -> Duration {
    /// `USER_HZ`: the same wherever Linux tells times in /proc.
    const TICK: Duration = Duration::from_millis(10);
    let ticks = tree(pid).into_iter().map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold blanks. Behind it: state is field 3, utime to cstime are 14 to 17.
        let behind = text.rsplit_once(") ").map_or("", |(_, behind)| behind);
        behind.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>()
    });
    ticks.sum::<u32>() * TICK
}

fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(children(*pid));
        at += 1;
    }
    all
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0)
}
