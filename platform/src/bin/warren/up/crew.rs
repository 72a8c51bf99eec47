//! The programs of a node: who each runs as, what it is told, which sockets it gets.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use warren_config::Node;
use warren_platform::nice;

use super::prepare::Users;
use super::sockets::{self, Sockets};
use super::{Site, prepare};
use crate::machine::{Owner, ROOT};

/// A program as it is started, any number of times.
pub struct Program {
    /// Name of the executable, and in front of its log lines.
    pub name: &'static str,
    pub executable: PathBuf,
    pub arguments: Vec<OsString>,
    pub owner: Owner,
    /// What it is started with (`warren_platform::nice`).
    pub nice: i32,
    /// Inherited sockets with their names, in the order of their numbers.
    pub sockets: Vec<(&'static str, OwnedFd)>,
    /// Whether SIGHUP makes it read the configuration again. The launcher reads none.
    pub reloads: bool,
    /// Where notify sockets and pid files are made.
    pub run: PathBuf,
}

/// Mail comes in no more, what is open ends, containers end, and the way out goes last.
pub const STOP_ORDER: [&str; 5] = [RECEIVER, PLATFORM, LAUNCHER, RESOLVER, PROXY];

/// Names of the executables.
pub const LAUNCHER: &str = "warren-launcher";
/// See [`LAUNCHER`].
pub const RESOLVER: &str = "warren-resolver";
/// See [`LAUNCHER`].
pub const PROXY: &str = "warren-proxy";
/// See [`LAUNCHER`].
pub const PLATFORM: &str = "warren-platform";
/// See [`LAUNCHER`].
pub const RECEIVER: &str = "warren-receiver";

/// All programs, in the order in which they start: each finds what it asks for.
pub fn all(site: &Site, users: &Users, programs: &prepare::Programs) -> anyhow::Result<Vec<Program>> {
    let node = &site.node;
    let Sockets {
        launcher: launcher_socket,
        platform,
        names,
        proxy,
        resolver,
        receiver,
        submission,
        submissions,
        smtp,
    } = sockets::all(node, users)?;
    let named = |name, all: Vec<OwnedFd>| all.into_iter().map(move |socket| (name, socket));
    let front = named("submission", submission).chain(named("submissions", submissions)).chain([("api", platform)]);
    let daemon = |name, owner, sockets| Program {
        name,
        executable: programs.path(name),
        arguments: vec!["--config".into(), site.config.clone().into()],
        owner,
        nice: if name == PLATFORM { nice::CHECKS } else { nice::NODE },
        sockets,
        reloads: true,
        run: node.paths.run.clone(),
    };
    Ok(vec![
        launcher(node, users, programs, launcher_socket),
        daemon(RESOLVER, users.resolver, vec![("metrics", resolver)]),
        daemon(PROXY, users.proxy, vec![("names", names), ("control", proxy)]),
        daemon(PLATFORM, users.platform, front.collect()),
        daemon(RECEIVER, users.receiver, named("smtp", smtp).chain([("metrics", receiver)]).collect()),
    ])
}

/// The launcher: root, and told everything by arguments, since it reads no TOML.
pub fn launcher(node: &Node, users: &Users, programs: &prepare::Programs, socket: OwnedFd) -> Program {
    let path = |name: &str, path: &Path| [OsString::from(name), path.into()];
    let number = |name: &str, number: u32| [OsString::from(name), number.to_string().into()];
    let arguments = [
        path("--state", &node.paths.state),
        path("--run", &node.paths.run),
        path("--images", &node.paths.images),
        ["--cgroup".into(), node.cgroup.name.clone().into()],
        number("--slots", node.fleet.slots),
        number("--platform-uid", users.platform.uid),
        number("--proxy-uid", users.proxy.uid),
        number("--resolver-uid", users.resolver.uid),
    ];
    Program {
        name: LAUNCHER,
        executable: programs.path(LAUNCHER),
        arguments: arguments.into_iter().flatten().collect(),
        owner: ROOT,
        nice: nice::NODE,
        sockets: vec![("launcher", socket)],
        reloads: false,
        run: node.paths.run.clone(),
    }
}
