//! Loss of power, played through: of everything that was not synced any part may be on the disk, in any order.

use crate::incoming::{COMMIT, Step};
use crate::layout::{HEAD, Mail, record};
use crate::store::mail_name;
use crate::{Envelope, MessageId, Queue, Scan, envelope};
use proptest::prelude::*;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The least that a disk writes whole.
const SECTOR: usize = 512;

/// A message whose commit was stopped after some steps.
struct Stopped {
    envelope: Envelope,
    record: Vec<u8>,
    /// The file before the commit, and after each step.
    files: Vec<Vec<u8>>,
}

fn stop_after(steps: usize, spare: bool, content: &[u8], volume: &Path) -> Stopped {
    let queue = Queue::open(volume).unwrap();
    if spare {
        queue.make_spares(1_000).unwrap();
    }
    let mut incoming = queue.begin(1_000).unwrap();
    incoming.write(content).unwrap();
    let mut envelope = Envelope { id: incoming.id().clone(), ..envelope::sample(1_000) };
    envelope.content.bytes = content.len() as u64;
    let record = record(0, &envelope.encode().unwrap());
    let file = volume.join(mail_name(&envelope.id));
    let mut files = vec![fs::read(&file).unwrap()];
    for step in &COMMIT[..steps] {
        incoming.perform(*step, &record).unwrap();
        files.push(fs::read(&file).unwrap());
    }
    incoming.killed();
    Stopped { envelope, record, files }
}

