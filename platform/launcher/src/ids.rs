//! Who is who in numbers: user ids on disk and in slots, and cells.
//!
//! ```text
//! 0x7000_0000 ─ disk ranges, one per volume, for good ─ 0x7c00_0000 ─ slot ranges, recycled ─ 0x7fff_ffff
//! ```
//! Both lie in the part of the id space that distributions and systemd leave unused, and below the sign bit that old tools trip over.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use warren_launcher_api::CellId;

/// Ids per range: root, the MSA's user and room for images with several users.
pub const RANGE: u32 = 1024;
const DISK_FIRST: u32 = 0x7000_0000;
const SLOT_FIRST: u32 = 0x7c00_0000;
const SLOT_END: u32 = 0x8000_0000;
/// Volumes that have a range.
pub const VOLUMES: u32 = (SLOT_FIRST - DISK_FIRST) / RANGE;
/// Cell numbers reserved in one write.
const RESERVE: u64 = 1000;

/// First id of a volume's range on disk.
pub fn disk_base(volume: u32) -> u32 {
    DISK_FIRST + volume * RANGE
}

/// The slot ranges in use.
#[derive(Debug, Default)]
pub struct SlotRanges {
    used: BTreeSet<u32>,
    next: u32,
}

impl SlotRanges {
    /// The base of a free range, now in use. Round robin, so that a range rests as long as possible before its next use.
    pub fn take(&mut self) -> Option<u32> {
        let count = (SLOT_END - SLOT_FIRST) / RANGE;
        let free = (0..count)
            .map(|step| SLOT_FIRST + (self.next + step) % count * RANGE)
            .find(|base| !self.used.contains(base))?;
        self.next = (free - SLOT_FIRST) / RANGE + 1;
        self.used.insert(free);
        Some(free)
    }

    /// Marks the range of an adopted container.
    pub fn adopt(&mut self, base: u32) {
        self.used.insert(base);
    }

    /// All processes of the range are gone.
    pub fn give_back(&mut self, base: u32) {
        self.used.remove(&base);
    }
}

/// Gives every cell a number that no cell had before in this run directory, across restarts.
#[derive(Debug)]
pub struct CellNumbers {
    file: PathBuf,
    next: u64,
    reserved: u64,
}

impl CellNumbers {
    /// Continues from the file in `run`, or begins at 1.
    pub fn open(run: &Path) -> io::Result<CellNumbers> {
        let file = run.join("next-cell");
        let next = match fs::read_to_string(&file) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", file.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
            Err(error) => return Err(error),
        };
        let mut numbers = CellNumbers { file, next, reserved: next };
        numbers.reserve()?;
        Ok(numbers)
    }

    /// A number that is higher in every life of the launcher than in the one before.
    pub fn life(&self) -> u32 {
        (self.reserved / RESERVE) as u32
    }

    fn reserve(&mut self) -> io::Result<()> {
        let written = self.file.with_extension("new");
        fs::write(&written, format!("{}\n", self.reserved + RESERVE))?;
        fs::rename(&written, &self.file)?;
        self.reserved += RESERVE;
        Ok(())
    }

    /// The next one.
    pub fn take(&mut self) -> io::Result<CellId> {
        if self.next == self.reserved {
            self.reserve()?;
        }
        self.next += 1;
        Ok(CellId(self.next - 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_are_never_numbered_twice() {
        let run = tempfile::tempdir().unwrap();
        let mut numbers = CellNumbers::open(run.path()).unwrap();
        let first: Vec<u64> = (0..RESERVE + 1).map(|_| numbers.take().unwrap().0).collect();
        assert_eq!((first[0], first[RESERVE as usize]), (1, RESERVE + 1));
        let mut later = CellNumbers::open(run.path()).unwrap();
        assert!(later.take().unwrap().0 > RESERVE + 1);
        assert!(later.life() > numbers.life());
        // Also if no cell was made in between.
        assert!(CellNumbers::open(run.path()).unwrap().life() > later.life());
    }

    #[test]
    fn a_range_is_used_once_at_a_time() {
        let mut ranges = SlotRanges::default();
        let (one, two) = (ranges.take().unwrap(), ranges.take().unwrap());
        assert_ne!(one, two);
        ranges.give_back(one);
        assert_ne!(ranges.take().unwrap(), one, "it rests");
        let all = std::iter::from_fn(|| ranges.take()).count();
        assert_eq!(all, 65536 - 2);
        ranges.give_back(two);
        assert_eq!(ranges.take(), Some(two));
    }

    proptest! {
        /// Whatever is taken, given back and adopted, in whatever order: no two that are in use share an id, nor one with a volume.
        #[test]
        fn ranges_in_use_never_overlap(steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..300)) {
            let mut ranges = SlotRanges::default();
            let mut used: Vec<u32> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 if !used.is_empty() => {
                        let base = used.swap_remove(which.index(used.len()));
                        ranges.give_back(base);
                    }
                    1 => {
                        // What a launcher before this one had given.
                        let base = SLOT_FIRST + which.index(((SLOT_END - SLOT_FIRST) / RANGE) as usize) as u32 * RANGE;
                        if !used.contains(&base) {
                            ranges.adopt(base);
                            used.push(base);
                        }
                    }
                    _ => used.extend(ranges.take()),
                }
                let mut sorted = used.clone();
                sorted.sort_unstable();
                prop_assert!(sorted.windows(2).all(|pair| pair[0] + RANGE <= pair[1]), "{sorted:x?}");
                prop_assert!(sorted.iter().all(|base| *base >= SLOT_FIRST && base + RANGE <= SLOT_END));
                prop_assert!(sorted.iter().all(|base| disk_base(VOLUMES - 1) + RANGE <= *base));
            }
        }

        /// Volumes have ranges of their own for ever.
        #[test]
        fn volumes_never_share_an_id(one in 0..VOLUMES, other in 0..VOLUMES) {
            prop_assume!(one != other);
            prop_assert!(disk_base(one).abs_diff(disk_base(other)) >= RANGE);
        }
    }

    #[test]
    fn disk_and_slot_ranges_do_not_meet() {
        assert!(disk_base(VOLUMES - 1) + RANGE <= SLOT_FIRST);
    }
}
