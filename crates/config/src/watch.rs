//! What the kernel saw change in a folder.
//!
//! It queues the names until we ask, so nobody has to run for it. It is believed only where it sees everything: on local file systems,
//! while the path still leads to the same folder, and as long as its queue did not overflow.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Magic numbers of `statfs(2)`: ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS, ZFS. On file systems of other machines changes made
/// there do not show.
const LOCAL: [u32; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1];

/// A watched folder.
#[derive(Debug)]
pub(crate) struct Watch {
    queue: OwnedFd,
    folder: (u64, u64),
}

/// What was seen since the last time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Changes of files with these names, and of no others.
    Names(Vec<OsString>),
    /// Anything may have changed.
    Unknown,
}

impl Watch {
    /// Watches a folder, if that is possible.
    pub(crate) fn new(folder: &Path) -> Option<Self> {
        let kind = u32::try_from(rustix::fs::statfs(folder).ok()?.f_type).ok()?;
        if !LOCAL.contains(&kind) {
            return None;
        }
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let events = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&queue, folder, events).ok()?;
        Some(Self { queue, folder: identity(folder)? })
    }

    /// What was seen since the last call.
    pub(crate) fn seen(&mut self, folder: &Path) -> Seen {
        let mut names = Vec::new();
        let mut lost = false;
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.queue, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let of_folder = ReadFlags::QUEUE_OVERFLOW
                        | ReadFlags::IGNORED
                        | ReadFlags::DELETE_SELF
                        | ReadFlags::MOVE_SELF
                        | ReadFlags::UNMOUNT;
                    lost |= event.events().intersects(of_folder);
                    names.extend(event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()));
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        if lost || identity(folder) != Some(self.folder) { Seen::Unknown } else { Seen::Names(names) }
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(folder).ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_of_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "1").unwrap();
        fs::write(path("b"), "1").unwrap();
        let Some(mut watch) = Watch::new(folder.path()) else { return };
        assert_eq!(watch.seen(folder.path()), Seen::Names(vec![]));
        fs::write(path("a"), "2").unwrap();
        fs::rename(path("b"), path("c")).unwrap();
        let Seen::Names(mut names) = watch.seen(folder.path()) else { panic!() };
        names.dedup();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(watch.seen(folder.path()), Seen::Names(vec![]));
    }

    #[test]
    fn a_folder_that_was_replaced_is_another() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, other) = (parent.path().join("tenants"), parent.path().join("other"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&other).unwrap();
        let Some(mut watch) = Watch::new(&folder) else { return };
        fs::rename(&folder, parent.path().join("old")).unwrap();
        fs::rename(&other, &folder).unwrap();
        assert_eq!(watch.seen(&folder), Seen::Unknown);
    }
}
