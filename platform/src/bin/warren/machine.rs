//! What a node needs of its machine, and what to do where it is missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::User;
use warren_config::{Directory, NODE_FILE, Node, TENANTS_FOLDER, defaults};

use crate::up::crew::LAUNCHER;

/// A user that a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// The owner that the supervisor and the launcher are.
pub const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// A user by name.
pub fn user(name: &str) -> Result<Owner, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => {
            Err(format!("there is no user {name}: useradd --system --no-create-home --shell /usr/sbin/nologin {name}"))
        }
        Err(error) => Err(format!("looking up user {name}: {error}")),
    }
}

/// Whatever keeps a node with this configuration from running here, a line each.
pub fn problems(node: &Node, config: &Path, tenants: &Directory, programs: &Path) -> Vec<String> {
    let mut problems = launcher_problems(node, programs);
    problems.extend(user_problems(node, config));
    problems.extend(image_problems(node, tenants));
    problems.extend(certificate_problem(node));
    problems
}

/// What the launcher finds of root, cgroups, user namespaces, file system and Warren's own image: it knows best what it
/// needs.
fn launcher_problems(node: &Node, programs: &Path) -> Vec<String> {
    let launcher = programs.join(LAUNCHER);
    let paths = &node.paths;
    let asked = Command::new(&launcher)
        .arg("check")
        .args([OsStr::new("--state"), paths.state.as_os_str(), OsStr::new("--run"), paths.run.as_os_str()])
        .args([OsStr::new("--images"), paths.images.as_os_str(), OsStr::new("--cgroup"), OsStr::new(&node.cgroup.name)])
        .stdin(Stdio::null())
        .output();
    match asked {
        Ok(output) if output.status.success() => Vec::new(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let prefix = format!("{LAUNCHER}: ");
            let lines: Vec<String> =
                said.lines().map(|line| line.strip_prefix(&prefix).unwrap_or(line).into()).collect();
            if lines.is_empty() { vec![format!("{LAUNCHER} check: {}", output.status)] } else { lines }
        }
        Err(error) => {
            vec![format!("cannot run {}: {error}; name the programs' directory by --bin-dir", launcher.display())]
        }
    }
}

fn user_problems(node: &Node, config: &Path) -> Vec<String> {
    let users = &node.users;
    let mut problems = Vec::new();
    for name in BTreeSet::from([&users.platform, &users.proxy, &users.resolver, &users.receiver]) {
        match user(name) {
            Ok(owner) => {
                let file = config.join(NODE_FILE);
                problems.extend(
                    closed_to(owner, &file, READ)
                        .map(|closed| format!("{name} cannot read {}: {closed}", file.display())),
                );
            }
            Err(problem) => problems.push(problem),
        }
    }
    if let Ok(platform) = user(&users.platform) {
        problems.extend(tenant_file_problems(platform, &users.platform, &config.join(TENANTS_FOLDER)));
    }
    problems
}

/// Tenants' files hold password hashes: the platform reads them, strangers do not.
fn tenant_file_problems(platform: Owner, name: &str, folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut problems: Vec<String> = closed_to(platform, folder, READ | ENTER)
        .map(|closed| format!("{name} cannot read {}: {closed}", folder.display()))
        .into_iter()
        .collect();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
        let Ok(about) = fs::metadata(&file) else { continue };
        let shown = file.display();
        if problems.is_empty() && !allows(platform, &about, READ) {
            problems.push(format!("{name} cannot read {shown}: chown {name}: {shown}"));
        }
        if about.mode() & 0o004 != 0 {
            problems.push(format!(
                "{shown} holds password hashes and everybody may read it: chown {name}: {shown} && chmod 0600 {shown}"
            ));
        }
    }
    problems
}

fn image_problems(node: &Node, tenants: &Directory) -> Vec<String> {
    // The launcher looks at the default itself, for its slots.
    let others = tenants.tenants().map(|tenant| &tenant.image).filter(|image| image.as_str() != defaults::IMAGE);
    let images: BTreeSet<_> = others.collect();
    let mut problems = Vec::new();
    for image in images {
        let directory = node.paths.image(image);
        if !directory.join("image.json").is_file() || !directory.join("rootfs").is_dir() {
            let shown = directory.display();
            problems.push(format!(
                "no image {image} at {shown}: put it there (msa-image/CONTRACT.md says what makes an image), or set [paths] images"
            ));
        }
    }
    problems
}

