//! Where frames wait while the store is away: one file, appended and read in order, the bytes as the sessions wrote them.
//!
//! Not synced: it outlives a killed process, not a power cut. A frame torn by a kill is skipped when read, and so is whatever else is no frame. Once all
//! is read the file is emptied; until then what was read stays in it and would be read again after a restart, which the
//! store takes without harm. A store that is behind for hours never comes to that: then what waits is moved to the front, over what was read.
//!
//! A file that somebody deletes is noticed at the next append, and made anew with all that waits.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use crate::{
    Bundle,
    frame::{FRAME_LIMIT, Found, Frame, HEADER, next_magic},
};

/// Bytes that were read and stay in the file, at most, while little else is in it.
const READ: u64 = 64 << 20;
/// Bytes moved to the front at once.
const PIECE: usize = 256 * 1_024;

/// The spool file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Option<File>,
    limit: u64,
    size: u64,
    read: u64,
    /// What was moved out of the file so far: frames that are on their way to the store are known by their place before that.
    gone: u64,
    /// It was deleted and cannot be made anew: it is gone with this process, or once nothing waits in it.
    doomed: bool,
}

/// Why records could not be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It has reached its bound.
    #[error("the spool file {path} holds its {limit} bytes")]
    Full {
        /// The file.
        path: PathBuf,
        /// Its bound.
        limit: u64,
    },
    /// The file system refuses.
    #[error("cannot {action} the spool file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Frames read back.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order in which they were spooled.
    pub bundle: Bundle,
    /// Stretches of the file that are no frames.
    pub damaged: u64,
    /// Where the next read begins, as if nothing had ever been moved.
    end: u64,
}

impl Spool {
    /// A spool at `path`, of at most `limit` bytes. What an earlier process left there is found and counts.
    #[must_use]
    pub fn new(path: PathBuf, limit: u64) -> Self {
        let size = std::fs::metadata(&path).map(|meta| meta.len()).unwrap_or(0);
        Self { path, file: None, limit, size, read: 0, gone: 0, doomed: false }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read >= self.size
    }

    /// Appends `frames` with one write, all or none.
    pub fn append(&mut self, frames: &[u8]) -> Result<(), SpoolError> {
        self.make_anew_if_deleted();
        if self.is_worth_moving(frames.len() as u64)
            && let Err(error) = self.move_to_front()
        {
            tracing::debug!(%error, "what was loaded stays in the spool file");
        }
        let size = self.size;
        if size + frames.len() as u64 > self.limit {
            return Err(SpoolError::Full { path: self.path.clone(), limit: self.limit });
        }
        let file = self.file()?;
        match file.seek(SeekFrom::Start(size)).and_then(|_| file.write_all(frames)) {
            Ok(()) => {
                self.size += frames.len() as u64;
                Ok(())
            }
            Err(source) => {
                // A disk that filled up in the middle: take back the half. Should that fail too, it will be skipped.
                let _ = file.set_len(size);
                // It may have been replaced meanwhile; the next attempt looks. What waits in one without a name is nowhere else.
                if !self.doomed {
                    self.file = None;
                }
                Err(self.error("append to", source))
            }
        }
    }

    /// The next frames, of some `bytes`, one at least. [`Spool::done`] moves on; without it the same come again.
    pub fn next(&mut self, bytes: usize) -> Result<Loaded, SpoolError> {
        let (size, read) = (self.size, self.read);
        // The largest frame fits in, so there is always one that is whole, or damage.
        let length = (bytes.max(HEADER + FRAME_LIMIT) as u64).min(size.saturating_sub(read));
        let mut buffer = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        let file = self.file()?;
        let result = file.seek(SeekFrom::Start(read)).and_then(|_| file.take(length).read_to_end(&mut buffer));
        result.map_err(|source| self.error("read", source))?;
        let at_end = (buffer.len() as u64) < length || read + length >= size;
        let mut loaded = scan(&buffer, bytes, at_end);
        // Shorter than it was: somebody emptied it.
        let end =
            if (buffer.len() as u64) < length && loaded.end == buffer.len() as u64 { size } else { read + loaded.end };
        loaded.end = self.gone + end;
        Ok(loaded)
    }

