//! A tenant's file on disk: read, checked as part of the whole configuration, and replaced in one step.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use warren_config::{Directory, Node, TENANTS_FOLDER, TenantName};

use crate::machine::{Owner, user};

/// Who may read it: password hashes are for root and the platform's user.
const MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// The folder of tenants, locked against other commands that edit it, and what it says now.
pub struct Folder {
    directory: PathBuf,
    path: PathBuf,
    node: Node,
    known: Directory,
    platform: Owner,
    lock: File,
}

impl Folder {
    /// Locks and reads it; makes it if there is none.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let node = Node::load(directory)?;
        let platform = if rustix::process::geteuid().is_root() {
            user(&node.users.platform).map_err(anyhow::Error::msg)?
        } else {
            // Whoever edits a configuration of their own keeps it.
            Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
        };
        let path = directory.join(TENANTS_FOLDER);
        match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
            Ok(()) => chown(&path, None, Some(platform.gid)).with_context(|| format!("making {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
        }
        let lock = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("locking {}", path.display()))?;
        let known = Directory::load(directory, &node)?;
        Ok(Self { directory: directory.into(), path, node, known, platform, lock })
    }

    /// The tenants as they are.
    pub fn known(&self) -> &Directory {
        &self.known
    }

    /// The file of a tenant.
    pub fn file(&self, tenant: &TenantName) -> PathBuf {
        self.path.join(format!("{tenant}.toml"))
    }

    /// What a tenant's file says.
    pub fn text(&self, tenant: &TenantName) -> anyhow::Result<String> {
        let file = self.file(tenant);
        if self.known.tenant(tenant).is_none() {
            bail!("there is no tenant {tenant}: {} is missing", file.display());
        }
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// Replaces a tenant's file in one step, if the configuration is good with it. Owner and mode stay what they were.
    pub fn write(&self, tenant: &TenantName, text: &str) -> anyhow::Result<()> {
        self.known.rehearse(&self.directory, &self.node, tenant, Some(text))?;
        let file = self.file(tenant);
        let (uid, gid, mode) = match fs::symlink_metadata(&file) {
            Ok(about) if about.is_symlink() => bail!("{} is a link: edit what it leads to", file.display()),
            Ok(about) => (about.uid(), about.gid(), about.mode() & 0o7777),
            Err(_) => (rustix::process::geteuid().as_raw(), self.platform.gid, MODE),
        };
        // Hidden names are nobody's file.
        let draft = self.path.join(format!(".{tenant}.toml.new"));
        let write = || {
            let _ = fs::remove_file(&draft);
            // Closed until it has its owner: there are hashes in it.
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            new.write_all(text.as_bytes())?;
            fchown(&new, Some(uid), Some(gid))?;
            new.set_permissions(Permissions::from_mode(mode))?;
            new.sync_all()?;
            fs::rename(&draft, &file)?;
            self.lock.sync_all()
        };
        write().inspect_err(|_| drop(fs::remove_file(&draft))).with_context(|| format!("writing {}", file.display()))
    }

    /// Moves a tenant's file away, if the configuration is good without it; says where it is now.
    pub fn remove(&self, tenant: &TenantName) -> anyhow::Result<PathBuf> {
        self.known.rehearse(&self.directory, &self.node, tenant, None)?;
        let away = self.path.join("removed");
        let moved = away.join(format!("{tenant}.toml"));
        let move_it = || {
            match DirBuilder::new().mode(0o700).create(&away) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            fs::rename(self.file(tenant), &moved)?;
            File::open(&away)?.sync_all()?;
            self.lock.sync_all()
        };
        move_it().with_context(|| format!("moving {} to {}", self.file(tenant).display(), moved.display()))?;
        Ok(moved)
    }
}
