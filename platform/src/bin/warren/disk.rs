//! Whether the disk below the volumes lets one tenant's syncs wait for what others write behind.
//!
//! The kernel holds what is written behind back as soon as reads and syncs take longer than a target (writeback throttling, `wbt_lat_usec`). For
//! disks that it takes for rotating ones, as most virtual disks are called, that is 75 ms, and who syncs meets it; for
//! others 2 ms. The scheduler `bfq` switches it off. docs/limits.md has the figures.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the kernel sets for a disk without moving parts.
const TARGET_US: u64 = 2_000;
/// Up to here nobody notices.
const TOLERABLE_US: u64 = 10_000;
/// Disks below a disk: LVM on RAID on partitions are three.
const DEPTH: usize = 8;

/// What should be set otherwise for the disks that hold this directory, a line each. What cannot be seen is not told.
pub fn advice(directory: &Path) -> Vec<String> {
    let there = directory.ancestors().find_map(|ancestor| fs::metadata(ancestor).ok());
    let Some(metadata) = there else { return Vec::new() };
    let (major, minor) = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let mut all = Vec::new();
    for queue in queues(&device, DEPTH) {
        let told =
            fs::read_to_string(queue.join("scheduler")).ok().zip(fs::read_to_string(queue.join("wbt_lat_usec")).ok());
        all.extend(told.and_then(|(scheduler, target)| judge(&queue, &scheduler, &target)));
    }
    all.sort();
    all.dedup();
    all
}

/// The queues of a device: its own, or that of the disk that it is a part of, or those of what it is made of.
fn queues(device: &Path, depth: usize) -> Vec<PathBuf> {
    // Without links, so that the disk of a partition is the folder above.
    let Ok(device) = device.canonicalize() else { return Vec::new() };
    let below: Vec<PathBuf> =
        fs::read_dir(device.join("slaves")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    if !below.is_empty() && depth > 0 {
        return below.iter().flat_map(|device| queues(device, depth - 1)).collect();
    }
    let own = [device.join("queue"), device.join("../queue")].into_iter().find_map(|queue| queue.canonicalize().ok());
    own.into_iter().collect()
}

/// Pure: what is wrong with a queue, by what two of its files say.
fn judge(queue: &Path, scheduler: &str, target: &str) -> Option<String> {
    let disk = queue.parent()?.file_name()?.to_string_lossy().into_owned();
    let queue = queue.display();
    if scheduler.contains("[bfq]") {
        return Some(format!(
            "the scheduler of disk {disk} is bfq, with which one tenant's writing holds up the syncs of all: \
             echo mq-deadline > {queue}/scheduler"
        ));
    }
    let target: u64 = target.trim().parse().ok()?;
    (target > TOLERABLE_US).then(|| {
        format!(
            "disk {disk} may hold a sync up for {} ms while others write: unless it has moving parts, \
             echo {TARGET_US} > {queue}/wbt_lat_usec",
            target / 1_000
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_told_of_a_queue() {
        let queue = Path::new("/sys/devices/virtio0/block/vda/queue");
        let told = |scheduler, target| judge(queue, scheduler, target);
        assert_eq!(told("none [mq-deadline] kyber bfq\n", "2000\n"), None);
        assert_eq!(told("[none] mq-deadline\n", "0\n"), None, "somebody switched it off, and knows why");
        let slow = told("[none] mq-deadline\n", "75000\n").unwrap();
        assert!(slow.contains("disk vda may hold a sync up for 75 ms"), "{slow}");
        assert!(slow.ends_with("echo 2000 > /sys/devices/virtio0/block/vda/queue/wbt_lat_usec"), "{slow}");
        let bfq = told("none mq-deadline kyber [bfq]\n", "2000\n").unwrap();
        assert!(bfq.ends_with("echo mq-deadline > /sys/devices/virtio0/block/vda/queue/scheduler"), "{bfq}");
        assert_eq!(told("none\n", "\n"), None, "a kernel without it");
    }

    #[test]
    fn the_disk_of_a_partition_and_the_disks_below_a_volume() {
        let sys = tempfile::tempdir().unwrap();
        let folder = |name: &str| fs::create_dir_all(sys.path().join(name)).unwrap();
        for name in ["vda/queue", "vda/vda1", "vdb/queue", "dm-0/queue", "dm-0/slaves"] {
            folder(name);
        }
        symlink(sys.path().join("vda/vda1"), sys.path().join("dm-0/slaves/vda1")).unwrap();
        symlink(sys.path().join("vdb"), sys.path().join("dm-0/slaves/vdb")).unwrap();
        // By its number, as the kernel lists devices.
        symlink(sys.path().join("dm-0"), sys.path().join("253:0")).unwrap();
        let found = |name: &str| {
            let mut found: Vec<String> = queues(&sys.path().join(name), DEPTH)
                .iter()
                .map(|queue| queue.strip_prefix(sys.path().canonicalize().unwrap()).unwrap().display().to_string())
                .collect();
            found.sort();
            found
        };
        assert_eq!(found("vda"), ["vda/queue"]);
        assert_eq!(found("vda/vda1"), ["vda/queue"]);
        assert_eq!(found("253:0"), ["vda/queue", "vdb/queue"]);
        assert!(found("0:35").is_empty(), "btrfs, tmpfs and the network have no disk by their number");
    }

    #[test]
    fn whatever_this_machine_has_can_be_asked() {
        assert!(advice(Path::new("/nowhere/at/all")).len() <= 100);
        assert!(advice(Path::new("/proc")).is_empty());
    }
}