    /// What `loaded` holds is in the store now.
    pub fn done(&mut self, loaded: &Loaded) {
        self.read = loaded.end.saturating_sub(self.gone);
        if self.is_empty() {
            match self.file().map(|file| file.set_len(0)) {
                Ok(Ok(())) => {
                    (self.size, self.read) = (0, 0);
                    if std::mem::take(&mut self.doomed) {
                        self.file = None;
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(path = %self.path.display(), %error, "loaded session records stay in the spool file")
                }
                Err(error) => tracing::warn!(%error, "loaded session records stay in the spool file"),
            }
        }
    }

    /// Whether what waits goes over what was read: never more than that, so that a kill in the middle leaves all of it where it was.
    fn is_worth_moving(&self, more: u64) -> bool {
        let waits = self.size.saturating_sub(self.read);
        if self.size + more > self.limit { waits <= self.read } else { self.read >= READ && waits <= self.read / 4 }
    }

    fn move_to_front(&mut self) -> Result<(), SpoolError> {
        let (read, waits) = (self.read, self.size.saturating_sub(self.read));
        let file = self.file()?;
        let moved = copy(file, read, waits, file).and_then(|()| file.set_len(waits));
        moved.map_err(|source| self.error("make room in", source))?;
        (self.size, self.read, self.gone) = (waits, 0, self.gone + read);
        Ok(())
    }

    /// Makes a file in the place of one that has no name any more, with what waits in that.
    fn make_anew_if_deleted(&mut self) {
        let (read, waits) = (self.read, self.size.saturating_sub(self.read));
        let has_no_name = |file: &mut File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if self.doomed {
            return;
        }
        let Some(deleted) = self.file.take_if(has_no_name) else { return };
        let made = match self.file() {
            Ok(file) => copy(&deleted, read, waits, file)
                .and_then(|()| file.set_len(waits))
                .inspect_err(|_| _ = file.set_len(0))
                .map_err(|source| self.error("make anew", source)),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                (self.size, self.read, self.gone) = (waits, 0, self.gone + read);
                tracing::warn!(path = %self.path.display(), "the spool file was deleted, and is there again");
            }
            Err(error) => {
                (self.file, self.doomed) = (Some(deleted), true);
                tracing::error!(%error, "the spool file was deleted: what waits in it is lost if this process ends now");
            }
        }
    }

    fn file(&mut self) -> Result<&mut File, SpoolError> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o640);
            let file = options.open(&self.path).map_err(|source| self.error("open", source))?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("opened above"))
    }

    fn error(&self, action: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io { path: self.path.clone(), action, source }
    }
}

/// Copies so many bytes from there on to the beginning of `to`, which may be the same file.
fn copy(from: &File, mut at: u64, length: u64, to: &File) -> io::Result<()> {
    let (mut piece, mut copied) = (vec![0; PIECE], 0);
    while copied < length {
        let next = usize::try_from(length - copied).unwrap_or(PIECE).min(PIECE);
        from.read_exact_at(&mut piece[..next], at)?;
        to.write_all_at(&piece[..next], copied)?;
        (at, copied) = (at + next as u64, copied + next as u64);
    }
    Ok(())
}

