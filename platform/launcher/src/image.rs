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
    /// Who listens at the entrances.
    pub entrance: Entrance,
    /// Capabilities within its user namespace, by the names of the OCI specification.
    pub capabilities: Vec<Capability>,
    /// Places beside `/tmp` that it may write to, in memory.
    pub tmpfs: Vec<Tmpfs>,
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
    #[serde(default)]
    capabilities: Vec<Capability>,
    #[serde(default)]
    tmpfs: Vec<Tmpfs>,
}

/// Who listens at the entrances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entrance {
    /// The program inherits its listeners as `LISTEN_FDS`: submission, relay, control.
    Inherited,
    /// The program listens itself, as users of its own: only control is inherited, and the wider system call filter of foreign
    /// programs holds.
    Own,
}

/// What an image of type [`Entrance::Own`] may ask for. Everything holds only for what belongs to its user namespace: its 1,024 ids, its
/// processes, its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capability {
    /// Give files to its users.
    #[serde(rename = "CAP_CHOWN")]
    Chown,
    /// Reach its users' files.
    #[serde(rename = "CAP_DAC_OVERRIDE")]
    DacOverride,
    /// Signal its users' processes.
    #[serde(rename = "CAP_KILL")]
    Kill,
    /// Listen on ports 24 and 587.
    #[serde(rename = "CAP_NET_BIND_SERVICE")]
    NetBindService,
    /// Become a group of its own.
    #[serde(rename = "CAP_SETGID")]
    Setgid,
    /// Become a user of its own.
    #[serde(rename = "CAP_SETUID")]
    Setuid,
}

/// A place in memory, counted against the tenant's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute path of an empty directory of the image.
    pub path: String,
    /// Its size, in KiB.
    pub kib: u32,
}

/// Room for every argument one could want.
const MAX_DESCRIPTION: u64 = 64 * 1024;
/// Each mount makes every container of the image slower to create.
const MAX_TMPFS: usize = 4;
const MAX_TMPFS_KIB: u32 = 64 * 1024;

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
        let Description { args, entrance, uid, gid, capabilities, tmpfs } =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        if uid >= crate::ids::RANGE || gid >= crate::ids::RANGE {
            return Err(format!("{}: uid and gid must be below {}", file.display(), crate::ids::RANGE));
        }
        if entrance == Entrance::Inherited && !capabilities.is_empty() {
            return Err(format!("{}: capabilities are for images whose entrance is \"own\"", file.display()));
        }
        let rootfs = directory.join("rootfs");
        check_tmpfs(&rootfs, &tmpfs).map_err(|reason| format!("{}: {reason}", file.display()))?;
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
        let (name, stamp) = (name.clone(), Vec::new());
        let mut image = Image { name, rootfs, args, uid, gid, entrance, capabilities, tmpfs, stamp };
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

/// Writable places must be where nothing else is mounted, and be there.
fn check_tmpfs(rootfs: &Path, places: &[Tmpfs]) -> Result<(), String> {
    if places.len() > MAX_TMPFS {
        return Err(format!("at most {MAX_TMPFS} tmpfs"));
    }
    for (n, Tmpfs { path, kib }) in places.iter().enumerate() {
        if !(1..=MAX_TMPFS_KIB).contains(kib) {
            return Err(format!("{path}: kib must be within 1 and {MAX_TMPFS_KIB}"));
        }
        let names: Vec<&str> = path.split('/').skip(1).collect();
        let plain = |name: &&str| !name.is_empty() && *name != "." && *name != "..";
        if !path.starts_with('/') || !names.iter().all(plain) {
            return Err(format!("{path:?}: a tmpfs needs a plain absolute path"));
        }
        let others = places[..n].iter().map(|place| place.path.as_str());
        let taken = ["/proc", "/dev", "/sys", "/tmp", VOLUME_PATH].into_iter().chain(others);
        let within = |one: &str, other: &str| Path::new(one).starts_with(other);
        if let Some(taken) = taken.into_iter().find(|taken| within(path, taken) || within(taken, path)) {
            return Err(format!("{path}: a tmpfs cannot share a path with {taken}"));
        }
        // Step by step: a link could lead elsewhere.
        let mut place = rootfs.to_owned();
        for name in names {
            place.push(name);
            if !fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(format!("{} must be a directory: build the image again", place.display()));
            }
        }
    }
    Ok(())
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

    fn own(more: &str) -> String {
        format!(r#"{{"args":["/warren-msa"],"entrance":"own","uid":0,"gid":0,{more}}}"#)
    }

    #[test]
    fn an_image_with_users_of_its_own_loads() {
        let (_images, loaded) = image(&own(r#""capabilities":["CAP_SETUID","CAP_KILL"],"tmpfs":[]"#));
        let loaded = loaded.unwrap();
        assert_eq!(loaded.entrance, Entrance::Own);
        assert_eq!(loaded.capabilities, [Capability::Setuid, Capability::Kill]);
    }

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
            (&GOOD.replace("1000}", r#"1000,"capabilities":["CAP_CHOWN"]}"#), "are for images"),
            (&own(r#""capabilities":["CAP_SYS_ADMIN"]"#), "unknown variant"),
            (&own(r#""tmpfs":[{"path":"/etc","kib":0}]"#), "kib must be"),
            (&own(r#""tmpfs":[{"path":"/etc/../var","kib":1}]"#), "plain absolute path"),
            (&own(r#""tmpfs":[{"path":"/","kib":1}]"#), "plain absolute path"),
            (&own(r#""tmpfs":[{"path":"/var","kib":1}]"#), "share a path"),
            (&own(r#""tmpfs":[{"path":"/tmp/x","kib":1}]"#), "share a path"),
            (&own(r#""tmpfs":[{"path":"/nowhere","kib":1}]"#), "must be a directory"),
        ] {
            let (_images, loaded) = image(text);
            let error = loaded.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let nowhere = Image::load(Path::new("/nonexistent"), &ImageName::new("msa").unwrap()).unwrap_err();
        assert!(nowhere.contains("msa-image/build"), "{nowhere}");
    }
}
