//! Messages of the version before: content in `ID.msg`, the envelope in `ID.env`, whose presence *is* the message.
//!
//! They are delivered as they are; none is made any more.

use crate::content::ContentReader;
use crate::layout::Unreadable;
use crate::store::Inner;
use crate::{Envelope, MessageId, QueueError};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};

fn content_name(id: &MessageId) -> String {
    format!("{id}.msg")
}

fn envelope_name(id: &MessageId) -> String {
    format!("{id}.env")
}

fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}

/// The files that a message has when it is whole.
pub(crate) fn names(id: &MessageId) -> [String; 2] {
    [envelope_name(id), content_name(id)]
}

/// Sweeps what crashes left; reads the message if there is one.
pub(crate) fn take_in(
    queue: &Inner,
    id: &MessageId,
    names: &[String],
    swept: &mut u64,
) -> Option<Result<Envelope, Unreadable>> {
    let (content, envelope) = (content_name(id), envelope_name(id));
    let (has_content, has_envelope) = (names.contains(&content), names.contains(&envelope));
    for name in names {
        let held = (*name == content && !has_envelope) || *name == temporary_name(&content);
        if held || *name == temporary_name(&envelope) {
            let path = queue.path(name);
            let removed = if held { queue.room.remove(&path) } else { fs::remove_file(&path) };
            *swept += u64::from(removed.is_ok());
        }
    }
    has_envelope.then(|| load(queue, id, has_content))
}

fn load(queue: &Inner, id: &MessageId, has_content: bool) -> Result<Envelope, Unreadable> {
    let corrupt = |doing: &str, error: io::Error| Unreadable::because(doing, &error);
    let mut bytes = Vec::new();
    File::open(queue.path(&envelope_name(id)))
        .and_then(|file| file.take(Envelope::LIMIT as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| corrupt("the envelope cannot be read", error))?;
    if bytes.len() > Envelope::LIMIT {
        return Err(Unreadable::Corrupt(format!("the envelope is over {} bytes", Envelope::LIMIT)));
    }
    let envelope = Envelope::decode(id, &bytes).map_err(Unreadable::Corrupt)?;
    if !has_content {
        // Half-removed: its envelope's removal was lost with the power, its content's was not.
        let settled = envelope.is_settled();
        let missing = || Unreadable::Corrupt("its content is missing".to_owned());
        return Err(if settled { Unreadable::Removed } else { missing() });
    }
    let found = fs::symlink_metadata(queue.path(&content_name(id)))
        .map_err(|error| corrupt("its content cannot be read", error))?;
    if !found.is_file() || found.len() != envelope.content.bytes {
        let expected = envelope.content.bytes;
        return Err(Unreadable::Corrupt(format!("its content has {} bytes instead of {expected}", found.len())));
    }
    Ok(envelope)
}

pub(crate) fn content(queue: &Inner, id: &MessageId) -> io::Result<ContentReader> {
    File::open(queue.path(&content_name(id))).and_then(ContentReader::all_of)
}

/// Replaces the envelope, durably.
pub(crate) fn update(queue: &Inner, id: &MessageId, envelope: &[u8]) -> Result<(), QueueError> {
    let name = envelope_name(id);
    let temporary = queue.path(&temporary_name(&name));
    let replace = || {
        // Without content there is no message.
        fs::symlink_metadata(queue.path(&content_name(id)))?;
        let mut file = File::create(&temporary)?;
        file.write_all(envelope)?;
        file.sync_data()?;
        fs::rename(&temporary, queue.path(&name))
    };
    replace().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        QueueError::of("updating an envelope", error)
    })?;
    queue.sync.sync()
}

