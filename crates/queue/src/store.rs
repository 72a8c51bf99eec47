//! The queue directory: open, look through once, read, update, remove.

use crate::incoming::{Incoming, content_name, envelope_name, temporary_name};
use crate::room::Room;
use crate::sync::DirectorySync;
use crate::{Envelope, MessageId, QueueError};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The messages of one directory. Cheap to clone; every method blocks on the disk and may be called from any thread.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) directory: PathBuf,
    pub(crate) sync: DirectorySync,
    pub(crate) room: Room,
    serial: AtomicU64,
    /// Ids begun by this process before the scan ended; the scan must leave them alone. `None` afterwards.
    begun: Mutex<Option<HashSet<MessageId>>>,
    /// Holds the lock as long as the queue is open.
    _lock: File,
}

/// What the directory held when the process started.
#[derive(Debug, Default)]
pub struct Scan {
    /// Every whole message, oldest first, except those that this process accepted itself.
    pub messages: Vec<Envelope>,
    /// What could not be read and was put aside.
    pub quarantined: Vec<Quarantined>,
    /// How many unfinished or half-removed files were deleted.
    pub swept: u64,
}

/// A message that was moved to `corrupt/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The queue id, which is the name of the files.
    pub id: MessageId,
    /// What is wrong with it.
    pub why: String,
}

const LOCK: &str = "lock";
const CORRUPT: &str = "corrupt";

