//! What the volume holds, against what it may hold.
//!
//! A program that was not written for Warren has no limit for its queue as a whole. So it is measured where mail comes in: a message is
//! refused while its user can still be told why. What the program writes beside that meets the launcher's watcher.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use tokio::sync::oneshot;

/// Each file takes this much at least, as the launcher's watcher counts.
const PER_FILE: u64 = 4096;
/// Files that a message may take beside itself: why it was put off, and the report about that. Without them Postfix waits for room, and says nothing.
const FILES: u64 = 8;
/// A measurement is believed for so many times as long as it took: at most a tenth of the time goes into measuring.
const BELIEVED: u32 = 9;

/// A volume that can be asked about without waiting for the disk: it is measured on a thread of its own, which is there from the start. A program
/// that has as many processes as its container may leaves room for no other, and a runtime that cannot start one panics.
#[derive(Debug, Clone)]
pub struct Measurer(mpsc::Sender<Question>);

#[derive(Debug)]
struct Question {
    coming: Option<u64>,
    most: u64,
    answer: oneshot::Sender<io::Result<Option<String>>>,
}

impl Measurer {
    /// Of the volume that is mounted there.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn of(volume: PathBuf) -> io::Result<Measurer> {
        // As many questions as connections: each waits for its answer.
        let (asked, questions) = mpsc::channel::<Question>();
        std::thread::Builder::new().name("room".to_owned()).stack_size(256 * 1024).spawn(move || {
            let mut room = Room::of(volume);
            for Question { coming, most, answer } in questions {
                // Whoever asked may have gone.
                let _ = answer.send(room.lacks(coming, most));
            }
        })?;
        Ok(Measurer(asked))
    }

    /// As [`Room::lacks`].
    ///
    /// # Errors
    /// As there.
    pub async fn lacks(&self, coming: Option<u64>, most: u64) -> io::Result<Option<String>> {
        let (answer, told) = oneshot::channel();
        self.0.send(Question { coming, most, answer }).map_err(io::Error::other)?;
        told.await.map_err(io::Error::other)?
    }
}

/// The volume, as it was last measured.
#[derive(Debug)]
pub struct Room {
    volume: PathBuf,
    last: Option<Measured>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    used: u64,
    until: Instant,
}

impl Room {
    /// Of the volume that is mounted there. Nothing is looked at yet.
    pub fn of(volume: PathBuf) -> Room {
        Room { volume, last: None }
    }

    /// What stands against a message of this length coming in, or, without a length, against one that is here already, if the volume may hold
    /// this `most`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lacks(&mut self, coming: Option<u64>, most: u64) -> io::Result<Option<String>> {
        let used = self.used()?;
        if used.saturating_add(coming.unwrap_or(0)) > most {
            return Ok(Some(format!("the volume holds {used} of {most} bytes")));
        }
        let space = statvfs(&self.volume)?;
        if coming.is_some() && !takes_files(space.f_files, space.f_favail) {
            return Ok(Some("the file system takes no more files".to_owned()));
        }
        Ok(None)
    }

    /// What it holds, in bytes; may be a little old.
    fn used(&mut self) -> io::Result<u64> {
        let began = Instant::now();
        if let Some(used) = self.believed(began) {
            return Ok(used);
        }
        let used = measure(&self.volume)?;
        self.note(used, Instant::now(), began.elapsed());
        Ok(used)
    }

    fn believed(&self, now: Instant) -> Option<u64> {
        self.last.filter(|last| now < last.until).map(|last| last.used)
    }

    fn note(&mut self, used: u64, now: Instant, took: Duration) {
        self.last = Some(Measured { used, until: now + took * BELIEVED });
    }
}

/// Some file systems make inodes as they go, and say that there are none at all.
fn takes_files(all: u64, available: u64) -> bool {
    all == 0 || available >= FILES
}

/// All regular files of a volume.
fn measure(volume: &Path) -> io::Result<u64> {
    below(volume, vec![volume.to_owned()])
}

/// All regular files below these folders of a volume.
fn below(volume: &Path, mut open: Vec<PathBuf>) -> io::Result<u64> {
    let mut used = 0_u64;
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The program removes what it is done with.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != volume => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            // Of a link the link itself, so this ends.
            let Ok((entry, kind)) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind))) else {
                continue;
            };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && let Ok(found) = entry.metadata()
            {
                used = used.saturating_add(found.len().max(PER_FILE));
            }
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_wherever_they_are() {
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir_all(volume.path().join("deferred/A")).unwrap();
        fs::write(volume.path().join("deferred/A/1"), [0; 10_000]).unwrap();
        fs::write(volume.path().join("small"), "x").unwrap();
        std::os::unix::fs::symlink("..", volume.path().join("deferred/up")).unwrap();
        let mut room = Room::of(volume.path().to_owned());
        assert_eq!(room.used().unwrap(), 10_000 + PER_FILE);
        assert_eq!(room.lacks(Some(4), 10_004 + PER_FILE).unwrap(), None);
        assert!(room.lacks(Some(5), 10_004 + PER_FILE).unwrap().is_some());
        assert!(room.lacks(None, 9_999 + PER_FILE).unwrap().is_some());
        assert!(Room::of(volume.path().join("none")).lacks(None, u64::MAX).is_err());
    }

    #[test]
    fn a_folder_that_the_program_removes_meanwhile_counts_for_nothing() {
        let volume = tempfile::tempdir().unwrap();
        let (here, gone) = (volume.path().to_owned(), volume.path().join("gone"));
        assert_eq!(below(&here, vec![gone.clone(), here.clone()]).unwrap(), 0);
        assert_eq!(below(&here, vec![here.clone(), gone]).unwrap(), 0);
    }

    #[test]
    fn to_be_asked_takes_no_thread() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        let started = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&started);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_start(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            })
            .build()
            .unwrap();
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join("small"), "x").unwrap();
        let room = Measurer::of(volume.path().to_owned()).unwrap();
        runtime.block_on(async {
            assert_eq!(room.lacks(Some(4), 4 + PER_FILE).await.unwrap(), None);
            assert!(room.lacks(Some(5), 4 + PER_FILE).await.unwrap().is_some());
            assert!(Measurer::of(volume.path().join("none")).unwrap().lacks(None, 1).await.is_err());
        });
        assert_eq!(started.load(Ordering::Relaxed), 0, "the runtime may be unable to start one");
    }

    #[test]
    fn inodes_count_where_they_are_counted() {
        assert!(takes_files(0, 0) && takes_files(100, FILES));
        assert!(!takes_files(100, FILES - 1));
    }

    #[test]
    fn it_is_not_measured_all_the_time() {
        let (mut room, now) = (Room::of(PathBuf::new()), Instant::now());
        assert_eq!(room.believed(now), None);
        room.note(5, now, Duration::from_millis(10));
        assert_eq!(room.believed(now + Duration::from_millis(89)), Some(5));
        assert_eq!(room.believed(now + Duration::from_millis(90)), None);
    }
}
