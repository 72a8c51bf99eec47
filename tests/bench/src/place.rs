//! Where a run keeps what it makes: state on the disk, what lives only as long as the machine on a tmpfs, as on any usual machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustix::fs::statfs;
use tempfile::TempDir;

/// `statfs` says so of a tmpfs.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Two directories that go when this does, and the programs that are measured.
pub struct Place {
    state: TempDir,
    run: TempDir,
    programs: PathBuf,
    images: PathBuf,
}

impl Place {
    /// Checks that everything is there, and makes the directories. `images` are beside this program unless told.
    pub fn new(images: Option<&PathBuf>) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this makes containers, so run it as root");
        let own = std::env::current_exe().context("find this program")?;
        let programs = own.parent().context("find this program's directory")?.to_owned();
        let images = match images {
            Some(images) => std::path::absolute(images).context("the images' directory")?,
            None => programs.join("images"),
        };
        let on_memory = |directory: &&Path| statfs(*directory).is_ok_and(|about| about.f_type == TMPFS_MAGIC);
        let run = [Path::new("/run"), Path::new("/dev/shm")].into_iter().find(on_memory);
        let mut builder = tempfile::Builder::new();
        builder.prefix("wb");
        let state = builder.tempdir().context("make a directory for the run")?;
        let run = match run {
            Some(run) => builder.tempdir_in(run),
            None => builder.tempdir(),
        };
        let run = run.context("make a directory for the run")?;
        for directory in [&state, &run] {
            // Roots of containers, nobodies to the machine, must reach what is theirs in it.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711)).context("open a directory")?;
        }
        Ok(Place { state, run, programs, images })
    }

    /// The image that is measured is there.
    pub fn with_image(self) -> anyhow::Result<Self> {
        ensure!(
            self.images.join("msa/image.json").is_file(),
            "there is no image msa in {}: build it by msa-image/build, or tell --images",
            self.images.display()
        );
        Ok(self)
    }

    /// A program of ours.
    pub fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let program = self.programs.join(name);
        ensure!(program.is_file(), "{} is missing: cargo build --release --workspace --bins", program.display());
        Ok(program)
    }

    /// For what must last.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// For what need not.
    pub fn run(&self) -> &Path {
        self.run.path()
    }

    /// The directory of images.
    pub fn images(&self) -> &Path {
        &self.images
    }
}
