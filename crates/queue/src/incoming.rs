//! A message on its way into the queue.
//!
//! Committing is a list of steps carried out in order. Whatever step a crash comes after, [`crate::Queue::scan`] finds
//! the whole message or removes what is there; the tests stop after each one.

use crate::room::OVERHEAD;
use crate::store::Inner;
use crate::{Envelope, MessageId, QueueError};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::sync::Arc;

/// A message being received. Dropping it without [`commit`](Self::commit) removes it.
#[derive(Debug)]
pub struct Incoming {
    queue: Arc<Inner>,
    id: MessageId,
    content: File,
    buffer: Vec<u8>,
    length: u64,
    /// Room taken in the queue.
    held: u64,
    /// Taken even if there is none.
    anyway: bool,
    /// Files to remove if nothing comes of it.
    pending: bool,
    /// A write failed: the content has a hole, whatever comes later.
    broken: bool,
}

/// What makes a message durable, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    SyncContent,
    WriteEnvelope,
    NameContent,
    /// From here on the message exists, after a crash of the process.
    NameEnvelope,
    /// From here on it exists after a loss of power.
    SyncDirectory,
}

const COMMIT: [Step; 5] =
    [Step::SyncContent, Step::WriteEnvelope, Step::NameContent, Step::NameEnvelope, Step::SyncDirectory];

/// Content is handed to the kernel in pieces of this size.
const BUFFER: usize = 64 * 1024;

pub(crate) fn content_name(id: &MessageId) -> String {
    format!("{id}.msg")
}

pub(crate) fn envelope_name(id: &MessageId) -> String {
    format!("{id}.env")
}

pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}

impl Incoming {
    pub(crate) fn new(queue: Arc<Inner>, id: MessageId, content: File) -> Self {
        Self { queue, id, content, buffer: Vec::new(), length: 0, held: 0, anyway: false, pending: true, broken: false }
    }

    /// The queue id that the message will have.
    #[must_use]
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// Bytes of content so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Lets it in even if the queue is full: a report, which comes in the place of what it reports on.
    pub fn come_in_anyway(&mut self) {
        self.anyway = true;
    }

    /// Adds to the content.
    ///
    /// # Errors
    /// When the queue is full or the disk does not take it; the message is then lost and must be refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let written = self.take(bytes);
        self.broken |= written.is_err();
        written
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        self.hold(bytes.len() as u64)?;
        self.length += bytes.len() as u64;
        if self.buffer.len() + bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.content.write_all(bytes).map_err(writing)
    }

    fn hold(&mut self, bytes: u64) -> Result<(), QueueError> {
        let more = if self.held == 0 { bytes + OVERHEAD } else { bytes };
        if self.anyway {
            self.queue.room.take_anyway(more);
        } else {
            self.queue.room.take(more)?;
        }
        self.held += more;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), QueueError> {
        self.content.write_all(&self.buffer).map_err(writing)?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the message durable and returns its envelope, with id and length filled in. Blocks until it is on stable storage.
    ///
    /// # Errors
    /// Nothing was accepted, and what had been written is removed.
    pub fn commit(mut self, mut envelope: Envelope) -> Result<Envelope, QueueError> {
        if self.broken {
            return Err(QueueError::Io { doing: "committing a message", source: ErrorKind::InvalidData.into() });
        }
        envelope.version = Envelope::VERSION;
        envelope.id = self.id.clone();
        envelope.content.bytes = self.length;
        let bytes = envelope.encode()?;
        if self.held == 0 {
            self.hold(0)?;
        }
        self.flush()?;
        for step in COMMIT {
            self.perform(step, &bytes)?;
        }
        self.pending = false;
        Ok(envelope)
    }

    fn perform(&mut self, step: Step, envelope: &[u8]) -> Result<(), QueueError> {
        let (content_name, envelope_name) = (content_name(&self.id), envelope_name(&self.id));
        let rename = |name: &str| fs::rename(self.queue.path(&temporary_name(name)), self.queue.path(name));
        match step {
            Step::SyncContent => self.content.sync_data().map_err(|error| QueueError::of("syncing a message", error)),
            Step::WriteEnvelope => {
                let write = || {
                    let mut file = File::create_new(self.queue.path(&temporary_name(&envelope_name)))?;
                    file.write_all(envelope)?;
                    file.sync_data()
                };
                write().map_err(|error| QueueError::of("writing an envelope", error))
            }
            Step::NameContent => rename(&content_name).map_err(|error| QueueError::of("naming a message", error)),
            Step::NameEnvelope => rename(&envelope_name).map_err(|error| QueueError::of("naming an envelope", error)),
            Step::SyncDirectory => self.queue.sync.sync(),
        }
    }
}

