//! What the directory holds when a process begins.

use crate::layout::{Mail, Unreadable};
use crate::legacy;
use crate::store::{Inner, Queue, mail_name};
use crate::{Envelope, MessageId, QueueError};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;

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

const CORRUPT: &str = "corrupt";

impl Queue {
    /// Looks through the directory: reads every envelope, sweeps what crashes left, puts damaged messages aside.
    /// Once per process; messages may be accepted and removed meanwhile.
    ///
    /// # Errors
    /// When the directory itself cannot be read, or this process lacks descriptors or memory to look into it. It may be called again then.
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
        let mut unsynced = false;
        for (id, names) in found {
            if !self.inner.is_ours(&id) {
                unsynced |= take_in(&self.inner, &id, &names, &mut scan)?;
            }
        }
        if unsynced {
            // If this fails they are delivered all the same: nobody may have been told that they are here, but somebody may.
            let _ = self.inner.sync.sync();
        }
        self.inner.all_are_ours();
        scan.messages.sort_by(|one, other| (one.arrived_ms, &one.id).cmp(&(other.arrived_ms, &other.id)));
        Ok(scan)
    }
}

/// Takes in what has this id. Whether its name may not be on stable storage yet.
fn take_in(queue: &Inner, id: &MessageId, names: &[String], scan: &mut Scan) -> Result<bool, QueueError> {
    let name = mail_name(id);
    let (result, files, new) = if names.contains(&name) {
        match read(queue, id) {
            None => return Ok(false),
            Some(Ok((envelope, new))) => (Ok(envelope), vec![name], new),
            Some(Err(why)) => (Err(why), vec![name], false),
        }
    } else {
        let Some(result) = legacy::take_in(queue, id, names, &mut scan.swept) else { return Ok(false) };
        (result, legacy::names(id).to_vec(), false)
    };
    match result {
        Ok(envelope) => scan.messages.push(envelope),
        Err(Unreadable::Unfinished) => scan.swept += u64::from(queue.room.remove(&queue.path(&files[0])).is_ok()),
        Err(Unreadable::Removed) => scan.swept += u64::from(fs::remove_file(queue.path(&files[0])).is_ok()),
        Err(Unreadable::Corrupt(why)) => {
            quarantine(queue, &files);
            scan.quarantined.push(Quarantined { id: id.clone(), why });
        }
        Err(unreadable @ Unreadable::NotNow(_)) => return Err(QueueError::of("reading a message", unreadable.into())),
    }
    Ok(new)
}

/// Reads a message's file. `None`: it is gone. With the envelope, whether it is the one that it came with.
fn read(queue: &Inner, id: &MessageId) -> Option<Result<(Envelope, bool), Unreadable>> {
    let file = match File::open(queue.path(&mail_name(id))) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(Unreadable::because("it cannot be opened", &error))),
    };
    let whole = Mail::read(id, &file).and_then(|mail| {
        if mail.is_new() {
            // Its process may have been killed before it was synced. Nobody was told then that it is here, and what is noted of its deliveries is synced with it.
            mail.verify(&file)?;
        }
        Ok((mail.is_new(), mail.envelope))
    });
    Some(whole.map(|(new, envelope)| (envelope, new)))
}

fn quarantine(queue: &Inner, files: &[String]) {
    let aside = queue.path(CORRUPT);
    let _ = fs::create_dir(&aside);
    for name in files {
        // Whatever cannot be moved stays, and is reported again at the next start.
        let _ = fs::rename(queue.path(name), aside.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{HEAD, record};
    use crate::store::MAIL;
    use crate::testing::put;
    use crate::{Incoming, envelope};

    #[test]
    fn damage_is_put_aside_and_told() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let [good, torn, short, other] = [1, 2, 3, 4].map(|now| put(&queue, now, b"content"));
        drop(queue);
        let path = |message: &Envelope| volume.path().join(mail_name(&message.id));
        fs::write(path(&torn), "x".repeat(100)).unwrap();
        File::options().write(true).open(path(&short)).unwrap().set_len(70).unwrap();
        let bytes = fs::read(path(&other)).unwrap();
        fs::write(path(&other), String::from_utf8(bytes).unwrap().replace("content\0", "contens\0")).unwrap();
        fs::write(volume.path().join("someone.elses"), "").unwrap();
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((scan.messages, scan.swept), (vec![good], 0));
        let ids: Vec<_> = scan.quarantined.iter().map(|quarantined| quarantined.id.clone()).collect();
        assert_eq!(ids, [torn.id.clone(), short.id, other.id]);
        let why: Vec<_> = scan.quarantined.iter().map(|quarantined| quarantined.why.as_str()).collect();
        assert_eq!(
            why,
            ["its first line is damaged", "its content has 6 bytes instead of 7", "its content is not what came in"]
        );
        assert!(volume.path().join("corrupt").join(mail_name(&torn.id)).exists());
        assert!(volume.path().join("someone.elses").exists());
        let again = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((again.messages.len(), again.quarantined.len()), (1, 0));
    }

    #[test]
    fn a_later_envelope_that_is_not_understood_is_not_passed_over() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut message = put(&queue, 1, b"content");
        let path = volume.path().join(mail_name(&message.id));
        let mut bytes = fs::read(&path).unwrap();
        message.version = Envelope::VERSION + 1;
        bytes.resize(bytes.len().next_multiple_of(HEAD), 0);
        bytes.extend(record(1, &message.encode().unwrap()));
        fs::write(&path, bytes).unwrap();
        drop(queue);
        let scan = Queue::open(volume.path()).unwrap().scan().unwrap();
        assert_eq!((scan.messages.len(), scan.quarantined.len()), (0, 1));
        assert!(scan.quarantined[0].why.contains("format 2"), "{}", scan.quarantined[0].why);
    }

    #[test]
    fn a_scan_leaves_the_messages_of_this_process_alone() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.make_spares(1).unwrap();
        let mut open = queue.begin(1).unwrap();
        let mut spareless = [queue.begin(1).unwrap(), queue.begin(1).unwrap()];
        put(&queue, 2, b"committed by us, known to us");
        queue.make_spares(1).unwrap();
        let scan = queue.scan().unwrap();
        assert_eq!((scan.messages.len(), scan.swept), (0, 0));
        open.write(b"still there").unwrap();
        open.commit(envelope::sample(1)).unwrap();
        spareless[0].write(b"still there").unwrap();
        let [spareless, _] = spareless;
        spareless.commit(envelope::sample(1)).unwrap();
        put(&queue, 3, b"into a spare");
    }

    #[test]
    fn oldest_first_whenever_their_files_were_made() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let [one, two, three] = [(10, 3), (20, 1), (30, 2)].map(|(made, arrived)| {
            let mut incoming = queue.begin(made).unwrap();
            incoming.write(b"x").unwrap();
            incoming.commit(envelope::sample(arrived)).unwrap()
        });
        drop(queue);
        assert_eq!(Queue::open(volume.path()).unwrap().scan().unwrap().messages, [two, three, one]);
    }

    #[test]
    fn more_empty_files_than_spares_are_swept() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        // As many sessions at once are killed before a word of content was written.
        let all: Vec<_> = (0..20).map(|_| queue.begin(1).unwrap()).collect();
        all.into_iter().for_each(Incoming::killed);
        drop(queue);
        let names = || {
            fs::read_dir(volume.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|end| end == MAIL))
                .count()
        };
        assert_eq!(names(), 20);
        assert_eq!(Queue::open(volume.path()).unwrap().scan().unwrap().swept, 12);
        assert_eq!(names(), 8);
    }
}
