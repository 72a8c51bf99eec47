//! The real MX programs, each on a host of its own.
//!
//! A host is a network namespace and a mount namespace whose root is an overlay: the machine's own root below, and on
//! top, in memory, the package as `tests/lab/packages` unpacked it, a few users and a configuration (`recipes`). The
//! program cannot tell it from a machine where it was installed, and the machine never sees any of it.

mod recipes;

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::config::MtaKind;

/// Owner of the mailboxes.
pub const LAB_UID: u32 = 2000;

/// The cache that `tests/lab/packages` filled.
pub fn cache() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WARREN_LAB_CACHE") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("neither WARREN_LAB_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/warren/lab"))
}

/// Whether the cache holds this program.
pub fn unpacked(cache: &Path, mta: MtaKind) -> bool {
    cache.join(mta.name()).join("stamp").is_file()
}

/// What a host must know to become one; passed as JSON to the process that becomes it.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostPlan {
    /// Which program.
    pub mta: MtaKind,
    /// The unpacked package.
    pub package: PathBuf,
    /// The host's directory in the lab's memory: gets `upper`, `work` and `root`.
    pub home: PathBuf,
    /// The lab's directory of mailboxes.
    pub mail: PathBuf,
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PEM.
    pub key: String,
}

/// A program's recipe: what must stand in its root, and how it is run.
struct Recipe {
    users: &'static [(&'static str, u32)],
    groups: &'static [(&'static str, u32)],
    /// Path, owner, group, mode.
    directories: &'static [(&'static str, u32, u32, u32)],
    files: Vec<File>,
    /// Program and arguments; stays in the foreground and logs to standard output or error.
    run: &'static [&'static str],
}

struct File {
    path: &'static str,
    mode: u32,
    text: String,
}

fn file(path: &'static str, mode: u32, text: impl Into<String>) -> File {
    File { path, mode, text: text.into() }
}

/// Turns this process, already in the host's network namespace, into the program.
pub fn become_host(plan: &HostPlan) -> anyhow::Result<Infallible> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("make the host's namespaces")?;
    nix::unistd::sethostname(plan.mta.host_name()).context("set the host name")?;
    let root = make_root(plan)?;
    furnish(plan, &root)?;
    std::os::unix::fs::chroot(&root).context("enter the host's root")?;
    std::env::set_current_dir("/").context("enter the host's root")?;
    let recipe = recipes::recipe(plan.mta);
    let failed = Command::new(recipe.run[0])
        .args(&recipe.run[1..])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .exec();
    Err(failed).with_context(|| format!("run {}", recipe.run[0]))
}

