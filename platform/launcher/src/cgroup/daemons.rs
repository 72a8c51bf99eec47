//! The group of the node's own programs: a sibling of the containers' groups.
//!
//! ```text
//! OWN/NAME            the node: one share of the machine, like everybody's
//!   daemons           launcher, `warren up` and what it starts: goes first
//!   c17 c18 …         containers: share what is left; who burns it stands back (`cpu.idle`)
//! ```
//!
//! Every mail of every tenant passes the daemons, so that a tenant who burns the processor must not make them wait. A nice value does not do
//! it: it counts within a group, or within a session (autogroup), and containers are groups of their own. That they are siblings
//! matters, too: who stands back gives way at once to a sibling, and not to whoever is a group further off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use warren_launcher_api::DAEMONS_GROUP;

use super::{Cgroups, Hierarchy, IO};

/// The highest weight of v2, a hundred times a container's: what is left by rounding is theirs.
const WEIGHT: u32 = 10_000;

impl Cgroups {
    /// Makes the group and moves us into it, and thereby all that we start.
    pub(super) fn enter_daemons(&self) -> io::Result<()> {
        let Some((hierarchy, group)) = self.daemons() else { return Ok(()) };
        fs::create_dir_all(&group)?;
        fs::write(group.join("cgroup.procs"), "0")?;
        if self.unified {
            for directory in [&hierarchy.own, &hierarchy.own.join(&self.name)] {
                hand_down(directory, &hierarchy.controllers)?;
            }
            return fs::write(group.join("cpu.weight"), WEIGHT.to_string());
        }
        fs::write(group.join("cpu.shares"), (WEIGHT * 1024 / 100).to_string())
    }

    /// Back to where we came from, if we may, so that the group can be removed by whoever is the last in it.
    pub fn leave_daemons(&self) {
        let Some((hierarchy, _)) = self.daemons() else { return };
        if self.unified && hierarchy.own != hierarchy.mount {
            // As long as it hands controllers down nobody can enter it.
            for directory in [&hierarchy.own.join(&self.name), &hierarchy.own] {
                for controller in &hierarchy.controllers {
                    let _ = fs::write(directory.join("cgroup.subtree_control"), format!("-{controller}"));
                }
            }
        }
        // If it fails the directory stays, empty, for the next launcher.
        let _ = fs::write(hierarchy.own.join("cgroup.procs"), "0");
    }

    fn daemons(&self) -> Option<(&Hierarchy, PathBuf)> {
        let holds_it = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|name| name == "cpu");
        let hierarchy = self.hierarchies.iter().find(holds_it)?;
        Some((hierarchy, hierarchy.own.join(&self.name).join(DAEMONS_GROUP)))
    }
}

/// v2: has a group give these controllers to the groups below it.
fn hand_down(group: &Path, controllers: &[String]) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    for controller in controllers {
        match fs::write(&file, format!("+{controller}")) {
            Ok(()) => {}
            Err(_) if controller == IO => {}
            Err(error) => {
                let text = format!("{}: +{controller}: {error}: {}", file.display(), cure(&error));
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
    Ok(())
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ResourceBusy => "the group holds processes: start Warren in one of its own",
        io::ErrorKind::NotFound => "whoever made the group does not give it this controller (systemd: Delegate=)",
        _ => "control groups must be writable",
    }
}

/// A place in a hierarchy, as seen from outside the daemons' group: where we would be had we not been started in it.
pub(super) fn outside<'a>(path: &'a str, name: &str) -> &'a str {
    let within = path.strip_suffix(DAEMONS_GROUP).and_then(|path| path.strip_suffix('/'));
    let outside = within.and_then(|path| path.strip_suffix(name)?.strip_suffix('/'));
    outside.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_is_needed_and_refused_is_named_with_the_cure() {
        // No control group, and no file can be made in it.
        let refused = hand_down(Path::new("/proc"), &["io".to_owned(), "memory".to_owned()]).unwrap_err().to_string();
        assert!(refused.starts_with("/proc/cgroup.subtree_control: +memory: "), "{refused}");
        assert!(refused.ends_with("(systemd: Delegate=)"), "{refused}");
    }

    #[test]
    fn who_is_started_in_the_group_does_not_nest_another() {
        for (path, seen) in [
            ("/a/warren/daemons", "/a"),
            ("/warren/daemons", ""),
            ("/", "/"),
            ("/a/warren", "/a/warren"),
            ("/a/other/daemons", "/a/other/daemons"),
            ("/xwarren/daemons", "/xwarren/daemons"),
        ] {
            assert_eq!(outside(path, "warren"), seen, "{path}");
        }
    }
}
