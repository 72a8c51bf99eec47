//! The configuration of the moment: node and directory, read together and replaced together.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use warren_config::{Directory, Folder, Node, Problems, Tenant};
use warren_control::{Retry, Settings, TenantName};

use crate::fleet::{Changes, Launch};

/// One reading of the configuration.
#[derive(Debug)]
pub struct Book {
    /// `warren.toml`.
    pub node: Node,
    /// `tenants/`.
    pub directory: Directory,
}

/// The book that is open, and where it was read.
#[derive(Debug)]
pub struct Books {
    directory: PathBuf,
    /// Held for as long as a reading takes: one at a time.
    tenants: Mutex<Folder>,
    current: RwLock<Arc<Book>>,
}

impl Book {
    /// Reads the configuration directory.
    pub fn read(folder: &Path) -> Result<Book, Problems> {
        let node = Node::load(folder)?;
        let directory = Directory::load(folder, &node)?;
        Ok(Book { node, directory })
    }

    /// What is needed to start a tenant.
    pub fn launch(&self, tenant: &TenantName) -> Option<Launch> {
        self.directory.tenant(tenant).map(|tenant| self.launch_of(tenant))
    }

    fn launch_of(&self, tenant: &Tenant) -> Launch {
        let Node { hostname, limits, retry, .. } = &self.node;
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Launch {
            image: tenant.image.clone(),
            limits: tenant.container.clone(),
            settings: Settings {
                tenant: tenant.name.clone(),
                hostname: hostname.clone(),
                domains: tenant.domains.clone(),
                accounts: tenant.logins(),
                max_message_bytes: tenant.message_size,
                max_recipients: tenant.recipients,
                max_queue_bytes: tenant.container.volume_bytes,
                idle_ms: ms(tenant.idle),
                retry: Retry {
                    first_ms: ms(retry.first),
                    factor_percent: retry.factor_percent,
                    max_ms: ms(retry.max),
                    expire_ms: ms(retry.expire),
                },
                hop_limit: limits.hops,
            },
        }
    }

    /// What must happen to running tenants when `new` replaces this.
    pub fn changes(&self, new: &Book) -> Changes {
        let mut changes = Changes::default();
        // Of 100,000 tenants a reload touches few, unless it touches what all of them are told of the node.
        if self.told_of_node() == new.told_of_node() {
            for (old, now) in self.directory.differences(&new.directory) {
                changes.note(old.map(|tenant| self.launch_of(tenant)), now.map(|tenant| new.launch_of(tenant)));
            }
        } else {
            for tenant in self.directory.tenants() {
                changes.note(Some(self.launch_of(tenant)), new.launch(&tenant.name));
            }
        }
        changes
    }

    /// What tenants are told that does not stand in their files.
    fn told_of_node(&self) -> impl PartialEq {
        let Node { hostname, limits, retry, .. } = &self.node;
        (hostname.clone(), limits.clone(), retry.clone())
    }
}

impl Changes {
    fn note(&mut self, old: Option<Launch>, now: Option<Launch>) {
        match (old, now) {
            (Some(old), None) => self.removed.push(old.settings.tenant),
            (Some(old), Some(now)) if (&old.image, &old.limits) != (&now.image, &now.limits) => {
                self.container.push(now.settings.tenant);
            }
            (Some(old), Some(now)) if old.settings != now.settings => self.settings.push(now.settings.tenant),
            _ => {}
        }
    }
}

impl Books {
    /// Reads the configuration directory for the first time.
    pub fn open(directory: &Path) -> Result<Books, Problems> {
        let node = Node::load(directory)?;
        let mut folder = Folder::new(directory);
        let tenants = folder.read(&node, &Directory::default())?;
        let current = RwLock::new(Arc::new(Book { node, directory: tenants }));
        Ok(Books { directory: directory.into(), tenants: Mutex::new(folder), current })
    }

    /// The book of the moment. Whoever holds it on sees one configuration, never half of two.
    pub fn current(&self) -> Arc<Book> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the whole configuration as it is now, and puts nothing of it into force.
    pub fn read_anew(&self) -> Result<Book, Problems> {
        Book::read(&self.directory)
    }

    /// Reads what changed of the configuration. If it is broken, everything stays as it is.
    pub fn reload(&self) -> Result<Changes, Problems> {
        let mut folder = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current();
        let node = Node::load(&self.directory)?;
        let directory = folder.read(&node, &old.directory)?;
        let new = Arc::new(Book { node, directory });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(old.changes(&new))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";

    fn name(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn a_reload_touches_only_what_changed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        fs::create_dir(directory.path().join("tenants")).unwrap();
        write("warren.toml", NODE);
        for tenant in ["a", "b", "c", "d"] {
            write(&format!("tenants/{tenant}.toml"), &format!("domains = [\"{tenant}.example\"]\n"));
        }
        let books = Books::open(directory.path()).unwrap();
        write("tenants/a.toml", "domains = [\"a.example\", \"aa.example\"]\n");
        write("tenants/b.toml", "domains = [\"b.example\"]\nimage = \"postfix\"\n");
        fs::remove_file(directory.path().join("tenants/c.toml")).unwrap();
        write("tenants/d.toml", "# rewritten\ndomains = [\"d.example\"]\n");
        write("tenants/e.toml", "domains = [\"e.example\"]\n");
        let expected = Changes { settings: vec![name("a")], container: vec![name("b")], removed: vec![name("c")] };
        assert_eq!(books.reload().unwrap(), expected);
        assert!(books.current().launch(&name("e")).is_some());
    }

    #[test]
    fn a_broken_configuration_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("warren.toml"), NODE).unwrap();
        let books = Books::open(directory.path()).unwrap();
        fs::write(directory.path().join("warren.toml"), "hostname = 7\n").unwrap();
        let problems = books.reload().unwrap_err().to_string();
        assert!(problems.contains("warren.toml:1:"), "{problems}");
        assert_eq!(books.current().node.hostname, "mail.example.net");
    }
}