fn make_root(plan: &HostPlan) -> anyhow::Result<PathBuf> {
    let [upper, work, root] = ["upper", "work", "root"].map(|name| plan.home.join(name));
    for dir in [&work, &root] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    // Copied, not stacked as a second lower layer: layers may not lie inside each other. It is a few megabytes.
    let copied = Command::new("cp").arg("-a").arg(plan.package.join("root")).arg(&upper).status().context("run cp")?;
    if !copied.success() {
        bail!("cp -a {} failed: {copied}", plan.package.display());
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("lab"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount the overlay")?;
    let at = |path: &str| root.join(path);
    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), &at("proc"), Some("proc"), nosuid | MsFlags::MS_NOEXEC, None::<&str>).context("mount proc")?;
    for dir in ["run", "tmp"] {
        mount(Some("tmpfs"), &at(dir), Some("tmpfs"), nosuid, Some("mode=1777,size=256m"))
            .with_context(|| format!("mount {dir}"))?;
    }
    mount(Some("tmpfs"), &at("dev"), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64k"))
        .context("mount dev")?;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let place = root.join("dev").join(device);
        fs::write(&place, "").with_context(|| format!("make {}", place.display()))?;
        let real = Path::new("/dev").join(device);
        mount(Some(&real), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind {}", real.display()))?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")] {
        std::os::unix::fs::symlink(target, root.join("dev").join(link)).context("make dev")?;
    }
    fs::create_dir_all(at("var/mail/lab")).context("make the place of the mailboxes")?;
    mount(Some(&plan.mail), &at("var/mail/lab"), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("bind the mailboxes")?;
    Ok(root)
}

/// Users, directories, configuration.
fn furnish(plan: &HostPlan, root: &Path) -> anyhow::Result<()> {
    let recipe = recipes::recipe(plan.mta);
    let mut passwd = read(root, "etc/passwd")?;
    let mut group = read(root, "etc/group")?;
    let mut shadow = read(root, "etc/shadow").unwrap_or_default();
    for (name, id) in recipe.groups.iter().chain([&("lab", LAB_UID)]) {
        group = without_entry(&group, name) + &format!("{name}:x:{id}:\n");
    }
    for (name, id) in recipe.users.iter().chain([&("lab", LAB_UID)]) {
        let home = if *name == "lab" { "/var/mail/lab" } else { "/nonexistent" };
        passwd = without_entry(&passwd, name) + &format!("{name}:x:{id}:{id}::{home}:/usr/sbin/nologin\n");
        shadow = without_entry(&shadow, name) + &format!("{name}:!:19000:0:99999:7:::\n");
    }
    let host = plan.mta.host_name();
    let mut files = vec![
        file("etc/passwd", 0o644, passwd),
        file("etc/group", 0o644, group),
        file("etc/shadow", 0o600, shadow),
        file(
            "etc/nsswitch.conf",
            0o644,
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n",
        ),
        file("etc/resolv.conf", 0o644, format!("nameserver {}\noptions ndots:1\n", crate::map::DNS)),
        file("etc/hosts", 0o644, format!("127.0.0.1 localhost\n{} {host} {}\n", plan.mta.address(), plan.mta.name())),
        file("etc/hostname", 0o644, format!("{host}\n")),
        file("etc/mailname", 0o644, format!("{host}\n")),
        file("etc/aliases", 0o644, "postmaster: lab\n"),
        file("etc/lab/tls.crt", 0o644, &*plan.certificate),
        file("etc/lab/tls.key", 0o600, &*plan.key),
    ];
    for &(path, uid, gid, mode) in recipe.directories {
        let path = root.join(path);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        chown(&path, Some(uid), Some(gid)).with_context(|| format!("give away {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("set a directory's mode")?;
    }
    files.extend(recipe.files);
    for file in files {
        write(root, &file)?;
    }
    if plan.mta == MtaKind::Exim {
        // Exim reads its key after it has given up root.
        chown(root.join("etc/lab/tls.key"), Some(recipes::EXIM_UID), None).context("give the key away")?;
    }
    if plan.mta == MtaKind::Opensmtpd {
        // As Debian's installation does: `sendmail` will not run otherwise.
        let program = root.join("usr/sbin/smtpctl");
        chown(&program, None, Some(recipes::SMTPQ_UID)).context("give sendmail its group")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o2755)).context("give sendmail its group")?;
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> anyhow::Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("read /{path}"))
}

/// Replaces whatever stands there: writing through a symbolic link of the machine could leave the root.
fn write(root: &Path, file: &File) -> anyhow::Result<()> {
    let path = root.join(file.path);
    let tried = || format!("write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(tried)?;
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(tried),
        _ => {}
    }
    fs::write(&path, &file.text).with_context(tried)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).with_context(tried)
}

/// The database without this name, so that ours is the only entry.
fn without_entry(database: &str, name: &str) -> String {
    let other = |line: &&str| line.split(':').next() != Some(name) && !line.is_empty();
    database.lines().filter(other).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_machine_gives_way() {
        assert_eq!(without_entry("root:x:0\npostfix:x:110\npostfixer:x:7\n", "postfix"), "root:x:0\npostfixer:x:7\n");
    }
}
