//! What must be so before the launcher can work: used by `check` and at the start.

use std::fs;
use std::path::Path;

use crate::arguments::Options;
use crate::bind;
use crate::cgroup::Cgroups;
use crate::image::Image;

/// `warren-launcher check`: all problems at once, or silence.
pub fn run(options: &Options) -> Result<(), String> {
    let mut problems = Vec::new();
    let mut note = |found: Result<(), String>| problems.extend(found.err());
    note(root());
    note(Cgroups::discover(&options.cgroup).map(|_| ()));
    note(user_namespaces());
    note(Image::load(&options.images, &options.image).map(|_| ()));
    if rustix::process::geteuid().is_root() {
        note(existing_part(&options.state).and_then(|directory| bind::probe_idmapped_mounts(&directory)));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\nwarren-launcher: ")) }
}

/// Everything the launcher does needs it.
pub fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("must be started as root: it makes namespaces and containers (the other parts of Warren do not need it)"
        .to_owned())
}

/// Some distributions and containers forbid them.
pub fn user_namespaces() -> Result<(), String> {
    let file = "/proc/sys/user/max_user_namespaces";
    match fs::read_to_string(file) {
        Ok(most) if most.trim() == "0" => {
            Err(format!("user namespaces are forbidden: write a number of thousands to {file}"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the kernel has no user namespaces ({file}: {error})")),
    }
}

/// The state directory may not have been made yet; its parent has the same file system then.
fn existing_part(directory: &Path) -> Result<std::path::PathBuf, String> {
    directory
        .ancestors()
        .find(|ancestor| ancestor.is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} cannot be reached", directory.display()))
}
