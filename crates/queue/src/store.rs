//! The queue directory: open, begin, read, update, remove.

use crate::content::ContentReader;
use crate::error::is_shortage;
use crate::incoming::Incoming;
use crate::layout::{HEAD, Mail, Unreadable, record};
use crate::legacy;
use crate::room::Room;
use crate::spares::{MOST, Spares};
use crate::sync::DirectorySync;
use crate::{Envelope, MessageId, QueueError};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The messages of one directory. Cheap to clone; every method blocks on the disk and may be called from any thread.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) directory: PathBuf,
    pub(crate) sync: DirectorySync,
    pub(crate) room: Room,
    pub(crate) spares: Spares,
    serial: AtomicU64,
    /// Ids begun by this process before the scan ended, and spares; the scan must leave them alone. `None` afterwards.
    ours: Mutex<Option<HashSet<MessageId>>>,
    /// Holds the lock as long as the queue is open.
    _lock: File,
}

const LOCK: &str = "lock";
/// How the names of messages' files end.
pub(crate) const MAIL: &str = "mail";

pub(crate) fn mail_name(id: &MessageId) -> String {
    format!("{id}.{MAIL}")
}

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
        let (room, mut spares) = Room::of(directory).map_err(|error| QueueError::of("measuring the queue", error))?;
        // The rest is swept by the scan.
        spares.truncate(MOST);
        let inner = Inner {
            directory: directory.to_owned(),
            sync: DirectorySync::new(handle),
            room,
            ours: Mutex::new(Some(spares.iter().cloned().collect())),
            spares: Spares::new(spares),
            serial: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets what the queue may hold: the files of messages, and a little for each. Without this there is no limit.
    pub fn allow(&self, bytes: u64) {
        self.inner.room.allow(bytes);
    }

    /// Sets what one file may hold: [`u64::MAX`] without this. A message is refused if it and all that will be noted about its recipients do not fit;
    /// reports are not.
    pub fn allow_file(&self, bytes: u64) {
        self.inner.room.allow_file(bytes);
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

    /// Begins a message: takes a spare, or makes a file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(&self, now_ms: u64) -> Result<Incoming, QueueError> {
        while let Some(id) = self.inner.spares.take() {
            match OpenOptions::new().write(true).open(self.inner.path(&mail_name(&id))) {
                Ok(file) => return Ok(Incoming::new(Arc::clone(&self.inner), id, file, None)),
                Err(error) if is_shortage(&error) => {
                    self.inner.spares.put_back(id);
                    return Err(QueueError::of("opening a message file", error));
                }
                // Somebody has tidied up; or whatever is wrong with it, it is no reason to take no message.
                Err(_) => {}
            }
        }
        let (id, file) = self.inner.make(now_ms)?;
        let ticket = self.inner.sync.ticket();
        Ok(Incoming::new(Arc::clone(&self.inner), id, file, Some(ticket)))
    }

    /// Opens a message's content.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn content(&self, id: &MessageId) -> Result<ContentReader, QueueError> {
        let content = match File::open(self.inner.path(&mail_name(id))) {
            Err(error) if error.kind() == ErrorKind::NotFound => legacy::content(&self.inner, id),
            opened => opened.and_then(|file| ContentReader::within(id, file)),
        };
        content.map_err(|error| QueueError::of("opening a message", error))
    }

    /// Replaces a message's envelope, durably: what was delivered is not delivered again. One call at a time for a message.
    ///
    /// # Errors
    /// When it cannot be written; the one before it then still holds.
    pub fn update(&self, envelope: &Envelope) -> Result<(), QueueError> {
        let bytes = envelope.encode()?;
        let updating = |error| QueueError::of("updating an envelope", error);
        let name = mail_name(&envelope.id);
        let file = match OpenOptions::new().read(true).write(true).open(self.inner.path(&name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return legacy::update(&self.inner, &envelope.id, &bytes);
            }
            opened => opened.map_err(updating)?,
        };
        let mail = Mail::read(&envelope.id, &file).map_err(|unreadable| updating(unreadable.into()))?;
        let place = mail.place(bytes.len());
        if place.sync_first {
            file.sync_data().map_err(updating)?;
        }
        let record = record(mail.next_number(), &bytes);
        let written = file.write_all_at(&record, place.at).and_then(|()| file.sync_data());
        if written.is_err() {
            // Nobody must take for written what may not be.
            let _ = file.write_all_at(&[0; HEAD], place.at);
        }
        self.inner.room.take_anyway(file.metadata().map_or(0, |now| mail.growth(now.len())));
        written.map_err(updating)
    }

    /// Removes a message. Not synced: if the power fails now the message may be delivered once more, never lost.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn remove(&self, id: &MessageId) -> Result<(), QueueError> {
        let removed = match self.inner.room.remove(&self.inner.path(&mail_name(id))) {
            Err(error) if error.kind() == ErrorKind::NotFound => legacy::remove(&self.inner, id),
            removed => removed,
        };
        removed.map_err(|error| QueueError::of("removing a message", error))
    }
}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> Self {
        let why = match unreadable {
            Unreadable::NotNow(number) => return Self::from_raw_os_error(number),
            Unreadable::Corrupt(why) => why,
            Unreadable::Unfinished | Unreadable::Removed => "it is no message".to_owned(),
        };
        Self::new(ErrorKind::InvalidData, why)
    }
}

