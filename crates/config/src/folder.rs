//! The folder of tenants, read again and again.
//!
//! ```text
//!   first reading ──▶ every file, on all processors
//!   later         ──▶ the names that the kernel saw change since (inotify)
//!                     where it cannot tell: files whose inode, size or times differ from what they were
//! ```
//!
//! What was seen to change stays noted until a reading of it succeeds: a reading that finds a problem changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use warren_launcher_api::TenantName;

use crate::TENANTS_FOLDER;
use crate::checker::Checker;
use crate::directory::{Directory, Found};
use crate::node::{Fleet, Limits, Node};
use crate::problem::{Problem, Problems};
use crate::tenant::{Tenant, TenantFile, tenant};
use crate::watch::{Seen, Watch};

/// How a file looked when it was read; `None` if it was so young that another change may not show.
pub(crate) type Stamp = Option<std::num::NonZeroU64>;

/// Times of files are no finer than the kernel's tick, at most a hundredth of a second.
const YOUNG: Duration = Duration::from_millis(20);
/// Fewer files are not worth a thread.
const FILES_PER_THREAD: usize = 500;

/// `tenants/` of a configuration directory.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whether there will be another reading.
    again: bool,
    watch: Option<Watch>,
    /// Names of files that changed since the last good reading.
    changed: BTreeSet<OsString>,
    /// What the last good reading took for what tenants leave out; `None` before it.
    defaults: Option<(Fleet, Limits)>,
}

/// A file with a tenant's name.
struct File {
    name: TenantName,
    path: PathBuf,
    stamp: Stamp,
}

impl Folder {
    /// Of this configuration directory. Nothing is read yet.
    pub fn new(directory: &Path) -> Self {
        let path = directory.join(TENANTS_FOLDER);
        Self { path, again: true, watch: None, changed: BTreeSet::new(), defaults: None }
    }

    /// For one reading.
    pub(crate) fn once(directory: &Path) -> Self {
        Self { again: false, ..Self::new(directory) }
    }

    /// Reads what changed since `known`, which must be what the last successful reading gave, or empty before the first.
    /// `node` gives what a tenant's file leaves out.
    pub fn read(&mut self, node: &Node, known: &Directory) -> Result<Directory, Problems> {
        let defaults = (node.fleet.clone(), node.limits.clone());
        let same_defaults = self.defaults.as_ref() == Some(&defaults);
        let told = self.watch.as_mut().map_or(Seen::Unknown, |watch| watch.seen(&self.path));
        let (noted, found) = match told {
            Seen::Names(names) if same_defaults => {
                self.changed.extend(names);
                (true, self.look_at_changed(node))
            }
            _ => (false, self.look_at_all(node, same_defaults, known)),
        };
        let read = found.and_then(|found| known.with(found, &self.path));
        match &read {
            Ok(_) => {
                self.changed.clear();
                self.defaults = Some(defaults);
            }
            Err(_) if noted => {}
            // Next time all is looked at again.
            Err(_) => self.watch = None,
        }
        read
    }

    fn look_at_changed(&self, node: &Node) -> Result<Vec<Found>, Problems> {
        let mut problems = Problems::default();
        let mut found = Vec::new();
        for name in self.changed.iter().filter(|name| is_tenant_file(name)) {
            let path = self.path.join(name);
            let looked = match fs::metadata(&path) {
                Ok(about) => tenant_name(&path).map(|name| (name, Some(stamp(&about)))),
                // A name that is no tenant's was never one.
                Err(error) if missing(&error) => match tenant_name(&path) {
                    Ok(name) => Ok((name, None)),
                    Err(_) => continue,
                },
                Err(error) => Err(Problem::of_file(&path, format!("cannot be read: {error}"))),
            };
            match looked {
                Ok((name, None)) => found.push(Found { name, now: None }),
                Ok((name, Some(stamp))) => match load(&path, &name, node) {
                    Ok(tenant) => found.push(Found { name, now: Some((tenant, stamp)) }),
                    Err(wrong) => problems.append(wrong),
                },
                Err(wrong) => problems.push(wrong),
            }
        }
        problems.or(found)
    }

