//! The configuration of the moment: node and directory, read together and replaced together.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use warren_config::{Directory, Node, Problems, Tenant};
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
    folder: PathBuf,
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
        let names: BTreeSet<&TenantName> =
            self.directory.tenants().chain(new.directory.tenants()).map(|tenant| &tenant.name).collect();
        // Tenants whose files say the same still see a change of the node's host name or retry schedule.
        for name in names {
            match (self.launch(name), new.launch(name)) {
                (Some(_), None) => changes.removed.push(name.clone()),
                (Some(old), Some(new)) if (&old.image, &old.limits) != (&new.image, &new.limits) => {
                    changes.container.push(name.clone());
                }
                (Some(old), Some(new)) if old.settings != new.settings => changes.settings.push(name.clone()),
                _ => {}
            }
        }
        changes
    }
}

impl Books {
    /// Reads the configuration directory for the first time.
    pub fn open(folder: &Path) -> Result<Books, Problems> {
        let current = RwLock::new(Arc::new(Book::read(folder)?));
        Ok(Books { folder: folder.into(), current })
    }

    /// The book of the moment. Whoever holds it on sees one configuration, never half of two.
    pub fn current(&self) -> Arc<Book> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the configuration again. If it is broken, everything stays as it is.
    pub fn reload(&self) -> Result<Changes, Problems> {
        let new = Arc::new(Book::read(&self.folder)?);
        let old = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::clone(&new))
        };
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