impl Inner {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a message's file, under a new id.
    pub(crate) fn make(&self, now_ms: u64) -> Result<(MessageId, File), QueueError> {
        // A clock set back may lead to ids that exist already: try the next serial.
        for _ in 0..1024 {
            let id = MessageId::make(now_ms, self.serial.fetch_add(1, Ordering::Relaxed));
            // Held while the file is made, until there has been a scan: one that comes upon it knows that it is ours, and that of an older message is not.
            let ours = self.ours.lock().expect("no holder of this lock panics");
            let mut ours = ours.is_some().then_some(ours);
            if legacy::names(&id).iter().any(|name| self.path(name).exists()) {
                continue;
            }
            match OpenOptions::new().write(true).create_new(true).open(self.path(&mail_name(&id))) {
                Ok(file) => {
                    if let Some(ours) = ours.as_mut().and_then(|ours| ours.as_mut()) {
                        ours.insert(id.clone());
                    }
                    return Ok((id, file));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(QueueError::of("making a message file", error)),
            }
        }
        Err(QueueError::of("making a message file", ErrorKind::AlreadyExists.into()))
    }

    pub(crate) fn is_ours(&self, id: &MessageId) -> bool {
        self.ours.lock().expect("no holder of this lock panics").as_ref().is_some_and(|ours| ours.contains(id))
    }

    /// There has been a scan: nothing in the directory is from before any more.
    pub(crate) fn all_are_ours(&self) {
        *self.ours.lock().expect("no holder of this lock panics") = None;
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
    use crate::testing::{put, read};
    use crate::{Attempt, Delivery};
    use std::io::Read;

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
        let queue = Queue::open(volume.path()).unwrap();
        let second = put(&queue, 1_000, b"y");
        assert_ne!(first.id, second.id);
        assert_eq!(queue.scan().unwrap().messages, [first], "the older one is still found");
    }

    #[test]
    fn a_spare_that_cannot_be_used_is_no_reason_to_take_no_message() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.make_spares(1).unwrap();
        for entry in fs::read_dir(volume.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|end| end == MAIL) {
                fs::remove_file(entry.path()).unwrap();
                fs::create_dir(entry.path()).unwrap();
            }
        }
        let message = put(&queue, 1, b"x");
        assert_eq!(read(&queue, &message.id), b"x");
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
    fn an_update_cut_short_leaves_the_envelope_before() {
        let volume = tempfile::tempdir().unwrap();
        let message = put(&Queue::open(volume.path()).unwrap(), 1_000, b"x");
        let mut later = message.clone();
        later.envid = Some("later".into());
        let record = record(1, &later.encode().unwrap());
        let path = volume.path().join(mail_name(&message.id));
        let at = fs::metadata(&path).unwrap().len().next_multiple_of(HEAD as u64);
        for written in [0, 1, HEAD, record.len() - 1] {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&record[..written], at).unwrap();
            let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
            assert_eq!((scan.messages, scan.swept), (vec![message.clone()], 0), "{written}");
        }
    }

    #[test]
    fn envelopes_of_many_attempts_stay_within_thrice_the_largest() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut message = put(&queue, 1_000, b"content");
        let path = volume.path().join(mail_name(&message.id));
        let (mut largest, mut used) = (0, 0);
        for attempt in 0..200usize {
            // Longer, shorter, and about the same.
            message.envid = Some("x".repeat([attempt * 10, 3_000 - attempt * 10, attempt][attempt % 3]));
            largest = largest.max(message.encode().unwrap().len() + 2 * HEAD);
            queue.update(&message).unwrap();
            used = queue.used();
            assert!(fs::metadata(&path).unwrap().len() <= 2 * HEAD as u64 + 3 * largest as u64, "{attempt}");
            assert_eq!(read(&queue, &message.id), b"content");
        }
        drop(queue);
        let queue = Queue::open(volume.path()).unwrap();
        assert_eq!(queue.used(), used, "as much as was taken");
        assert_eq!(queue.scan().unwrap().messages, [message]);
    }

    #[test]
    fn what_is_not_there_cannot_be_updated() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let message = put(&queue, 1_000, b"x");
        queue.remove(&message.id).unwrap();
        assert!(queue.update(&message).is_err());
        assert!(queue.scan().unwrap().quarantined.is_empty());
    }

    #[test]
    fn content_that_ends_too_soon_is_an_error() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let message = put(&queue, 1_000, b"content");
        File::options().write(true).open(volume.path().join(mail_name(&message.id))).unwrap().set_len(70).unwrap();
        let error = queue.content(&message.id).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