fn certificate_problem(node: &Node) -> Option<String> {
    let files = node.tls.as_ref()?;
    if let Err(error) = warren_wire::server::from_files(&files.certificate, &files.key) {
        return Some(error.to_string());
    }
    let about = fs::metadata(&files.key).ok()?;
    if about.mode() & 0o004 != 0 {
        return Some(format!("{0} is a private key and everybody may read it: chmod 0640 {0}", files.key.display()));
    }
    [&node.users.platform, &node.users.receiver].into_iter().find_map(|name| {
        let closed = closed_to(user(name).ok()?, &files.key, READ)?;
        Some(format!("{name} cannot read {}: {closed}", files.key.display()))
    })
}

/// Listening addresses that somebody else has.
pub fn ports_in_use(node: &Node) -> Vec<String> {
    let listen = &node.listen;
    let addresses = [("submission", &listen.submission), ("submissions", &listen.submissions), ("smtp", &listen.smtp)];
    let all = addresses.iter().flat_map(|(name, addresses)| addresses.iter().map(move |address| (name, address)));
    all.filter_map(|(name, address)| Some(bind_problem(name, *address, &TcpListener::bind(address).err()?))).collect()
}

/// Egress addresses that mail cannot leave from, because this machine does not have them.
pub fn foreign_egress(node: &Node) -> Vec<String> {
    let missing = |error: io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    let foreign = node.egress.addresses.iter().filter(|address| UdpSocket::bind((**address, 0)).is_err_and(missing));
    let told =
        |address| format!("[egress] addresses: {address} is not an address of this machine: `ip address` lists those");
    foreign.map(told).collect()
}

/// Why an address cannot be listened on, and what to do.
pub fn bind_problem(name: &str, address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "[listen] {name}: port {port} of {} is in use: `ss -ltnp 'sport = :{port}'` shows by whom",
                address.ip()
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("[listen] {name}: {} is not an address of this machine", address.ip())
        }
        io::ErrorKind::PermissionDenied => format!("[listen] {name}: port {port} needs root"),
        _ => format!("[listen] {name}: {address}: {error}"),
    }
}

/// Whether a `warren up` holds this node's lock.
pub fn node_is_up(node: &Node) -> bool {
    let Ok(file) = fs::File::open(crate::up::lock_file(node)) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}

/// To read a file or list a directory.
pub const READ: u32 = 4;
/// To run a program, or to pass through a directory.
pub const ENTER: u32 = 1;

/// Which directory on the way, or the file itself, keeps a user from using it in this way. By mode bits: access lists
/// may allow more.
pub fn closed_to(owner: Owner, path: &Path, how: u32) -> Option<String> {
    let path = path.canonicalize().ok()?;
    for directory in path.ancestors().skip(1) {
        if fs::metadata(directory).is_ok_and(|about| !allows(owner, &about, ENTER)) {
            return Some(format!("directory {} is closed to it", directory.display()));
        }
    }
    let about = fs::metadata(&path).ok()?;
    (!allows(owner, &about, how))
        .then(|| format!("its mode is {:04o}, owner {}:{}", about.mode() & 0o7777, about.uid(), about.gid()))
}

fn allows(owner: Owner, about: &fs::Metadata, how: u32) -> bool {
    let shift = match about {
        about if about.uid() == owner.uid => 6,
        about if about.gid() == owner.gid => 3,
        _ => 0,
    };
    owner.uid == 0 || (about.mode() >> shift) & how == how
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_user_is_told_with_the_command_that_makes_it() {
        let told = user("warren-nobody-such").unwrap_err();
        assert!(
            told.ends_with("useradd --system --no-create-home --shell /usr/sbin/nologin warren-nobody-such"),
            "{told}"
        );
        assert_eq!(user("root"), Ok(ROOT));
    }

    #[test]
    fn a_closed_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Owner { uid: 4_000_001, gid: 4_000_001 };
        let told = closed_to(stranger, &file, READ).unwrap();
        assert!(told.starts_with("directory ") && told.ends_with("is closed to it"), "{told}");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(closed_to(stranger, &file, READ).unwrap().starts_with("its mode is 0640, owner "));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(closed_to(stranger, &file, READ), None);
    }

    #[test]
    fn an_egress_address_of_somebody_else_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let text = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"127.0.0.1\", \"192.0.2.77\"]\n";
        fs::write(directory.path().join(NODE_FILE), text).unwrap();
        let node = Node::load(directory.path()).unwrap();
        let told = "[egress] addresses: 192.0.2.77 is not an address of this machine: `ip address` lists those";
        assert_eq!(foreign_egress(&node), [told]);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let port = address.port();
        let told = bind_problem("smtp", address, &error);
        assert_eq!(
            told,
            format!("[listen] smtp: port {port} of 127.0.0.1 is in use: `ss -ltnp 'sport = :{port}'` shows by whom")
        );
    }
}
