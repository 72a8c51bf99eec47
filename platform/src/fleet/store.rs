//! What the platform remembers of sleeping tenants: when each is due, and which were awake.
//!
//! ```text
//!   {"boot":"6f1c…"}                       first line: the boot in which this was written
//!   {"tenant":"acme","mark":"awake"}        found awake no more: ask its volume
//!   {"tenant":"acme","mark":{"due":1800…}}  asleep until then; null: nothing due
//! ```
//!
//! A journal that is appended to and, when it has grown to several times its content, written anew beside and renamed. Nothing
//! here waits for the disk: what was written survives the death of any process, and after the death of the
//! machine (another boot) nothing in here is trusted alone: every tenant's volume is asked, whose MSA did sync its due time.
//! Until that is done the first line names no boot, so that dying meanwhile means asking again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;

use super::words::Mark;

/// Lines beyond the content at which the journal is written anew.
const SLACK: usize = 10_000;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Boot { boot: String },
    Tenant { tenant: TenantName, mark: Written },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Awake,
    Due(Option<u64>),
}

impl From<Written> for Mark {
    fn from(written: Written) -> Mark {
        match written {
            Written::Awake => Mark::Awake,
            Written::Due(due) => Mark::Due(due),
        }
    }
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    boot: String,
    marks: BTreeMap<TenantName, Mark>,
    lines: usize,
}

/// What was remembered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Who is due when.
    pub due: Vec<(TenantName, u64)>,
    /// Who was awake: where no container is found, the volume is asked.
    pub awake: BTreeSet<TenantName>,
    /// Whether the machine kept running since; otherwise every volume is asked.
    pub same_boot: bool,
}

impl Store {
    /// Opens the journal at `path`, as written during `boot` (see [`boot_id`]). Lines that make no sense, such as a last one cut
    /// short, are passed over: their tenants' volumes know better.
    pub fn open(path: &Path, boot: &str) -> io::Result<(Store, Remembered)> {
        let (mut marks, mut found_boot) = (BTreeMap::new(), None);
        let mut damaged = false;
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::new(file).split(b'\n') {
                    match serde_json::from_slice(&line?) {
                        Ok(Line::Boot { boot }) => found_boot = Some(boot),
                        Ok(Line::Tenant { tenant, mark }) => put(&mut marks, tenant, mark.into()),
                        Err(_) => damaged = true,
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut remembered =
            Remembered { same_boot: found_boot.as_deref() == Some(boot) && !damaged, ..Remembered::default() };
        for (tenant, mark) in &marks {
            match mark {
                Mark::Awake => {
                    remembered.awake.insert(tenant.clone());
                }
                Mark::Due(Some(due)) => remembered.due.push((tenant.clone(), *due)),
                Mark::Due(None) => {}
            }
        }
        let boot = if remembered.same_boot { boot.to_owned() } else { String::new() };
        let file = rewrite(path, &boot, &marks)?;
        let lines = marks.len();
        Ok((Store { path: path.into(), file, boot, marks, lines }, remembered))
    }

    /// Every volume was asked: from now on the journal can be trusted for as long as the machine runs.
    pub fn trust(&mut self, boot: &str) -> io::Result<()> {
        if self.boot != boot {
            boot.clone_into(&mut self.boot);
            self.file = rewrite(&self.path, &self.boot, &self.marks)?;
            self.lines = self.marks.len();
        }
        Ok(())
    }

    /// Remembers.
    pub fn remember(&mut self, tenant: &TenantName, mark: Mark) -> io::Result<()> {
        if self.marks.get(tenant).copied().unwrap_or(Mark::Due(None)) == mark {
            return Ok(());
        }
        put(&mut self.marks, tenant.clone(), mark);
        if self.lines > 2 * self.marks.len() + SLACK {
            self.file = rewrite(&self.path, &self.boot, &self.marks)?;
            self.lines = self.marks.len();
            return Ok(());
        }
        self.lines += 1;
        self.file.write_all(&encoded(tenant, mark)?)
    }
}

/// The number of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Who sleeps with nothing due has no entry.
fn put(marks: &mut BTreeMap<TenantName, Mark>, tenant: TenantName, mark: Mark) {
    match mark {
        Mark::Due(None) => marks.remove(&tenant),
        mark => marks.insert(tenant, mark),
    };
}

fn encoded(tenant: &TenantName, mark: Mark) -> io::Result<Vec<u8>> {
    let mark = match mark {
        Mark::Awake => Written::Awake,
        Mark::Due(due) => Written::Due(due),
    };
    line(&Line::Tenant { tenant: tenant.clone(), mark })
}

fn line(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn rewrite(path: &Path, boot: &str, marks: &BTreeMap<TenantName, Mark>) -> io::Result<File> {
    let draft = path.with_extension("tmp");
    let mut bytes = line(&Line::Boot { boot: boot.into() })?;
    for (tenant, mark) in marks {
        bytes.extend(encoded(tenant, *mark)?);
    }
    let mut file = File::create(&draft)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    fs::rename(&draft, path)?;
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn remembers_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("due.jsonl");
        let (mut store, first) = Store::open(&path, "b1").unwrap();
        assert_eq!(first, Remembered::default());
        store.trust("b1").unwrap();
        store.remember(&name("a"), Mark::Awake).unwrap();
        store.remember(&name("b"), Mark::Due(Some(5))).unwrap();
        store.remember(&name("c"), Mark::Due(Some(6))).unwrap();
        store.remember(&name("c"), Mark::Due(None)).unwrap();
        drop(store);
        let expected = Remembered { due: vec![(name("b"), 5)], awake: [name("a")].into(), same_boot: true };
        assert_eq!(Store::open(&path, "b1").unwrap().1, expected);
        // Dying before all volumes were asked is not having asked.
        assert!(!Store::open(&path, "b2").unwrap().1.same_boot);
        let (mut store, found) = Store::open(&path, "b2").unwrap();
        assert!(!found.same_boot);
        store.trust("b2").unwrap();
        assert!(Store::open(&path, "b2").unwrap().1.same_boot);
    }

    #[test]
    fn a_line_cut_short_makes_the_volumes_speak() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("due.jsonl");
        fs::write(&path, "{\"boot\":\"b1\"}\n{\"tenant\":\"b\",\"mark\":{\"due\":5}}\n{\"tenant\":\"a\",\"ma").unwrap();
        let (_, found) = Store::open(&path, "b1").unwrap();
        assert_eq!((found.due, found.same_boot), (vec![(name("b"), 5)], false));
    }

    #[test]
    fn the_journal_does_not_grow_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("due.jsonl");
        let (mut store, _) = Store::open(&path, "b1").unwrap();
        for n in 0..3 * SLACK as u64 {
            store.remember(&name("a"), Mark::Due(Some(n))).unwrap();
        }
        drop(store);
        assert!(fs::read(&path).unwrap().iter().filter(|b| **b == b'\n').count() <= SLACK + 3);
        assert_eq!(Store::open(&path, "b1").unwrap().1.due, [(name("a"), 3 * SLACK as u64 - 1)]);
    }
}
