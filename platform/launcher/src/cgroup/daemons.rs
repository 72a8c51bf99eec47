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
use std::path::PathBuf;

use warren_launcher_api::DAEMONS_GROUP;

use super::{Cgroups, Hierarchy};

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
                fs::write(directory.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
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
                let _ = fs::write(directory.join("cgroup.subtree_control"), "-memory -pids -cpu");
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
