//! How much a volume holds. The tenant made the tree: links are not followed, depth and work are bounded.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, open, openat, statat};

/// What a file counts at least, so that empty ones are bounded by the same limit: a block.
const BLOCK: u64 = 4096;
/// Directories within directories. Postfix has three.
const DEPTH: usize = 16;

/// What a volume holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Disk space; at least [`BLOCK`] for each file and directory.
    pub bytes: u64,
    /// There is more, below [`DEPTH`] or beyond what was asked for.
    pub more: bool,
}

/// Files that may still be looked at.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// So many files.
    pub fn new(files: usize) -> Budget {
        Budget(files)
    }

    /// None left.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

/// Measures a directory, but no further than to `most`. As every file counts a block, this bounds the work for one
/// volume; the budget is only charged.
pub fn directory(path: &Path, most: u64, budget: &mut Budget) -> Usage {
    let mut usage = Usage::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(root) = open(path, flags, Mode::empty()) else { return usage };
    // Depth first, so that no more descriptors are open than the tree is deep.
    let mut open_directories: Vec<Dir> = Dir::new(root).into_iter().collect();
    loop {
        let depth = open_directories.len();
        let Some(directory) = open_directories.last_mut() else { return usage };
        let Some(Ok(entry)) = directory.read() else {
            open_directories.pop();
            continue;
        };
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        budget.spend();
        let Ok(fd) = directory.fd() else { continue };
        // Gone already, most likely.
        let Ok(stat) = statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        usage.bytes += space(&stat).max(BLOCK);
        if usage.bytes > most {
            usage.more = true;
            return usage;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if depth >= DEPTH {
                usage.more = true;
                continue;
            }
            let child: Option<OwnedFd> = openat(fd, entry.file_name(), flags, Mode::empty()).ok();
            open_directories.extend(child.and_then(|child| Dir::new(child).ok()));
        }
    }
}

#[allow(clippy::cast_sign_loss)] // the kernel counts no negative blocks
fn space(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * 512
}

/// Space of files that were deleted from the volume and are still open in a process of these control groups.
pub fn deleted(volume: &Path, groups: impl Iterator<Item = PathBuf>, budget: &mut Budget) -> u64 {
    let Ok(device) = fs::metadata(volume).map(|metadata| metadata.dev()) else { return 0 };
    let processes: BTreeSet<String> = groups
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut files = BTreeSet::new();
    let mut bytes = 0;
    for process in processes {
        for descriptor in fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten() {
            budget.spend();
            // Follows the descriptor to its file, whatever its name has become.
            let Ok(file) = fs::metadata(descriptor.path()) else { continue };
            if file.nlink() == 0 && file.is_file() && file.dev() == device && files.insert(file.ino()) {
                bytes += file.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    fn measured(path: &Path, most: u64) -> Usage {
        directory(path, most, &mut Budget::new(10))
    }

    #[test]
    fn space_not_length_and_at_least_a_block() {
        let volume = tempfile::tempdir().unwrap();
        assert_eq!(measured(volume.path(), u64::MAX), Usage::default());
        fs::write(volume.path().join("empty"), "").unwrap();
        fs::create_dir(volume.path().join("queue")).unwrap();
        fs::write(volume.path().join("queue/message"), vec![b'x'; 1 << 20]).unwrap();
        let sparse = fs::File::create(volume.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let before = measured(volume.path(), u64::MAX).bytes;
        assert!(((1 << 20) + 3 * BLOCK..(1 << 20) + 16 * BLOCK).contains(&before), "{before}");
        symlink("/", volume.path().join("everything")).unwrap();
        assert_eq!(measured(volume.path(), u64::MAX).bytes, before + BLOCK);
    }

    #[test]
    fn hostile_trees_end_early() {
        let volume = tempfile::tempdir().unwrap();
        (0..1000).for_each(|n| fs::write(volume.path().join(n.to_string()), "").unwrap());
        let mut budget = Budget::new(5_000);
        assert_eq!(directory(volume.path(), 10 * BLOCK, &mut budget).bytes, 11 * BLOCK);
        assert_eq!(budget.0, 5_000 - 11);
        let deep = tempfile::tempdir().unwrap();
        fs::create_dir_all(deep.path().join(["d"; 40].join("/"))).unwrap();
        assert!(measured(deep.path(), u64::MAX).more);
    }

    #[test]
    fn deleted_files_count_while_they_are_open() {
        let volume = tempfile::tempdir().unwrap();
        let mut file = fs::File::create(volume.path().join("gone")).unwrap();
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let group = tempfile::tempdir().unwrap();
        fs::write(group.path().join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        let groups = || [group.path().to_owned(), group.path().to_owned()].into_iter();
        fs::remove_file(volume.path().join("gone")).unwrap();
        // Other tests of this process may hold deleted files of their own.
        assert!(deleted(volume.path(), groups(), &mut Budget::new(1)) >= 1 << 20);
        assert_eq!(deleted(Path::new("/proc"), groups(), &mut Budget::new(1)), 0);
    }
}