/// Removes both, if they are there.
pub(crate) fn remove(queue: &Inner, id: &MessageId) -> io::Result<()> {
    // The envelope first: content without an envelope is swept, an envelope without content would be an alarm.
    let envelope = || fs::remove_file(queue.path(&envelope_name(id)));
    let content = || queue.room.remove(&queue.path(&content_name(id)));
    for remove in [&envelope as &dyn Fn() -> io::Result<()>, &content] {
        match remove() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Delivery, Queue, Scan, envelope};
    use std::path::Path;

    /// Puts a message there as the version before did.
    fn put(volume: &Path, now_ms: u64, text: &[u8]) -> Envelope {
        let mut envelope = envelope::sample(now_ms);
        envelope.content.bytes = text.len() as u64;
        fs::write(volume.join(content_name(&envelope.id)), text).unwrap();
        fs::write(volume.join(envelope_name(&envelope.id)), envelope.encode().unwrap()).unwrap();
        envelope
    }

    fn scan(volume: &Path) -> Scan {
        Queue::open(volume).unwrap().scan().unwrap()
    }

    #[test]
    fn a_message_of_the_version_before_is_read_updated_and_removed() {
        let volume = tempfile::tempdir().unwrap();
        let mut message = put(volume.path(), 1, b"content");
        let queue = Queue::open(volume.path()).unwrap();
        let held = queue.used();
        assert!(held > 7);
        assert_eq!(queue.scan().unwrap().messages, [message.clone()]);
        let mut bytes = Vec::new();
        queue.content(&message.id).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"content");
        let attempt = Attempt { at_ms: 2, host: None, status: "2.0.0".into(), text: "ok".into(), from_peer: true };
        message.settle(0, Delivery::Delivered, attempt);
        queue.update(&message).unwrap();
        drop(queue);
        let queue = Queue::open(volume.path()).unwrap();
        assert_eq!(queue.scan().unwrap().messages, [message.clone()]);
        queue.remove(&message.id).unwrap();
        queue.remove(&message.id).unwrap();
        assert_eq!(queue.used(), 0);
        assert!(names(&message.id).iter().all(|name| !volume.path().join(name).exists()));
    }

    #[test]
    fn its_id_is_not_given_to_another() {
        let volume = tempfile::tempdir().unwrap();
        let old = put(volume.path(), 1, b"content");
        let queue = Queue::open(volume.path()).unwrap();
        assert_ne!(*queue.begin(1).unwrap().id(), old.id);
    }

    #[test]
    fn leftovers_are_swept() {
        let volume = tempfile::tempdir().unwrap();
        let message = put(volume.path(), 1, b"x");
        let unfinished = MessageId::make(2, 0);
        for name in [
            temporary_name(&envelope_name(&message.id)),
            temporary_name(&content_name(&unfinished)),
            temporary_name(&envelope_name(&unfinished)),
            content_name(&MessageId::make(3, 0)),
        ] {
            fs::write(volume.path().join(name), "half").unwrap();
        }
        let found = scan(volume.path());
        assert_eq!((found.messages, found.swept, found.quarantined), (vec![message], 4, vec![]));
    }

    #[test]
    fn a_half_removed_message_is_swept_without_alarm() {
        let volume = tempfile::tempdir().unwrap();
        let mut message = put(volume.path(), 1, b"x");
        let attempt = Attempt { at_ms: 2, host: None, status: "2.0.0".into(), text: "ok".into(), from_peer: true };
        (0..2).for_each(|index| message.settle(index, Delivery::Delivered, attempt.clone()));
        Queue::open(volume.path()).unwrap().update(&message).unwrap();
        fs::remove_file(volume.path().join(content_name(&message.id))).unwrap();
        let found = scan(volume.path());
        assert_eq!((found.messages.len(), found.quarantined.len(), found.swept), (0, 0, 1));
    }

    #[test]
    fn damage_is_put_aside_and_told() {
        let volume = tempfile::tempdir().unwrap();
        let [good, torn, short, gone] = [1, 2, 3, 4].map(|now| put(volume.path(), now, b"content"));
        fs::write(volume.path().join(envelope_name(&torn.id)), "\0\0\0").unwrap();
        fs::write(volume.path().join(content_name(&short.id)), "cont").unwrap();
        fs::remove_file(volume.path().join(content_name(&gone.id))).unwrap();
        let found = scan(volume.path());
        assert_eq!(found.messages, [good]);
        let ids: Vec<_> = found.quarantined.iter().map(|quarantined| quarantined.id.clone()).collect();
        assert_eq!(ids, [torn.id.clone(), short.id, gone.id]);
        assert!(found.quarantined[1].why.contains("4 bytes instead of 7"), "{}", found.quarantined[1].why);
        assert!(volume.path().join("corrupt").join(content_name(&torn.id)).exists());
    }
}