/// The frames at the beginning of `buffer`, of some `bytes`, and what is between them. What goes on behind its end is left to the next read, unless
/// it is the end of all.
fn scan(buffer: &[u8], bytes: usize, at_end: bool) -> Loaded {
    let mut loaded = Loaded::default();
    let (mut at, mut whole) = (0, true);
    while at < buffer.len() && loaded.bundle.len() < bytes {
        match Frame::find(&buffer[at..]) {
            Found::Frame(frame) => {
                loaded.bundle.push_frame(&frame);
                at += frame.len();
                whole = true;
            }
            Found::Cut if !at_end => break,
            Found::Cut | Found::Damage => {
                loaded.damaged += u64::from(std::mem::take(&mut whole));
                at = match next_magic(&buffer[at..]) {
                    Some(next) => at + next,
                    None if at_end => buffer.len(),
                    // A magic may begin in the last bytes.
                    None => (at + 1).max(buffer.len().saturating_sub(3)),
                };
            }
        }
    }
    loaded.end = at as u64;
    loaded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{LegNews, Outcome, Record, SessionEnd, SessionId};

    fn frame(n: u64) -> Bundle {
        let record = Record::End(SessionEnd { at_us: n, outcome: Outcome::Cut, bytes: 0 });
        Bundle::of([(SessionId::floor(std::time::SystemTime::UNIX_EPOCH), record)])
    }

    fn told(bundle: &Bundle) -> Vec<u64> {
        let records = bundle.frames().flat_map(|frame| frame.records());
        records.filter_map(|record| if let Record::End(end) = record { Some(end.at_us) } else { None }).collect()
    }

    /// Everything in the file, so many bytes at a time.
    fn drain(spool: &mut Spool, bytes: usize) -> (Vec<u64>, u64) {
        let (mut all, mut damaged) = (Vec::new(), 0);
        while !spool.is_empty() {
            let loaded = spool.next(bytes).unwrap();
            assert!(loaded.end > spool.gone + spool.read, "it goes on");
            all.extend(told(&loaded.bundle));
            damaged += loaded.damaged;
            spool.done(&loaded);
        }
        (all, damaged)
    }

    proptest! {
        /// A kill in the middle of a write, the next process appends, and so on.
        #[test]
        fn a_torn_tail_is_all_that_is_lost(cuts in prop::collection::vec((1_u64..5, 0_usize..40), 1..6), bytes in 1_usize..300) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("spool");
            let (mut next, mut expected, mut torn) = (0, Vec::new(), 0);
            for (frames, cut) in cuts {
                let mut spool = Spool::new(path.clone(), 1 << 20);
                for _ in 0..frames {
                    spool.append(frame(next).bytes()).unwrap();
                    expected.push(next);
                    next += 1;
                }
                let whole = frame(next);
                let cut = cut.min(whole.len() - 1);
                torn += u64::from(cut > 0);
                let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(&whole.bytes()[..cut]).unwrap();
            }
            let mut spool = Spool::new(path.clone(), 1 << 20);
            prop_assert_eq!(drain(&mut spool, bytes), (expected, torn));
            prop_assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        }

        #[test]
        fn whatever_the_file_holds_it_is_read_to_its_end(junk in prop::collection::vec(any::<u8>(), 0..500), at in 0_usize..500) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("spool");
            let at = at.min(junk.len());
            let content = [&junk[..at], frame(1).bytes(), &junk[at..]].concat();
            std::fs::write(&path, content).unwrap();
            prop_assert_eq!(drain(&mut Spool::new(path, 1 << 20), 1).0, vec![1]);
        }
    }

    #[test]
    fn a_store_that_stays_behind_has_all_of_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let (one, path) = (frame(0).len() as u64, directory.path().join("spool"));
        let mut spool = Spool::new(path.clone(), 10 * one);
        let (mut all, mut under_way) = (Vec::new(), None::<Loaded>);
        for n in 0..1_000 {
            spool.append(frame(n).bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 10 * one);
            if n >= 3 {
                // What is on its way to the store is still there when the next comes.
                if let Some(loaded) = under_way.take() {
                    all.extend(told(&loaded.bundle));
                    spool.done(&loaded);
                }
                under_way = Some(spool.next(1).unwrap());
            }
        }
        all.extend(drain(&mut spool, 1).0);
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
        assert!(spool.is_empty());
    }

    #[test]
    fn a_file_that_is_deleted_is_made_anew_with_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut spool = Spool::new(path.clone(), 1 << 20);
        (0..3).for_each(|n| spool.append(frame(n).bytes()).unwrap());
        let loaded = spool.next(1).unwrap();
        spool.done(&loaded);
        // Some are on their way to the store.
        let under_way = spool.next(1).unwrap();
        std::fs::remove_file(&path).unwrap();
        spool.append(frame(3).bytes()).unwrap();
        assert_eq!(told(&under_way.bundle), [1]);
        spool.done(&under_way);
        drop(spool);
        // The next process finds them: those that were loaded may come again.
        let mut next = Spool::new(path.clone(), 1 << 20);
        assert_eq!(drain(&mut next, 1), (vec![1, 2, 3], 0));
        // With nothing in it, too.
        std::fs::remove_file(&path).unwrap();
        next.append(frame(4).bytes()).unwrap();
        assert_eq!(drain(&mut Spool::new(path, 1 << 20), 1), (vec![4], 0));
    }

    #[test]
    fn what_waits_in_a_deleted_file_that_cannot_be_made_anew_is_loaded_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut spool = Spool::new(path.clone(), 1 << 20);
        spool.append(frame(0).bytes()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        spool.append(frame(1).bytes()).unwrap();
        assert_eq!(drain(&mut spool, 1), (vec![0, 1], 0));
        std::fs::remove_dir(&path).unwrap();
        spool.append(frame(2).bytes()).unwrap();
        assert_eq!(drain(&mut Spool::new(path, 1 << 20), 1), (vec![2], 0));
    }

    #[test]
    fn frames_are_loaded_over_the_edge_of_what_is_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path().join("spool"), 1 << 30);
        let mut many = Bundle::default();
        let id = SessionId::floor(std::time::SystemTime::UNIX_EPOCH);
        for n in 0..5_000 {
            let long = Record::Leg(1, LegNews::Failed(&"x".repeat(900)));
            let end = Record::End(SessionEnd { at_us: n, outcome: Outcome::Cut, bytes: 0 });
            many.append(&mut Bundle::of([(id, long), (id, end)]));
        }
        assert!(many.len() > FRAME_LIMIT);
        spool.append(many.bytes()).unwrap();
        assert_eq!(drain(&mut spool, usize::MAX / 2).0, (0..5_000).collect::<Vec<_>>());
    }
}
