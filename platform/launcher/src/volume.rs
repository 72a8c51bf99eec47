//! Tenants' volumes under `--state`.
//!
//! ```text
//! volumes/17           the volume; its owner says which disk range it has, its path says nothing (it shows in the tenant's mountinfo)
//! tenants/acme → 17    a symbolic link that nobody follows: made in one step, never changed
//! ```
//! A number, and with it a range of ids, belongs to one tenant as long as the directory exists.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use warren_launcher_api::{NEXT_DUE_FILE, TenantName};

use crate::ids::{RANGE, VOLUMES, disk_base};

/// `next-due` is 13 digits and a newline for the next three centuries.
const MAX_DUE_FILE: usize = 32;

/// All volumes of the node.
#[derive(Debug)]
pub struct Volumes {
    volumes: PathBuf,
    tenants: PathBuf,
    next: u32,
    known: HashMap<TenantName, u32>,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The directory.
    pub path: PathBuf,
    /// First id of its range on disk.
    pub disk_base: u32,
}

impl Volumes {
    /// Opens the store below `state`, making it if needed. Takes time in proportion to the number of volumes, once.
    pub fn open(state: &Path) -> io::Result<Volumes> {
        let (volumes, tenants) = (state.join("volumes"), state.join("tenants"));
        for directory in [&volumes, &tenants] {
            fs::create_dir_all(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        }
        let mut next = 1;
        for entry in fs::read_dir(&volumes)? {
            if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) {
                next = next.max(number.saturating_add(1));
            }
        }
        Ok(Volumes { volumes, tenants, next, known: HashMap::new() })
    }

    /// The directory of volumes.
    pub fn directory(&self) -> &Path {
        &self.volumes
    }

    /// A tenant's volume, made if it has none. `uid` and `gid` are those of its program within the range.
    pub fn of(&mut self, tenant: &TenantName, uid: u32, gid: u32) -> io::Result<Volume> {
        let number = match self.number(tenant)? {
            Some(number) => number,
            None => self.make(tenant, uid, gid)?,
        };
        let volume = Volume { path: self.volumes.join(number.to_string()), disk_base: disk_base(number) };
        let metadata = fs::symlink_metadata(&volume.path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", volume.path.display())))?;
        let range = volume.disk_base..volume.disk_base + RANGE;
        if metadata.is_dir() && metadata.uid() != volume.disk_base + uid && range.contains(&metadata.uid()) {
            // The tenant has another image now. What the earlier one kept stays, its own.
            std::os::unix::fs::lchown(&volume.path, Some(volume.disk_base + uid), Some(volume.disk_base + gid))?;
        } else if !metadata.is_dir() || metadata.uid() != volume.disk_base + uid {
            return Err(io::Error::other(format!(
                "{} is not a directory of user {}: restore its owner, or remove {} to begin anew",
                volume.path.display(),
                volume.disk_base + uid,
                self.tenants.join(tenant.as_str()).display()
            )));
        }
        Ok(volume)
    }

    fn number(&mut self, tenant: &TenantName) -> io::Result<Option<u32>> {
        if let Some(number) = self.known.get(tenant) {
            return Ok(Some(*number));
        }
        let link = self.tenants.join(tenant.as_str());
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", link.display()))),
        };
        let number = target.to_str().and_then(|text| text.parse().ok()).filter(|number| *number < VOLUMES);
        let number = number.ok_or_else(|| io::Error::other(format!("{} does not name a volume", link.display())))?;
        self.known.insert(tenant.clone(), number);
        Ok(Some(number))
    }

    /// First the directory, then the name: dying in between leaves an empty directory, never a name without a volume.
    fn make(&mut self, tenant: &TenantName, uid: u32, gid: u32) -> io::Result<u32> {
        let number = self.next;
        if number >= VOLUMES {
            return Err(io::Error::other(format!("all {VOLUMES} ranges of ids on disk are taken")));
        }
        self.next += 1;
        let path = self.volumes.join(number.to_string());
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        std::os::unix::fs::chown(&path, Some(disk_base(number) + uid), Some(disk_base(number) + gid))?;
        sync(&path)?;
        sync(&self.volumes)?;
        symlink(number.to_string(), self.tenants.join(tenant.as_str()))?;
        sync(&self.tenants)?;
        self.known.insert(tenant.clone(), number);
        Ok(number)
    }

    /// When a sleeping tenant wants to be woken, by its own file; `None` for anything that is not exactly such a file.
    pub fn next_due(&mut self, tenant: &TenantName) -> Option<u64> {
        let number = self.number(tenant).ok()??;
        read_due(&self.volumes.join(number.to_string()))
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// The tenant wrote this directory: the file may be a link, a pipe, a socket, endless, or anything.
fn read_due(volume: &Path) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = open(volume, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let file = openat(&directory, NEXT_DUE_FILE, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut text = [0; MAX_DUE_FILE + 1];
    let length = rustix::io::pread(&file, &mut text, 0).ok()?;
    parse_due(&text[..length])
}

fn parse_due(text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"\n").filter(|_| text.len() <= MAX_DUE_FILE)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_due_time() {
        assert_eq!(parse_due(b"1700000000000\n"), Some(1_700_000_000_000));
        for bad in [
            &b""[..],
            b"\n",
            b"17",
            b"17\n\n",
            b"-1\n",
            b"+1\n",
            b" 1\n",
            b"1 \n",
            b"1e3\n",
            b"99999999999999999999999\n",
        ] {
            assert_eq!(parse_due(bad), None, "{bad:?}");
        }
        assert_eq!(parse_due(&[b'1'; 33]), None);
    }

    #[test]
    fn what_is_not_a_regular_file_is_not_read_and_does_not_block() {
        let volume = tempfile::tempdir().unwrap();
        let file = volume.path().join(NEXT_DUE_FILE);
        assert_eq!(read_due(volume.path()), None);
        rustix::fs::mknodat(rustix::fs::CWD, &file, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(read_due(volume.path()), None);
        fs::remove_file(&file).unwrap();
        fs::write(volume.path().join("real"), "5\n").unwrap();
        symlink("real", &file).unwrap();
        assert_eq!(read_due(volume.path()), None);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(read_due(volume.path()), None);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "5\n").unwrap();
        assert_eq!(read_due(volume.path()), Some(5));
    }
}
