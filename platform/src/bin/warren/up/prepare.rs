//! What must be there before programs start: users, directories, executables that their users can reach.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use warren_config::Node;

use super::crew::{LAUNCHER, PLATFORM, PROXY, RECEIVER, RESOLVER};
use crate::machine::{ENTER, Owner, READ, ROOT, closed_to, user};

/// Whom the programs run as.
#[derive(Debug, Clone, Copy)]
pub struct Users {
    pub platform: Owner,
    pub proxy: Owner,
    pub resolver: Owner,
    pub receiver: Owner,
}

impl Users {
    pub fn find(node: &Node) -> anyhow::Result<Self> {
        let find = |name: &str| user(name).map_err(|problem| anyhow!(problem));
        Ok(Self {
            platform: find(&node.users.platform)?,
            proxy: find(&node.users.proxy)?,
            resolver: find(&node.users.resolver)?,
            receiver: find(&node.users.receiver)?,
        })
    }

    fn all(&self) -> [Owner; 4] {
        [self.platform, self.proxy, self.resolver, self.receiver]
    }
}

/// Makes the node's directories, or sets owner and mode of those that are there.
///
/// Each one's parent belongs to root, so that no program can put a link where root is about to change an owner.
pub fn directories(node: &Node, users: &Users) -> anyhow::Result<()> {
    let (state, run) = (&node.paths.state, &node.paths.run);
    let open = 0o755;
    // What a program keeps for itself, queue and session data among it.
    let closed = 0o700;
    for (path, owner, mode) in [
        (state.clone(), ROOT, open),
        (run.clone(), ROOT, open),
        (run.join("notify"), ROOT, open),
        (run.join("pids"), ROOT, open),
        (node.paths.own("platform"), users.platform, closed),
        (node.paths.own("proxy"), users.proxy, closed),
        (node.paths.own("sessions"), users.proxy, closed),
        (node.paths.own("resolver"), users.resolver, closed),
        (node.paths.own("receiver"), users.receiver, closed),
        (node.paths.own("tls"), ROOT, open),
        // Certificates are there for everybody to trust; keys are files of mode 0600.
        (node.paths.tls_directory("platform"), users.platform, open),
        (node.paths.tls_directory("receiver"), users.receiver, open),
    ] {
        directory(&path, owner, mode).with_context(|| format!("making {}", path.display()))?;
    }
    for base in [state, run] {
        for owner in users.all() {
            if let Some(closed) = closed_to(owner, base, ENTER) {
                bail!(
                    "user {} cannot reach {}: {closed}; set [paths] elsewhere or open it (chmod o+x)",
                    owner.uid,
                    base.display()
                );
            }
        }
    }
    Ok(())
}

fn directory(path: &Path, owner: Owner, mode: u32) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    chown(path, Some(owner.uid), Some(owner.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Where the executables are.
pub struct Programs(HashMap<&'static str, PathBuf>);

impl Programs {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.get(name).cloned().unwrap_or_else(|| PathBuf::from(name))
    }
}

/// Finds the executables in a directory. One that its user cannot reach, such as below /root, is copied to
/// `$state/programs`.
pub fn programs(directory: &Path, node: &Node, users: &Users) -> anyhow::Result<Programs> {
    let mut found = HashMap::new();
    for (name, owner) in [
        (LAUNCHER, ROOT),
        (RESOLVER, users.resolver),
        (PROXY, users.proxy),
        (PLATFORM, users.platform),
        (RECEIVER, users.receiver),
    ] {
        let path = directory.join(name);
        if !path.is_file() {
            bail!(
                "no program {}: build it with `cargo build --bin {name}`, or name its directory by --bin-dir",
                path.display()
            );
        }
        let reachable = closed_to(owner, &path, READ | ENTER).is_none();
        found.insert(name, if reachable { path } else { copied(&path, &node.paths.own("programs"))? });
    }
    Ok(Programs(found))
}

/// A copy of a program that everybody may run; made again when the original changed.
fn copied(original: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let copying = || format!("copying {} to {}", original.display(), folder.display());
    directory(folder, ROOT, 0o755).with_context(copying)?;
    let copy = folder.join(original.file_name().unwrap_or_default());
    let about = fs::metadata(original).with_context(copying)?;
    let fresh = fs::metadata(&copy).is_ok_and(|found| found.len() == about.len() && found.mtime() >= about.mtime());
    if !fresh {
        // Written beside and renamed: the old one may be running.
        let draft = copy.with_extension("new");
        fs::copy(original, &draft).with_context(copying)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).with_context(copying)?;
        fs::rename(&draft, &copy).with_context(copying)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_copied_once_and_again_when_it_changed() {
        let directory = tempfile::tempdir().unwrap();
        let (original, folder) = (directory.path().join("warren-x"), directory.path().join("programs"));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        fs::write(&original, "one").unwrap();
        let copy = copied(&original, &folder).unwrap();
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(&original, "longer").unwrap();
        assert_eq!(fs::read(copied(&original, &folder).unwrap()).unwrap(), b"longer");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft is left");
    }
}
