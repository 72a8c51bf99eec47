//! What a session writes on: one small buffer of its own, handed over when it is full, when the session ends, or when it is collected.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Record, SessionId, code, desk::Desk, frame};

/// Handed over from so many bytes on. A session of one mail takes less, and each frame becomes one row of what was said.
const FULL: usize = 3_072;
/// Room for that, and for most records that come last. The allocator has blocks of this size, and nearly nobody else takes them: where sessions were collected
/// they lie together and are given back. Smaller ones would lie between sessions that go on, as holes.
const ROOM: usize = 3_584;

/// The sheet of one session.
#[derive(Debug)]
pub(crate) struct Sheet {
    session: SessionId,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// A frame that is not sealed yet, or nothing.
    frame: Vec<u8>,
    records: u32,
    /// It lies with those that are going to be collected.
    listed: bool,
}

impl Sheet {
    pub(crate) fn new(session: SessionId) -> Arc<Self> {
        Arc::new(Self { session, written: Mutex::default() })
    }

    /// Writes a record down. Whoever collects sheets will see this one, unless it is handed over before.
    pub(crate) fn write(self: &Arc<Self>, record: &Record<'_>, desk: &Desk) {
        let mut written = self.written();
        if written.frame.is_empty() {
            written.frame.reserve(ROOM);
            written.frame.resize(frame::HEADER, 0);
        }
        code::write(&mut written.frame, record);
        written.records += 1;
        if written.frame.len() >= FULL {
            self.put(&mut written, desk);
            written.frame.clear();
        } else if !written.listed {
            written.listed = true;
            desk.list(self);
        }
    }

    /// Hands over what is written, and keeps no room: the session is over.
    pub(crate) fn finish(&self, desk: &Desk) {
        self.give_up(&mut self.written(), desk);
    }

    /// The same, of one that was listed and may go on. Its order is kept: nothing is written meanwhile.
    pub(crate) fn collect(&self, desk: &Desk) {
        let mut written = self.written();
        written.listed = false;
        self.give_up(&mut written, desk);
    }

    fn give_up(&self, written: &mut Written, desk: &Desk) {
        self.put(written, desk);
        written.frame = Vec::new();
    }

    fn put(&self, written: &mut Written, desk: &Desk) {
        let records = std::mem::take(&mut written.records);
        if records > 0 {
            frame::seal(&mut written.frame, self.session, records);
            desk.put(&written.frame, records);
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, Outcome, SessionEnd};

    fn write(sheet: &Arc<Sheet>, desk: &Desk, n: u64) {
        sheet.write(&Record::End(SessionEnd { at_us: n, outcome: Outcome::Unused, bytes: 0 }), desk);
    }

    fn told(bundle: &Bundle) -> Vec<u64> {
        let records = bundle.frames().flat_map(|frame| frame.records());
        records.map(|record| if let Record::End(end) = record { end.at_us } else { panic!("{record:?}") }).collect()
    }

    #[test]
    fn a_session_hands_over_in_order_whoever_asks() {
        let desk = Desk::new(1 << 20);
        let sheet = Sheet::new(SessionId::new());
        let mut all = Bundle::default();
        for n in 0..10_000 {
            write(&sheet, &desk, n);
            if n % 1_234 == 0 {
                desk.collect();
            }
            if n % 777 == 0 {
                all.append(&mut desk.pick_up(Bundle::default()).bundle);
            }
        }
        sheet.finish(&desk);
        all.append(&mut desk.pick_up(Bundle::default()).bundle);
        assert_eq!(told(&all), (0..10_000).collect::<Vec<_>>());
        assert_eq!(all.records(), 10_000);
    }

    #[test]
    fn a_session_that_waits_owns_no_buffer_once_it_was_collected() {
        let desk = Desk::new(1 << 20);
        let sheet = Sheet::new(SessionId::new());
        write(&sheet, &desk, 1);
        assert_eq!(desk.pick_up(Bundle::default()).bundle.records(), 0);
        desk.collect();
        assert_eq!(sheet.written().frame.capacity(), 0);
        assert_eq!(told(&desk.pick_up(Bundle::default()).bundle), [1]);
        write(&sheet, &desk, 2);
        desk.collect();
        assert_eq!(told(&desk.pick_up(Bundle::default()).bundle), [2], "and is listed again");
    }

    #[test]
    fn a_sheet_that_is_full_is_handed_over_at_once() {
        let desk = Desk::new(1 << 20);
        let sheet = Sheet::new(SessionId::new());
        for n in 0..3_000 {
            write(&sheet, &desk, n);
            assert_eq!(sheet.written().frame.capacity(), ROOM, "it never grows");
        }
        let handed = desk.pick_up(Bundle::default()).bundle;
        assert!(handed.frames().all(|frame| (FULL..FULL + 100).contains(&frame.len())));
        assert!(told(&handed).len() > 2_000);
    }
}
