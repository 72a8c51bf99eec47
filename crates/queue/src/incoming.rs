//! A message on its way into the queue.
//!
//! Committing is a list of steps carried out in order. Whatever step a crash comes after, [`Queue::scan`](crate::Queue::scan) finds
//! the whole message or removes what is there; the tests stop after each one, and take away the power (`power.rs`).

use crate::layout::{HEAD, checksum, first_envelope, head, record};
use crate::room::OVERHEAD;
use crate::store::{Inner, mail_name};
use crate::sync::Ticket;
use crate::{Envelope, MessageId, QueueError};
use crc32fast::Hasher;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A message being received. Dropping it without [`commit`](Self::commit) removes it.
#[derive(Debug)]
pub struct Incoming {
    queue: Arc<Inner>,
    id: MessageId,
    file: File,
    /// Which sync of the directory covers the file's name; `None` is a spare, whose name is on stable storage.
    name: Option<Ticket>,
    buffer: Vec<u8>,
    length: u64,
    checksum: Hasher,
    /// Room taken in the queue.
    held: u64,
    /// Taken even if there is none.
    anyway: bool,
    /// A file to remove if nothing comes of it.
    pending: bool,
    /// A write failed: the content has a hole, whatever comes later.
    broken: bool,
}

/// What makes a message durable, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    WriteContent,
    WriteEnvelope,
    /// From here on the message exists, after a crash of the process.
    WriteHead,
    /// From here on it exists after a loss of power, in a spare.
    SyncFile,
    /// From here on also in a file that was made for it.
    SyncName,
}

pub(crate) const COMMIT: [Step; 5] =
    [Step::WriteContent, Step::WriteEnvelope, Step::WriteHead, Step::SyncFile, Step::SyncName];

/// Content is handed to the kernel in pieces of this size.
const BUFFER: usize = 64 * 1024;

