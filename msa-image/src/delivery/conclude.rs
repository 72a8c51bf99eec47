//! What follows an attempt: the envelope is written, reports are sent, a settled message is removed.
//!
//! Order matters: a report is durable before the message it is about is gone. A crash in between repeats the report, which is
//! better than none.

use super::{Deliveries, settings};
use crate::Msa;
use crate::clock::{now_ms, random};
use crate::mail::header::{HeaderReader, MAX_HEADER};
use crate::mail::report::{Kind, Report, Reporter, Returned, compose};
use std::io::Read;
use warren_control::Level;
use warren_queue::{Content, ContentReader, Delivery, Envelope, MessageId, Origin, Queue, QueueError, Recipient};

/// A delay is worth telling after four hours (RFC 3461 leaves it to us; users notice by then).
const DELAY_MS: u64 = 4 * 3_600_000;
/// When to try again what the disk refused (milliseconds).
const DISK_RETRY_MS: u64 = 60_000;

/// A report that is owed: of this kind, about these recipients.
type Owed = (Kind, Vec<usize>);

/// Brings a message's files up to date with what the board knows.
pub(super) async fn conclude(msa: &Msa, id: &MessageId) {
    let Some(writing) = msa.deliveries.board().writing(id) else { return };
    let _writing = writing.lock().await;
    if let Err(error) = try_conclude(msa, id).await {
        msa.control.log(Level::Error, format!("{id}: {error}"));
        msa.deliveries.board().conclude_at(id, now_ms().saturating_add(DISK_RETRY_MS));
        msa.deliveries.wake.notify_one();
    }
}

async fn try_conclude(msa: &Msa, id: &MessageId) -> Result<(), QueueError> {
    let queue = msa.store.queue().await?.clone();
    let (envelope, in_flight) = {
        let board = msa.deliveries.board();
        let Some(envelope) = board.envelope(id) else { return Ok(()) };
        (envelope, board.in_flight(id))
    };
    if in_flight {
        // The others are still out: their results are reported together.
        return write(&queue, envelope).await;
    }
    for (kind, about) in owed(&envelope, now_ms(), super::retry(&settings(msa)).expire_ms) {
        if envelope.reverse_path.is_empty() || envelope.origin == Origin::Report {
            if matches!(kind, Kind::Failed) {
                msa.control.log(Level::Warn, format!("{id}: undeliverable, and there is nobody to tell"));
            }
        } else {
            send(msa, &queue, &envelope, kind, &about).await?;
        }
        mark(&msa.deliveries, id, kind, &about);
    }
    let Some(envelope) = msa.deliveries.board().envelope(id) else { return Ok(()) };
    if !envelope.is_settled() {
        return write(&queue, envelope).await;
    }
    let gone = id.clone();
    crate::store::blocking(move || queue.remove(&gone)).await?;
    msa.deliveries.board().forget(id);
    Ok(())
}

async fn write(queue: &Queue, envelope: Envelope) -> Result<(), QueueError> {
    let queue = queue.clone();
    crate::store::blocking(move || queue.update(&envelope)).await
}

/// Which reports are owed for a message.
fn owed(envelope: &Envelope, now_ms: u64, expire_ms: u64) -> Vec<Owed> {
    let which = |wanted: &dyn Fn(&Recipient) -> bool| -> Vec<usize> {
        let all = envelope.recipients.iter().enumerate();
        all.filter(|(_, recipient)| wanted(recipient)).map(|(index, _)| index).collect()
    };
    let old = now_ms.saturating_sub(envelope.arrived_ms) >= DELAY_MS;
    let kinds = [
        (Kind::Failed, which(&|to| to.delivery == Delivery::Failed && !to.reported && to.wants().failure)),
        (Kind::Relayed, which(&|to| to.delivery == Delivery::Relayed && !to.reported && to.wants().success)),
        (
            Kind::Delayed { until_ms: envelope.arrived_ms.saturating_add(expire_ms) },
            which(&|to| to.is_pending() && to.attempts > 0 && old && !to.delay_reported && to.wants().delay),
        ),
    ];
    kinds.into_iter().filter(|(_, about)| !about.is_empty()).collect()
}

fn mark(deliveries: &Deliveries, id: &MessageId, kind: Kind, about: &[usize]) {
    deliveries.board().change(id, |envelope| {
        for &index in about {
            match kind {
                Kind::Delayed { .. } => envelope.recipients[index].delay_reported = true,
                Kind::Failed | Kind::Relayed => envelope.recipients[index].reported = true,
            }
        }
    });
}