fn writing(error: std::io::Error) -> QueueError {
    QueueError::of("writing a message", error)
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.pending {
            return;
        }
        self.queue.room.give_back(self.held);
        let (content, envelope) = (content_name(&self.id), envelope_name(&self.id));
        for name in [&envelope, &temporary_name(&envelope), &content, &temporary_name(&content)] {
            // What cannot be removed now is swept at the next start: it was never acknowledged.
            let _ = fs::remove_file(self.queue.path(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Queue, envelope};
    use proptest::prelude::*;
    use std::io::Read;
    use std::path::Path;

    /// Does the first `steps` of a commit and then stops like a killed process: nothing is tidied up.
    fn killed_after(directory: &Path, steps: usize) -> Envelope {
        let queue = Queue::open(directory).unwrap();
        let mut incoming = queue.begin(1_000).unwrap();
        incoming.write(b"content").unwrap();
        incoming.flush().unwrap();
        let mut envelope = envelope::sample(1_000);
        envelope.content.bytes = 7;
        let bytes = envelope.encode().unwrap();
        COMMIT[..steps].iter().for_each(|&step| incoming.perform(step, &bytes).unwrap());
        incoming.pending = false;
        envelope
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    #[test]
    fn killed_after_each_step_all_or_nothing() {
        let named = COMMIT.iter().position(|&step| step == Step::NameEnvelope).unwrap() + 1;
        for steps in 0..=COMMIT.len() {
            let volume = tempfile::tempdir().unwrap();
            let envelope = killed_after(volume.path(), steps);
            let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
            assert!(scan.quarantined.is_empty(), "after {steps} steps: {:?}", scan.quarantined);
            if steps >= named {
                assert_eq!(scan.messages, [envelope], "after {steps} steps");
            } else {
                assert_eq!((scan.messages.len(), names(volume.path())), (0, vec![]), "after {steps} steps");
            }
        }
    }

    #[test]
    fn power_lost_before_the_directory_was_synced() {
        // Either rename, both or none may have reached the disk. No 250 was given, so anything but half a delivery will do.
        for (content, envelope) in [(false, false), (true, false), (false, true), (true, true)] {
            let volume = tempfile::tempdir().unwrap();
            let id = killed_after(volume.path(), 2).id;
            for (name, renamed) in [(content_name(&id), content), (envelope_name(&id), envelope)] {
                if renamed {
                    fs::rename(volume.path().join(temporary_name(&name)), volume.path().join(name)).unwrap();
                }
            }
            let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
            assert_eq!(scan.messages.len(), usize::from(content && envelope));
            assert_eq!(scan.quarantined.len(), usize::from(envelope && !content));
        }
    }

    #[test]
    fn dropped_means_gone() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut incoming = queue.begin(1).unwrap();
        incoming.write(&[b'x'; 200_000]).unwrap();
        assert_eq!(names(volume.path()).len(), 1);
        drop(incoming);
        assert!(names(volume.path()).is_empty());
    }

    #[test]
    fn a_refused_commit_leaves_nothing() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let incoming = queue.begin(1).unwrap();
        // A directory in the envelope's place makes the last rename fail.
        fs::create_dir(volume.path().join(envelope_name(incoming.id()))).unwrap();
        let id = incoming.id().clone();
        assert!(incoming.commit(envelope::sample(1)).is_err());
        assert_eq!(names(volume.path()), [envelope_name(&id)]);
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut incoming = queue.begin(1).unwrap();
        incoming.content = File::options().write(true).open("/dev/full").unwrap();
        let written = incoming.write(&[b'x'; 2 * BUFFER]);
        assert!(matches!(written, Err(QueueError::Full { .. })), "{written:?}");
        assert!(incoming.commit(envelope::sample(1)).is_err(), "a message with a hole is never committed");
    }

    #[test]
    fn many_threads_at_once() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let queue = &queue;
                scope.spawn(move || {
                    for _ in 0..8 {
                        let mut incoming = queue.begin(7).unwrap();
                        incoming.write(&[thread; 100]).unwrap();
                        incoming.commit(envelope::sample(7)).unwrap();
                    }
                });
            }
        });
        drop(queue);
        assert_eq!(Queue::open(volume.path()).unwrap().scan().unwrap().messages.len(), 64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn content_comes_back_whole(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90_000), 0..6)) {
            let volume = tempfile::tempdir().unwrap();
            let queue = Queue::open(volume.path()).unwrap();
            let mut incoming = queue.begin(1).unwrap();
            pieces.iter().for_each(|piece| incoming.write(piece).unwrap());
            let envelope = incoming.commit(envelope::sample(1)).unwrap();
            let mut bytes = Vec::new();
            queue.content(&envelope.id).unwrap().read_to_end(&mut bytes).unwrap();
            prop_assert_eq!(bytes.len() as u64, envelope.content.bytes);
            prop_assert_eq!(bytes, pieces.concat());
        }
    }
}
