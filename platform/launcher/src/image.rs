//! Images: a directory with a root file system and `image.json`, which says what to run in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use warren_launcher_api::{ImageName, VOLUME_PATH};

/// A valid image, as found when a slot was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// Absolute path of its root.
    pub rootfs: PathBuf,
    /// Program and arguments.
    pub args: Vec<String>,
    /// User in the container.
    pub uid: u32,
    /// Group in the container.
    pub gid: u32,
    /// Changes when the image is replaced: slots of the old one are then of no use.
    pub stamp: Vec<[i64; 4]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    args: Vec<String>,
    entrance: Entrance,
    uid: u32,
    gid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entrance {
    /// The program inherits its listeners as `LISTEN_FDS`.
    Inherited,
}

/// Room for every argument one could want.
const MAX_DESCRIPTION: u64 = 64 * 1024;

impl Image {
    /// Reads and checks an image. The error says what is wrong and what to do.
    pub fn load(images: &Path, name: &ImageName) -> Result<Image, String> {
        let directory = images.join(name.as_str());
        let file = directory.join("image.json");
        let text = match fs::metadata(&file) {
            Ok(metadata) if metadata.len() > MAX_DESCRIPTION => {
                return Err(format!("{} is longer than {MAX_DESCRIPTION} bytes", file.display()));
            }
            Ok(_) => fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "{} is missing: build it with `msa-image/build {}`",
                    file.display(),
                    directory.display()
                ));
            }
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        let Description { args, entrance: Entrance::Inherited, uid, gid } =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        if uid >= crate::ids::RANGE || gid >= crate::ids::RANGE {
            return Err(format!("{}: uid and gid must be below {}", file.display(), crate::ids::RANGE));
        }
        let rootfs = directory.join("rootfs");
        let program = match args.first() {
            Some(program) if program.starts_with('/') && !program.contains("..") => rootfs.join(&program[1..]),
            _ => return Err(format!("{}: args must begin with an absolute path", file.display())),
        };
        for needed in ["proc", "dev", "tmp", &VOLUME_PATH[1..]] {
            let needed = rootfs.join(needed);
            if !fs::symlink_metadata(&needed).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(format!("{} must be an empty directory: build the image again", needed.display()));
            }
        }
        let mut image = Image { name: name.clone(), rootfs, args, uid, gid, stamp: Vec::new() };
        image.stamp =
            image.read_stamp().map_err(|error| format!("{}: {error}: build the image again", program.display()))?;
        Ok(image)
    }

    /// Whether the directory still holds this image.
    pub fn is_current(&self) -> bool {
        self.read_stamp().is_ok_and(|stamp| stamp == self.stamp)
    }

    fn read_stamp(&self) -> io::Result<Vec<[i64; 4]>> {
        let program = self.args.first().map_or("", |program| program.trim_start_matches('/'));
        [self.rootfs.with_file_name("image.json"), self.rootfs.clone(), self.rootfs.join(program)]
            .iter()
            .map(|part| {
                let metadata = fs::symlink_metadata(part)?;
                Ok([metadata.dev() as i64, metadata.ino() as i64, metadata.mtime(), metadata.mtime_nsec()])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> (tempfile::TempDir, Result<Image, String>) {
        let images = tempfile::tempdir().unwrap();
        let rootfs = images.path().join("msa/rootfs");
        for directory in ["proc", "dev", "tmp", "var/spool/warren"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        fs::write(rootfs.join("warren-msa"), "program").unwrap();
        fs::write(images.path().join("msa/image.json"), text).unwrap();
        let loaded = Image::load(images.path(), &ImageName::new("msa").unwrap());
        (images, loaded)
    }

    const GOOD: &str = r#"{"args":["/warren-msa"],"entrance":"inherited","uid":1000,"gid":1000}"#;

    #[test]
    fn a_good_image_loads_and_its_stamp_changes_with_it() {
        let (images, loaded) = image(GOOD);
        let loaded = loaded.unwrap();
        let name = loaded.name.clone();
        assert_eq!(Image::load(images.path(), &name).unwrap(), loaded);
        let program = loaded.rootfs.join("warren-msa");
        fs::write(program.with_extension("new"), "another").unwrap();
        fs::rename(program.with_extension("new"), &program).unwrap();
        assert_ne!(Image::load(images.path(), &name).unwrap().stamp, loaded.stamp);
    }

    #[test]
    fn a_bad_one_says_what_to_do() {
        for (text, expected) in [
            ("{", "image.json: EOF"),
            (&GOOD.replace("/warren-msa", "warren-msa"), "absolute path"),
            (&GOOD.replace("/warren-msa", "/../etc/passwd"), "absolute path"),
            (&GOOD.replace("/warren-msa", "/other"), "build the image again"),
            (&GOOD.replace("1000", "70000"), "must be below"),
            (&GOOD.replace("inherited", "guessed"), "inherited"),
        ] {
            let (_images, loaded) = image(text);
            let error = loaded.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let nowhere = Image::load(Path::new("/nonexistent"), &ImageName::new("msa").unwrap()).unwrap_err();
        assert!(nowhere.contains("msa-image/build"), "{nowhere}");
    }
}