fn scan(volume: &Path) -> (Scan, Vec<Vec<u8>>) {
    let queue = Queue::open(volume).unwrap();
    let scan = queue.scan().unwrap();
    let read = |message: &Envelope| {
        let mut bytes = Vec::new();
        queue.content(&message.id).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let contents = scan.messages.iter().map(read).collect();
    (scan, contents)
}

/// What a scan finds when the disk holds this.
fn scan_of(id: &MessageId, file: Option<&[u8]>) -> (Scan, Vec<Vec<u8>>) {
    let volume = tempfile::tempdir().unwrap();
    if let Some(file) = file {
        fs::write(volume.path().join(mail_name(id)), file).unwrap();
    }
    scan(volume.path())
}

/// What each step wrote: from where, to where.
fn writes(files: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let pairs =
        std::iter::once((&[] as &[u8], &files[0][..])).chain(files.windows(2).map(|two| (&two[0][..], &two[1][..])));
    pairs
        .filter_map(|(before, after)| {
            let differs = |at: &usize| before.get(*at) != after.get(*at);
            Some(((0..after.len()).find(differs)?, (0..after.len()).rfind(differs)? + 1))
        })
        .collect()
}

/// Every way in which writes may have reached the disk: each not at all, half, the other half, or all of it.
fn kept(whole: &[u8], writes: &[(usize, usize)]) -> Vec<Vec<u8>> {
    let mut disks = vec![Vec::new()];
    for &(from, to) in writes {
        let middle = from.midpoint(to);
        let parts = [from..from, from..middle, middle..to, from..to];
        disks = disks
            .iter()
            .flat_map(|disk: &Vec<u8>| {
                parts.clone().map(|part| {
                    let mut disk = disk.clone();
                    disk.resize(disk.len().max(part.end), 0);
                    disk[part.clone()].copy_from_slice(&whole[part]);
                    disk
                })
            })
            .collect();
    }
    // The length may have reached the disk before what it is the length of.
    let longer = disks.iter().map(|disk| [disk, &vec![0; whole.len() - disk.len()][..]].concat()).collect::<Vec<_>>();
    [disks, longer].concat()
}

#[test]
fn killed_after_each_step_all_or_nothing() {
    let there = COMMIT.iter().position(|&step| step == Step::WriteHead).unwrap() + 1;
    for (content, spare) in [(&b"content"[..], true), (b"content", false), (b"", true), (&[b'x'; 200_000], true)] {
        for steps in 0..=COMMIT.len() {
            let volume = tempfile::tempdir().unwrap();
            let stopped = stop_after(steps, spare, content, volume.path());
            let (scan, contents) = scan(volume.path());
            assert!(scan.quarantined.is_empty(), "after {steps} steps: {:?}", scan.quarantined);
            if steps >= there {
                assert_eq!(
                    (scan.messages, contents),
                    (vec![stopped.envelope], vec![content.to_vec()]),
                    "after {steps} steps"
                );
            } else {
                assert!(scan.messages.is_empty(), "after {steps} steps");
                let left = fs::read(volume.path().join(mail_name(&stopped.envelope.id)));
                // Whoever wrote nothing leaves a spare.
                assert!(left.is_ok_and(|left| left.is_empty()) || scan.swept == 1, "after {steps} steps");
            }
        }
    }
}

#[test]
fn power_lost_after_each_step_all_or_nothing() {
    let synced = COMMIT.iter().position(|&step| step == Step::SyncFile).unwrap() + 1;
    for (content, spare) in [(&[b'x'; 3_000][..], true), (&[b'x'; 3_000], false), (b"", true), (&[b'x'; 100_000], true)]
    {
        for steps in 0..=COMMIT.len() {
            let volume = tempfile::tempdir().unwrap();
            let Stopped { envelope, record, files } = stop_after(steps, spare, content, volume.path());
            let now = files.last().unwrap();
            let disks = if steps >= synced { vec![now.clone()] } else { kept(now, &writes(&files)) };
            let acknowledged = steps == COMMIT.len();
            for disk in &disks {
                let (scan, contents) = scan_of(&envelope.id, Some(disk));
                // All that matters got there; what lies between content and envelope does not.
                let whole =
                    disk.len() == now.len() && disk == now && now.ends_with(&record) && now[..HEAD] != [0; HEAD];
                let expected = if whole { vec![envelope.clone()] } else { vec![] };
                assert_eq!(scan.messages, expected, "after {steps} steps, {} bytes", disk.len());
                assert!(contents.iter().all(|found| found == content));
                assert!(whole || !acknowledged);
            }
            // A name that was not synced may be gone.
            if !spare && !acknowledged {
                let (scan, _) = scan_of(&envelope.id, None);
                assert!(scan.messages.is_empty() && scan.quarantined.is_empty());
            }
        }
    }
}

#[test]
fn a_removal_that_was_lost_brings_back_what_was_known_last() {
    let volume = tempfile::tempdir().unwrap();
    let queue = Queue::open(volume.path()).unwrap();
    let incoming = queue.begin(1).unwrap();
    let mut message = incoming.commit(envelope::sample(1)).unwrap();
    message.recipients[0].delivery = crate::Delivery::Delivered;
    queue.update(&message).unwrap();
    let file = volume.path().join(mail_name(&message.id));
    let bytes = fs::read(&file).unwrap();
    queue.remove(&message.id).unwrap();
    drop(queue);
    let (scan, _) = scan(volume.path());
    assert!(scan.messages.is_empty() && scan.quarantined.is_empty());
    assert_eq!(scan_of(&message.id, Some(&bytes)).0.messages, [message]);
}

/// What becomes of an update.
#[derive(Debug, Clone)]
enum Fate {
    Written,
    /// The process is killed before it syncs.
    Killed,
    /// The power fails before the sync ends. Of what was not synced these sectors get to the disk.
    PowerLost(Vec<bool>),
}

fn any_fate() -> impl Strategy<Value = Fate> {
    let sectors = proptest::collection::vec(any::<bool>(), 1..40);
    prop_oneof![Just(Fate::Written), Just(Fate::Killed), sectors.prop_map(Fate::PowerLost)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn one_of_the_envelopes_since_the_last_that_was_acknowledged_holds(
        content in proptest::collection::vec(any::<u8>(), 0..700),
        updates in proptest::collection::vec((0usize..2_500, any_fate()), 1..14),
    ) {
        let volume = tempfile::tempdir().unwrap();
        let mut incoming = Queue::open(volume.path()).unwrap().begin(1).unwrap();
        incoming.write(&content).unwrap();
        let message = incoming.commit(envelope::sample(1)).unwrap();
        let path = volume.path().join(mail_name(&message.id));
        // What a loss of power leaves; what the file shows until then.
        let mut disk = fs::read(&path).unwrap();
        let mut possible = vec![message.clone()];
        for (number, (length, fate)) in updates.into_iter().enumerate() {
            let next = Envelope { envid: Some(format!("{number} {}", "x".repeat(length))), ..message.clone() };
            if let Fate::Written = fate {
                Queue::open(volume.path()).unwrap().update(&next).unwrap();
                disk = fs::read(&path).unwrap();
                possible = vec![next];
            } else {
                let mail = Mail::read(&message.id, &File::open(&path).unwrap()).unwrap();
                let json = next.encode().unwrap();
                let place = mail.place(json.len());
                let mut shown = fs::read(&path).unwrap();
                if place.sync_first {
                    disk.clone_from(&shown);
                }
                let (record, at) = (record(mail.next_number(), &json), usize::try_from(place.at).unwrap());
                shown.resize(shown.len().max(at + record.len()), 0);
                shown[at..at + record.len()].copy_from_slice(&record);
                if let Fate::PowerLost(sectors) = fate {
                    let mut lost = disk.clone();
                    lost.resize(shown.len(), 0);
                    for (from, kept) in (0..shown.len()).step_by(SECTOR).zip(sectors.iter().cycle()) {
                        let until = (from + SECTOR).min(shown.len());
                        if *kept {
                            lost[from..until].copy_from_slice(&shown[from..until]);
                        }
                    }
                    disk.clone_from(&lost);
                    shown = lost;
                }
                fs::write(&path, shown).unwrap();
                possible.push(next);
            }
            let (scan, contents) = scan(volume.path());
            prop_assert!(scan.quarantined.is_empty(), "{:?}", scan.quarantined);
            prop_assert_eq!(scan.messages.len(), 1);
            prop_assert!(possible.contains(&scan.messages[0]));
            prop_assert_eq!(&contents[0], &content);
        }
    }
}