/// Puts a report into the queue.
async fn send(msa: &Msa, queue: &Queue, about: &Envelope, kind: Kind, indexes: &[usize]) -> Result<(), QueueError> {
    let settings = settings(msa);
    let recipients: Vec<&Recipient> = indexes.iter().map(|&index| &about.recipients[index]).collect();
    let now_ms = now_ms();
    let reporter = Reporter { hostname: &settings.hostname, now_ms, nonce: random() };
    let report = compose(about, &recipients, kind, reporter);
    let envelope = Envelope {
        version: Envelope::VERSION,
        id: about.id.clone(), // replaced at commit
        arrived_ms: now_ms,
        origin: Origin::Report,
        reverse_path: String::new(),
        recipients: vec![Recipient::new(about.reverse_path.clone(), now_ms)],
        content: Content { bytes: 0, eight_bit: report.eight_bit, smtputf8: report.smtputf8 },
        ret: None,
        envid: None,
    };
    let mut incoming = msa.store.begin_report().await?;
    let original = queue.content(&about.id);
    let incoming = crate::store::blocking(move || {
        copy(&report, original, &mut incoming)?;
        Ok(incoming)
    })
    .await?;
    let envelope = msa.store.commit(incoming, envelope).await?;
    msa.control.log(Level::Info, format!("{}: report {} to {}", about.id, envelope.id, about.reverse_path));
    msa.deliveries.board().take_in(envelope, now_ms);
    msa.deliveries.wake.notify_one();
    Ok(())
}

/// Head, returned content, tail.
fn copy(
    report: &Report,
    original: Result<ContentReader, QueueError>,
    incoming: &mut warren_queue::Incoming,
) -> Result<(), QueueError> {
    incoming.write(&report.head)?;
    // A message that cannot be read is reported without it, or with what of it can be: its sender must learn what became of it.
    if let Ok(mut original) = original {
        match report.returned {
            Returned::Message => {
                let mut piece = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = original.read(&mut piece) {
                    incoming.write(&piece[..length])?;
                }
            }
            Returned::Headers => {
                let mut start = Vec::new();
                let _ = original.take(MAX_HEADER as u64 + 4_096).read_to_end(&mut start);
                let mut reader = HeaderReader::default();
                if let Ok(Some(split)) = reader.push(&start) {
                    incoming.write(&split.header.bytes())?;
                } else if let Ok(split) = reader.finish() {
                    incoming.write(&split.header.bytes())?;
                }
            }
        }
    }
    incoming.write(&report.tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_queue::Notify;

    fn envelope(recipients: Vec<Recipient>) -> Envelope {
        Envelope {
            version: Envelope::VERSION,
            id: "m1".parse().unwrap(),
            arrived_ms: 0,
            origin: Origin::Submission,
            reverse_path: "alice@acme.example".into(),
            recipients,
            content: Content { bytes: 0, eight_bit: false, smtputf8: false },
            ret: None,
            envid: None,
        }
    }

    fn to(delivery: Delivery, notify: Option<Notify>) -> Recipient {
        Recipient { delivery, notify, attempts: 1, ..Recipient::new("bob@x.example", 0) }
    }

    #[test]
    fn a_message_that_cannot_be_read_whole_is_reported_all_the_same() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut incoming = queue.begin(1).unwrap();
        incoming.write(b"Subject: lost\r\n\r\nbody\r\n").unwrap();
        let message = incoming.commit(envelope(vec![to(Delivery::Failed, None)])).unwrap();
        let path = volume.path().join(format!("{}.mail", message.id));
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        std::fs::write(&path, text.replace("body", "b\0dy")).unwrap();
        for returned in [Returned::Message, Returned::Headers] {
            let (head, tail) = (b"head\r\n".to_vec(), b"tail\r\n".to_vec());
            let report = Report { head, returned, tail, eight_bit: false, smtputf8: false };
            let mut incoming = queue.begin(2).unwrap();
            copy(&report, queue.content(&message.id), &mut incoming).unwrap();
            let told = incoming.commit(envelope(vec![to(Delivery::Pending, None)])).unwrap();
            let mut bytes = String::new();
            queue.content(&told.id).unwrap().read_to_string(&mut bytes).unwrap();
            assert!(bytes.starts_with("head\r\n") && bytes.ends_with("tail\r\n"), "{bytes}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_reported() {
        let never = Some(Notify { success: false, failure: false, delay: false });
        let all = Some(Notify { success: true, failure: true, delay: true });
        let envelope = envelope(vec![
            to(Delivery::Failed, None),
            to(Delivery::Failed, never),
            to(Delivery::Delivered, all),
            to(Delivery::Relayed, None),
            to(Delivery::Relayed, all),
            to(Delivery::Pending, None),
            to(Delivery::Pending, all),
        ]);
        assert_eq!(owed(&envelope, DELAY_MS - 1, 9), [(Kind::Failed, vec![0]), (Kind::Relayed, vec![4])]);
        assert_eq!(owed(&envelope, DELAY_MS, 9)[2], (Kind::Delayed { until_ms: 9 }, vec![6]));
    }
}