impl Incoming {
    pub(crate) fn new(queue: Arc<Inner>, id: MessageId, file: File, name: Option<Ticket>) -> Self {
        let (checksum, buffer) = (checksum(&id), Vec::new());
        Self {
            queue,
            id,
            file,
            name,
            buffer,
            length: 0,
            checksum,
            held: 0,
            anyway: false,
            pending: true,
            broken: false,
        }
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

    /// Lets it in even if the queue is full, or the file may get longer than a file may be: a report, which comes in the place of what it reports on.
    pub fn come_in_anyway(&mut self) {
        self.anyway = true;
    }

    /// Adds to the content.
    ///
    /// # Errors
    /// When the queue is full, the message larger than a file may be, or the disk does not take it; the message is then lost and must be refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let written = self.take(bytes);
        self.broken |= written.is_err();
        written
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let before = self.length;
        if !self.anyway {
            self.queue.room.may_hold(before + bytes.len() as u64)?;
        }
        self.hold(bytes.len() as u64)?;
        self.length += bytes.len() as u64;
        self.checksum.update(bytes);
        if self.buffer.len() + bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush(before)?;
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_out(bytes, before)
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

    /// Writes out what is buffered.
    fn flush(&mut self, until: u64) -> Result<(), QueueError> {
        self.write_out(&self.buffer, until - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes content that begins there.
    fn write_out(&self, bytes: &[u8], at: u64) -> Result<(), QueueError> {
        self.file.write_all_at(bytes, HEAD as u64 + at).map_err(writing)
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
        let encoded = envelope.encode()?;
        if !self.anyway {
            self.queue.room.may_hold_all(self.length, &envelope, encoded.len())?;
        }
        let record = record(0, &encoded);
        self.hold(first_envelope(self.length) + record.len() as u64 - self.length)?;
        for step in COMMIT {
            self.perform(step, &record)?;
        }
        self.pending = false;
        Ok(envelope)
    }

    pub(crate) fn perform(&mut self, step: Step, record: &[u8]) -> Result<(), QueueError> {
        match step {
            Step::WriteContent => self.flush(self.length),
            Step::WriteEnvelope => self.file.write_all_at(record, first_envelope(self.length)).map_err(writing),
            Step::WriteHead => self.file.write_all_at(&head(self.length, self.checksum.clone()), 0).map_err(writing),
            Step::SyncFile => self.file.sync_data().map_err(|error| QueueError::of("syncing a message", error)),
            Step::SyncName => self.name.map_or(Ok(()), |ticket| self.queue.sync.sync_since(ticket)),
        }
    }

    /// Stops like a killed process: nothing is tidied up.
    #[cfg(test)]
    pub(crate) fn killed(mut self) {
        self.pending = false;
    }
}

fn writing(error: io::Error) -> QueueError {
    QueueError::of("writing a message", error)
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.pending {
            return;
        }
        self.queue.room.give_back(self.held);
        // What cannot be removed now is swept at the next start: it was never acknowledged.
        let _ = fs::remove_file(self.queue.path(&mail_name(&self.id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Delivery, Queue, Recipient, Retry, envelope};
    use proptest::prelude::*;
    use std::io::Read;
    use std::path::Path;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
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
        let mut huge = envelope::sample(1);
        huge.envid = Some("x".repeat(Envelope::LIMIT));
        let incoming = queue.begin(1).unwrap();
        assert!(matches!(incoming.commit(huge), Err(QueueError::EnvelopeTooLarge { .. })));
        // It has the file open for reading, so that the first write of the commit fails.
        let mut incoming = queue.begin(1).unwrap();
        incoming.file = File::open(volume.path().join(mail_name(&incoming.id))).unwrap();
        incoming.write(b"content").unwrap();
        assert!(incoming.commit(envelope::sample(1)).is_err());
        assert_eq!((names(volume.path()), queue.used()), (vec![], 0));
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut incoming = queue.begin(1).unwrap();
        incoming.file = File::options().write(true).open("/dev/full").unwrap();
        let written = incoming.write(&[b'x'; 2 * BUFFER]);
        assert!(matches!(written, Err(QueueError::Full { .. })), "{written:?}");
        assert!(incoming.commit(envelope::sample(1)).is_err(), "a message with a hole is never committed");
    }

    /// Puts a message of so many bytes to so many recipients.
    fn put(queue: &Queue, content: usize, recipients: usize) -> Result<Envelope, QueueError> {
        let mut envelope = envelope::sample(1);
        let name = "x".repeat(253 - "0000@.example".len());
        envelope.recipients = (0..recipients).map(|n| Recipient::new(format!("{n:04}@{name}.example"), 1)).collect();
        let mut incoming = queue.begin(1)?;
        incoming.write(&vec![b'x'; content])?;
        incoming.commit(envelope)
    }

    #[test]
    fn what_a_file_holds_leaves_room_for_all_that_will_be_noted() {
        const FILE: usize = 1 << 20;
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.allow_file(FILE as u64);
        let mut refused = 0;
        for content in (FILE - 100_000..FILE + 100_000).step_by(997) {
            let mut envelope = match put(&queue, content, 20) {
                Ok(envelope) => envelope,
                // With fewer recipients it would fit, at first.
                Err(QueueError::EnvelopeTooLarge { .. }) if refused < 100 => {
                    refused += 1;
                    continue;
                }
                Err(QueueError::TooLarge { .. }) if refused > 10 => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{content}: {error}"),
            };
            assert_eq!(refused, 0, "{content}");
            let path = volume.path().join(mail_name(&envelope.id));
            for n in 0..60 {
                let text = ["ä\"".repeat(400), "short".to_owned()][n % 2].clone();
                let said = Attempt { at_ms: 9, host: Some(text.clone()), status: text.clone(), text, from_peer: true };
                match n {
                    0..30 => drop(envelope.defer(n % 20, said, &Retry::default())),
                    _ => envelope.settle(n % 20, Delivery::Delivered, said),
                }
                queue.update(&envelope).unwrap();
                let length = fs::metadata(&path).unwrap().len();
                assert!(length <= FILE as u64, "{content}, {n}: {length}");
            }
            queue.remove(&envelope.id).unwrap();
        }
        assert!(refused > 100);
        // A report comes in the place of what it reports on.
        let mut report = queue.begin(1).unwrap();
        report.come_in_anyway();
        report.write(&[b'x'; FILE - 10_000]).unwrap();
        assert!(report.commit(envelope::sample(1)).is_ok());
    }

    #[test]
    fn what_cannot_be_noted_is_not_taken() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        // As such it would be read back; with what MXs say of them it would not.
        let taken = put(&queue, 100, 9_000);
        assert!(matches!(taken, Err(QueueError::EnvelopeTooLarge { .. })), "{taken:?}");
        assert_eq!((names(volume.path()), queue.used()), (vec![], 0));
    }

    #[test]
    fn a_hundred_recipients_take_what_the_configuration_leaves_for_them() {
        // `FILE_BESIDES` of warren-config.
        const BESIDES: usize = 640 << 10;
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.allow_file((BESIDES + 1_000_000) as u64);
        assert!(put(&queue, 1_000_000, 100).is_ok());
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
