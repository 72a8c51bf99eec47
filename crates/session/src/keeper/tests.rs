use super::*;
use crate::{Outcome, Record, SessionEnd, SessionId, StoreError};

struct Nowhere;

impl SessionStore for Nowhere {
    async fn write(&mut self, _: &Bundle) -> Result<(), StoreError> {
        Ok(())
    }

    async fn prune(&mut self, _: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
}

fn keeper(directory: &tempfile::TempDir) -> Keeper {
    let settings = RecorderSettings::new(directory.path());
    let spool = Spool::new(settings.spool.clone(), settings.spool_bytes);
    Keeper::new(Nowhere, spool, settings, watch::Sender::default())
}

#[tokio::test]
async fn whoever_has_to_wait_sleeps() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keeper, now) = (keeper(&directory), Instant::now());
    let long = Duration::from_millis(500);
    // Neither the store nor the spool file takes what is due.
    let end = Record::End(SessionEnd { at_us: 0, outcome: Outcome::Unused, bytes: 0 });
    keeper.pending = Bundle::of([(SessionId::new(), end)]);
    keeper.oldest = Some(now - long);
    keeper.pause = Some((now + 10 * long, 10 * long));
    assert!(keeper.wake() >= now + long);
    // A pause is over, and there is nothing to do.
    (keeper.pending, keeper.oldest, keeper.pause) = (Bundle::default(), None, Some((now - long, long)));
    assert!(keeper.wake() >= now + long);
}

#[tokio::test]
async fn whoever_has_nothing_to_do_keeps_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keeper, desk) = (keeper(&directory), Desk::new(1 << 20));
    let end = || Record::End(SessionEnd { at_us: 0, outcome: Outcome::Unused, bytes: 0 });
    let frame = Bundle::of([(SessionId::new(), end())]);
    desk.put(frame.bytes(), 1);
    let mut empty = keeper.take(desk.pick_up(Bundle::default()));
    keeper.rest(&mut empty, &desk);
    assert_eq!(keeper.pending.records(), 1, "there is something to do");
    assert!(empty.capacity() > 0);
    keeper.pending.clear();
    desk.put(frame.bytes(), 1);
    keeper.rest(&mut empty, &desk);
    assert_eq!((keeper.pending.capacity(), empty.capacity()), (0, 0));
    let lying = desk.pick_up(Bundle::default()).bundle;
    assert_eq!(lying.records(), 1, "what has come stays");
    let room = || {
        let mut room = frame.clone();
        room.clear();
        room
    };
    desk.pick_up(room());
    empty = room();
    keeper.rest(&mut empty, &desk);
    assert_eq!(desk.pick_up(Bundle::default()).bundle.capacity(), 0);
}
