//! What outlives the launcher: one file per container that is bound to a tenant, written before it starts.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, ImageName, TenantName};

use crate::layout;

/// Enough to know the container again, and to notice when it is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its cell.
    pub cell: CellId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its program.
    pub image: ImageName,
    /// Its init.
    pub pid: i32,
    /// When that was started, in clock ticks since boot.
    pub start_time: u64,
    /// Inode of its network namespace.
    pub net: u64,
    /// Inode of its user namespace.
    pub user: u64,
    /// First id of its range.
    pub base: u32,
    /// What its volume may hold; the watcher reads it.
    #[serde(default)]
    pub volume_bytes: u64,
    /// Its weight against others; the watcher gives it back to whoever stood back.
    #[serde(default)]
    pub cpu_weight: u32,
    /// When it was bound, unix time in milliseconds.
    pub started_unix_ms: u64,
    /// Of its image when it was made: a next launcher can tell whether that was replaced.
    #[serde(default)]
    pub stamp: Vec<[i64; 4]>,
}

impl Record {
    /// Writes or replaces it. Not synced: after a power loss there is no container either.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        let file = layout::cells(run).join(self.cell.to_string());
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, &file)
    }

    /// Removes it, if it is there.
    pub fn remove(run: &Path, cell: CellId) {
        let _ = fs::remove_file(layout::cells(run).join(cell.to_string()));
    }

    /// All that are whole; others are removed.
    pub fn all(run: &Path) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(layout::cells(run))? {
            let entry = entry?;
            let record = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            match record {
                Some(record) if entry.file_name().to_str() == Some(&record.cell.to_string()) => records.push(record),
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(records)
    }

    /// The process is still the one that was recorded, and runs the tenant's program.
    pub fn is_alive(&self) -> bool {
        crate::process::start_time(self.pid) == Some(self.start_time)
            && crate::process::namespace(self.pid, "net") == Some(self.net)
            && crate::process::namespace(self.pid, "user") == Some(self.user)
            && !crate::process::is_waiting_init(self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_torn_ones_go() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir(layout::cells(run.path())).unwrap();
        let record = Record {
            cell: CellId(7),
            tenant: TenantName::new("acme").unwrap(),
            image: ImageName::new("msa").unwrap(),
            pid: i32::MAX,
            start_time: 1,
            net: 2,
            user: 3,
            base: 4,
            volume_bytes: 7,
            cpu_weight: 100,
            started_unix_ms: 5,
            stamp: vec![[6; 4]],
        };
        record.write(run.path()).unwrap();
        fs::write(layout::cells(run.path()).join("8"), "{\"cell\":8").unwrap();
        fs::copy(layout::cells(run.path()).join("7"), layout::cells(run.path()).join("9")).unwrap();
        assert_eq!(Record::all(run.path()).unwrap(), std::slice::from_ref(&record));
        assert_eq!(fs::read_dir(layout::cells(run.path())).unwrap().count(), 1);
        assert!(!record.is_alive());
        Record::remove(run.path(), CellId(7));
        assert!(Record::all(run.path()).unwrap().is_empty());
    }
}
