//! Who is suspended: a file with a name a line, written whole and synced before the suspension holds.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use warren_control::TenantName;

/// The suspended tenants of a node.
#[derive(Debug)]
pub struct Suspended {
    path: PathBuf,
    names: Mutex<BTreeSet<TenantName>>,
}

impl Suspended {
    /// Reads the file; none means that nobody is suspended. One that makes no sense is an error: serving a tenant that an operator shut
    /// out is worse than not starting.
    pub fn open(path: &Path) -> io::Result<Suspended> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let names: Result<_, _> = text.lines().map(TenantName::new).collect();
        let names = names.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Suspended { path: path.into(), names: Mutex::new(names) })
    }

    /// Whether this tenant is.
    pub fn contains(&self, tenant: &TenantName) -> bool {
        self.names().contains(tenant)
    }

    /// All of them.
    pub fn all(&self) -> BTreeSet<TenantName> {
        self.names().clone()
    }

    /// Suspends a tenant, or undoes that; durable when it returns. Waits for the disk.
    pub fn set(&self, tenant: &TenantName, suspended: bool) -> io::Result<()> {
        let mut names = self.names();
        let mut new = names.clone();
        let changed = if suspended { new.insert(tenant.clone()) } else { new.remove(tenant) };
        if changed {
            self.write(&new)?;
            *names = new;
        }
        Ok(())
    }

    fn write(&self, names: &BTreeSet<TenantName>) -> io::Result<()> {
        let draft = self.path.with_extension("tmp");
        let mut file = File::create(&draft)?;
        for name in names {
            writeln!(file, "{name}")?;
        }
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<TenantName>> {
        // The set is replaced as a whole.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("suspended");
        let (acme, globex) = (TenantName::new("acme").unwrap(), TenantName::new("globex").unwrap());
        let suspended = Suspended::open(&path).unwrap();
        suspended.set(&acme, true).unwrap();
        suspended.set(&globex, true).unwrap();
        suspended.set(&acme, false).unwrap();
        let again = Suspended::open(&path).unwrap();
        assert_eq!(again.all(), [globex.clone()].into());
        assert!(again.contains(&globex) && !again.contains(&acme));
        fs::write(&path, "../etc\n").unwrap();
        assert!(Suspended::open(&path).is_err());
    }
}