impl Queue {
    /// Opens the directory and takes its lock, making both if need be. Quick: no file is opened, only their lengths are added up.
    ///
    /// # Errors
    /// [`QueueError::InUse`] when another process has it; otherwise when the volume cannot be written.
    pub fn open(directory: &Path) -> Result<Self, QueueError> {
        make_directory(directory)?;
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join(LOCK))
            .map_err(|error| QueueError::of("opening the queue's lock file", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(QueueError::InUse { directory: directory.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(QueueError::of("locking the queue", error)),
        }
        let handle = File::open(directory).map_err(|error| QueueError::of("opening the queue directory", error))?;
        let inner = Inner {
            directory: directory.to_owned(),
            sync: DirectorySync::new(handle),
            room: Room::of(directory).map_err(|error| QueueError::of("measuring the queue", error))?,
            serial: AtomicU64::new(0),
            begun: Mutex::new(Some(HashSet::new())),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets what the queue may hold: content, and a little for each message. Without this there is no limit.
    pub fn allow(&self, bytes: u64) {
        self.inner.room.allow(bytes);
    }

    /// What the queue holds, in the same measure.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.inner.room.used()
    }

    /// Whether a message of this length would find room now.
    #[must_use]
    pub fn fits(&self, bytes: u64) -> bool {
        self.inner.room.fits(bytes)
    }

    /// Begins a message: opens its temporary content file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(&self, now_ms: u64) -> Result<Incoming, QueueError> {
        // A clock set back may lead to ids that exist already: try the next serial.
        for _ in 0..1024 {
            let id = MessageId::make(now_ms, self.inner.serial.fetch_add(1, Ordering::Relaxed));
            if let Some(begun) = self.inner.begun.lock().expect("no holder of this lock panics").as_mut() {
                begun.insert(id.clone());
            }
            if self.inner.path(&envelope_name(&id)).exists() || self.inner.path(&content_name(&id)).exists() {
                continue;
            }
            let path = self.inner.path(&temporary_name(&content_name(&id)));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Incoming::new(Arc::clone(&self.inner), id, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(QueueError::of("making a message file", error)),
            }
        }
        Err(QueueError::of("making a message file", ErrorKind::AlreadyExists.into()))
    }

    /// Looks through the directory: reads every envelope, sweeps what crashes left, puts damaged messages aside.
    /// Once per process; messages may be accepted and removed meanwhile.
    ///
    /// # Errors
    /// Only when the directory itself cannot be read.
    pub fn scan(&self) -> Result<Scan, QueueError> {
        let mut found: BTreeMap<MessageId, Vec<String>> = BTreeMap::new();
        let mut scan = Scan::default();
        let reading = |error| QueueError::of("reading the queue directory", error);
        for entry in fs::read_dir(&self.inner.directory).map_err(reading)? {
            let Ok(name) = entry.map_err(reading)?.file_name().into_string() else { continue };
            let Some((id, _)) = name.split_once('.') else { continue };
            // Names that are not ours are left alone.
            let Ok(id) = id.parse::<MessageId>() else { continue };
            found.entry(id).or_default().push(name);
        }
        for (id, names) in found {
            if !self.begun_here(&id) {
                self.take_in(&id, &names, &mut scan);
            }
        }
        *self.inner.begun.lock().expect("no holder of this lock panics") = None;
        Ok(scan)
    }

    fn begun_here(&self, id: &MessageId) -> bool {
        self.inner.begun.lock().expect("no holder of this lock panics").as_ref().is_some_and(|begun| begun.contains(id))
    }

    fn take_in(&self, id: &MessageId, names: &[String], scan: &mut Scan) {
        let (content, envelope) = (content_name(id), envelope_name(id));
        let (has_content, has_envelope) = (names.contains(&content), names.contains(&envelope));
        for name in names {
            let orphan = (*name == content && !has_envelope)
                || *name == temporary_name(&content)
                || *name == temporary_name(&envelope);
            if orphan {
                let path = self.inner.path(name);
                let held = *name == content || *name == temporary_name(&content);
                let removed = if held { self.inner.room.remove(&path) } else { fs::remove_file(&path) };
                scan.swept += u64::from(removed.is_ok());
            }
        }
        if !has_envelope {
            return;
        }
        match self.load(id, has_content) {
            Ok(envelope) => scan.messages.push(envelope),
            // Half-removed: its envelope's removal was lost with the power, its content's was not.
            Err(Unreadable::Removed) => scan.swept += u64::from(fs::remove_file(self.inner.path(&envelope)).is_ok()),
            Err(Unreadable::Corrupt(why)) => {
                self.quarantine(id);
                scan.quarantined.push(Quarantined { id: id.clone(), why });
            }
        }
    }

    fn load(&self, id: &MessageId, has_content: bool) -> Result<Envelope, Unreadable> {
        let corrupt = |doing: &str, error: std::io::Error| Unreadable::Corrupt(format!("{doing}: {error}"));
        let mut bytes = Vec::new();
        File::open(self.inner.path(&envelope_name(id)))
            .and_then(|file| file.take(Envelope::LIMIT as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| corrupt("the envelope cannot be read", error))?;
        if bytes.len() > Envelope::LIMIT {
            return Err(Unreadable::Corrupt(format!("the envelope is over {} bytes", Envelope::LIMIT)));
        }
        let envelope = Envelope::decode(id, &bytes).map_err(Unreadable::Corrupt)?;
        if !has_content {
            let settled = envelope.is_settled();
            return Err(if settled {
                Unreadable::Removed
            } else {
                Unreadable::Corrupt("its content is missing".to_owned())
            });
        }
        let found = fs::symlink_metadata(self.inner.path(&content_name(id)))
            .map_err(|error| corrupt("its content cannot be read", error))?;
        if !found.is_file() || found.len() != envelope.content.bytes {
            let expected = envelope.content.bytes;
            return Err(Unreadable::Corrupt(format!("its content has {} bytes instead of {expected}", found.len())));
        }
        Ok(envelope)
    }

    fn quarantine(&self, id: &MessageId) {
        let aside = self.inner.path(CORRUPT);
        let _ = fs::create_dir(&aside);
        for name in [envelope_name(id), content_name(id)] {
            // Whatever cannot be moved stays, and is reported again at the next start.
            let _ = fs::rename(self.inner.path(&name), aside.join(&name));
        }
    }

    /// Opens a message's content.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn content(&self, id: &MessageId) -> Result<File, QueueError> {
        File::open(self.inner.path(&content_name(id))).map_err(|error| QueueError::of("opening a message", error))
    }

    /// Replaces a message's envelope, durably: what was delivered is not delivered again.
    ///
    /// # Errors
    /// When it cannot be written; the one before it then still holds.
    pub fn update(&self, envelope: &Envelope) -> Result<(), QueueError> {
        let bytes = envelope.encode()?;
        let name = envelope_name(&envelope.id);
        let temporary = self.inner.path(&temporary_name(&name));
        let replace = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, self.inner.path(&name))
        };
        replace().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            QueueError::of("updating an envelope", error)
        })?;
        self.inner.sync.sync()
    }

    /// Removes a message. Not synced: if the power fails now the message may be delivered once more, never lost.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn remove(&self, id: &MessageId) -> Result<(), QueueError> {
        // The envelope first: content without an envelope is swept, an envelope without content would be an alarm.
        let envelope = || fs::remove_file(self.inner.path(&envelope_name(id)));
        let content = || self.inner.room.remove(&self.inner.path(&content_name(id)));
        for remove in [&envelope as &dyn Fn() -> std::io::Result<()>, &content] {
            match remove() {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(QueueError::of("removing a message", error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

enum Unreadable {
    Removed,
    Corrupt(String),
}

impl Inner {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn make_directory(directory: &Path) -> Result<(), QueueError> {
    match fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(QueueError::of("making the queue directory", error)),
    }
    // Its own name must be as durable as what it will hold.
    let Some(parent) = directory.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| QueueError::of("syncing the volume", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Delivery, envelope};

    fn put(queue: &Queue, now_ms: u64, text: &[u8]) -> Envelope {
        let mut incoming = queue.begin(now_ms).unwrap();
        incoming.write(text).unwrap();
        incoming.commit(envelope::sample(now_ms)).unwrap()
    }

    fn read(queue: &Queue, id: &MessageId) -> Vec<u8> {
        let mut bytes = Vec::new();
        queue.content(id).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let volume = tempfile::tempdir().unwrap();
        let directory = volume.path().join("queue");
        let queue = Queue::open(&directory).unwrap();
        let (first, second) = (put(&queue, 1_000, b"one\r\n"), put(&queue, 1_000, b"two\r\n"));
        assert_ne!(first.id, second.id);
        drop(queue);
        let queue = Queue::open(&directory).unwrap();
        let scan = queue.scan().unwrap();
        assert_eq!(scan.messages, [first.clone(), second.clone()]);
        assert_eq!((read(&queue, &first.id), scan.swept, scan.quarantined), (b"one\r\n".to_vec(), 0, vec![]));
        queue.remove(&first.id).unwrap();
        queue.remove(&first.id).unwrap();
        drop(queue);
        assert_eq!(Queue::open(&directory).unwrap().scan().unwrap().messages, [second]);
    }

    #[test]
    fn ids_survive_a_clock_set_back() {
        let volume = tempfile::tempdir().unwrap();
        let first = put(&Queue::open(volume.path()).unwrap(), 1_000, b"x");
        let second = put(&Queue::open(volume.path()).unwrap(), 1_000, b"y");
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn one_process_at_a_time() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        assert!(matches!(Queue::open(volume.path()), Err(QueueError::InUse { .. })));
        drop(queue);
        assert!(Queue::open(volume.path()).is_ok());
    }

    #[test]
    fn an_update_holds() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut message = put(&queue, 1_000, b"x");
        let attempt = Attempt { at_ms: 2, host: None, status: "2.0.0".into(), text: "ok".into(), from_peer: true };
        message.settle(0, Delivery::Delivered, attempt);
        queue.update(&message).unwrap();
        drop(queue);
        assert_eq!(Queue::open(volume.path()).unwrap().scan().unwrap().messages, [message]);
    }

    #[test]
    fn an_update_cut_short_leaves_the_old_envelope() {
        let volume = tempfile::tempdir().unwrap();
        let message = put(&Queue::open(volume.path()).unwrap(), 1_000, b"x");
        fs::write(volume.path().join(format!("{}.env.new", message.id)), "{\"half").unwrap();
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((scan.messages, scan.swept), (vec![message], 1));
    }

    #[test]
    fn damage_is_put_aside_and_told() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let [good, torn, short, gone] = [1, 2, 3, 4].map(|now| put(&queue, now, b"content"));
        drop(queue);
        fs::write(volume.path().join(format!("{}.env", torn.id)), "\0\0\0").unwrap();
        fs::write(volume.path().join(format!("{}.msg", short.id)), "cont").unwrap();
        fs::remove_file(volume.path().join(format!("{}.msg", gone.id))).unwrap();
        fs::write(volume.path().join("someone.elses"), "").unwrap();
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!(scan.messages, [good]);
        let ids: Vec<_> = scan.quarantined.iter().map(|quarantined| quarantined.id.clone()).collect();
        assert_eq!(ids, [torn.id.clone(), short.id, gone.id]);
        assert!(scan.quarantined[1].why.contains("4 bytes instead of 7"), "{}", scan.quarantined[1].why);
        assert!(volume.path().join("corrupt").join(format!("{}.msg", torn.id)).exists());
        assert!(volume.path().join("someone.elses").exists());
        let again = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((again.messages.len(), again.quarantined.len()), (1, 0));
    }

    #[test]
    fn a_scan_leaves_the_messages_of_this_process_alone() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut open = queue.begin(1).unwrap();
        put(&queue, 2, b"committed by us, known to us");
        let scan = queue.scan().unwrap();
        assert_eq!((scan.messages.len(), scan.swept), (0, 0));
        open.write(b"still there").unwrap();
        open.commit(envelope::sample(1)).unwrap();
    }

    #[test]
    fn a_half_removed_message_is_swept_without_alarm() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut message = put(&queue, 1, b"x");
        let attempt = Attempt { at_ms: 2, host: None, status: "2.0.0".into(), text: "ok".into(), from_peer: true };
        (0..2).for_each(|index| message.settle(index, Delivery::Delivered, attempt.clone()));
        queue.update(&message).unwrap();
        fs::remove_file(volume.path().join(format!("{}.msg", message.id))).unwrap();
        drop(queue);
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((scan.messages.len(), scan.quarantined.len(), scan.swept), (0, 0, 1));
    }
}
