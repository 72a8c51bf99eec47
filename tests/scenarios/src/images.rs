//! Images for scenarios: those that were built, and others made of one program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the images are that `deploy/test` built.
pub fn built() -> PathBuf {
    let told = std::env::var_os("WARREN_IMAGES").map(PathBuf::from);
    told.unwrap_or_else(|| warren_lab::find_program("warren").unwrap().with_file_name("images"))
}

/// The workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A folder of images with copies of these.
pub fn copies(names: &[&str]) -> tempfile::TempDir {
    let images = tempfile::Builder::new().prefix("warren-images-").tempdir().unwrap();
    std::fs::set_permissions(images.path(), PermissionsExt::from_mode(0o755)).unwrap();
    names.iter().for_each(|name| copy(&built().join(name), &images.path().join(name)));
    images
}

/// Adds the image `name` to a folder: Warren's own, with the program of this source (in `tests/`; standard library only) in the place of the MSA.
pub fn add(images: &Path, name: &str, source: &str) {
    copy(&built().join("msa"), &images.join(name));
    compile(source, &images.join(name).join("rootfs/warren-msa"));
}

/// Compiles a program of one crate that needs only the standard library, statically, in the place of another.
pub fn compile(source: &str, program: &Path) {
    // Beside it first: the other may be a link to the built one, or running.
    let new = program.with_extension("new");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]).arg(&new);
    assert!(rustc.arg(workspace().join("tests").join(source)).status().unwrap().success());
    std::fs::rename(new, program).unwrap();
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