    /// All files; unless what they leave out means something else now, only those that look other than when `known` was read.
    fn look_at_all(&mut self, node: &Node, same_defaults: bool, known: &Directory) -> Result<Vec<Found>, Problems> {
        // First the watch: what changes while we read is seen by it.
        self.watch = self.again.then(|| Watch::new(&self.path)).flatten();
        let (files, mut problems) = self.files(known)?;
        let mut found: Vec<Found> = {
            let mut there = files.iter().map(|file| &file.name).peekable();
            let gone = known.tenants().map(|tenant| &tenant.name).filter(|name| {
                while there.next_if(|there| there < name).is_some() {}
                there.peek() != Some(name)
            });
            gone.map(|name| Found { name: name.clone(), now: None }).collect()
        };
        let mut stamps = known.stamps().filter(|_| same_defaults).peekable();
        let other = files.into_iter().filter(|file| {
            while stamps.next_if(|(name, _)| **name < file.name).is_some() {}
            !stamps.peek().is_some_and(|(name, stamp)| **name == file.name && stamp.is_some() && *stamp == file.stamp)
        });
        for (file, loaded) in load_all(other.collect(), node) {
            match loaded {
                Ok(tenant) => found.push(Found { name: file.name, now: Some((tenant, file.stamp)) }),
                Err(wrong) => problems.append(wrong),
            }
        }
        problems.or(found)
    }

    /// The tenants' files, by name. Where files are reached by links, what happens to them does not show here: then there is no watch.
    fn files(&mut self, known: &Directory) -> Result<(Vec<File>, Problems), Problem> {
        let unreadable = |error: io::Error| Problem::of_file(&self.path, format!("cannot be read: {error}"));
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            // A folder that is not there yet holds nobody; one that is gone was hardly meant to take everybody along.
            Err(error) if missing(&error) && known.tenants().len() == 0 => {
                return Ok((Vec::new(), Problems::default()));
            }
            Err(error) if missing(&error) => {
                let gone = "the folder is gone, expected the tenants' files (an empty folder, if there are to be none)";
                return Err(Problem::of_file(&self.path, gone));
            }
            Err(error) => return Err(unreadable(error)),
        };
        let (mut files, mut problems) = (Vec::new(), Problems::default());
        for entry in entries {
            let entry = entry.map_err(unreadable)?;
            if !is_tenant_file(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let about = match about(&entry) {
                Ok(about) => about,
                // It went while we looked.
                Err(error) if missing(&error) => continue,
                Err(error) => {
                    problems.push(Problem::of_file(&path, format!("cannot be read: {error}")));
                    continue;
                }
            };
            if about.linked {
                self.watch = None;
            }
            match tenant_name(&path) {
                Ok(name) => files.push(File { name, path, stamp: about.stamp }),
                Err(wrong) => problems.push(wrong),
            }
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok((files, problems))
    }
}

struct About {
    stamp: Stamp,
    linked: bool,
}

fn about(entry: &DirEntry) -> io::Result<About> {
    let about = entry.metadata()?;
    if about.is_symlink() {
        return Ok(About { stamp: stamp(&fs::metadata(entry.path())?), linked: true });
    }
    Ok(About { stamp: stamp(&about), linked: about.nlink() > 1 })
}

fn stamp(about: &Metadata) -> Stamp {
    let touched = about.modified().ok()?;
    if SystemTime::now().duration_since(touched).is_ok_and(|age| age < YOUNG) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (about.dev(), about.ino(), about.size()).hash(&mut hasher);
    (about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()).hash(&mut hasher);
    std::num::NonZeroU64::new(hasher.finish())
}

fn missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Not an editor's copy, not hidden.
fn is_tenant_file(name: &std::ffi::OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && name.len() > b".toml".len() && name.ends_with(b".toml")
}

fn tenant_name(file: &Path) -> Result<TenantName, Problem> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    TenantName::new(&stem).map_err(|error| Problem::of_file(file, format!("the file's name is the tenant's: {error}")))
}

/// On all processors, if there are many.
fn load_all(files: Vec<File>, node: &Node) -> Vec<(File, Result<Arc<Tenant>, Problems>)> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(files.len() / FILES_PER_THREAD).max(1);
    let share = files.len().div_ceil(threads);
    if threads == 1 {
        let load_one = |file: File| {
            let loaded = load(&file.path, &file.name, node);
            (file, loaded)
        };
        return files.into_iter().map(load_one).collect();
    }
    let mut loaded: Vec<_> = Vec::with_capacity(files.len());
    std::thread::scope(|scope| {
        let shares: Vec<_> = files
            .chunks(share)
            .map(|share| {
                let work = || share.iter().map(|file| load(&file.path, &file.name, node)).collect::<Vec<_>>();
                scope.spawn(work)
            })
            .collect();
        for share in shares {
            match share.join() {
                Ok(results) => loaded.extend(results),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    files.into_iter().zip(loaded).collect()
}

fn load(file: &Path, name: &TenantName, node: &Node) -> Result<Arc<Tenant>, Problems> {
    let (check, raw) = Checker::read::<TenantFile>(file)?;
    Ok(Arc::new(tenant(check, &raw, name.clone(), node)?))
}
