//! Who spoke against a sender, and how much of it is believed.
//!
//! Operators are told apart by [`DRAWERS`] drawers that their names fall into, so that what is remembered does not grow with their number. Two operators in one
//! drawer share what is believed of either: chosen names cannot make anybody be believed more than by having as many domains.

use serde::{Deserialize, Serialize};

use super::Operator;
use super::clock::{Now, Tick};
use super::sender::{Count, HALF_LIFE, Word};

/// Drawers. A power of two.
const DRAWERS: u64 = 32;
/// Unknown recipients and spam that one operator is believed: enough for quarantine, and no more.
pub(super) const EACH: (f64, f64) = (8.0, 4.0);
/// So many times that for a big provider: a stranger cannot put words into its mouth.
pub(super) const PROVIDER: f64 = 20.0;
/// What a word is worth still when its operator is counted for the last time: two half-lives.
const FADED: f64 = 0.25;

/// Those who spoke against a sender.
#[derive(Debug, Clone, Default)]
pub(super) struct Witnesses(Vec<Drawer>);

#[derive(Debug, Clone, Copy)]
struct Drawer {
    number: u8,
    unknown: Count,
    spam: Count,
}

/// A drawer, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredWitness(u8, (u64, i64), (u64, i64));

impl Witnesses {
    /// Whether a bad word counts; if so, it has been counted here.
    pub(super) fn believe(&mut self, operator: &Operator, word: Word, now: Tick) -> bool {
        self.0.retain(|drawer| drawer.speaks(now));
        let number = number(operator);
        let place = self.0.iter().position(|drawer| drawer.number == number).unwrap_or_else(|| {
            let none = Count::default();
            self.0.push(Drawer { number, unknown: none, spam: none });
            self.0.len() - 1
        });
        let drawer = &mut self.0[place];
        let (said, each) = match word {
            Word::Unknown => (&mut drawer.unknown, EACH.0),
            Word::Spam => (&mut drawer.spam, EACH.1),
            Word::Known | Word::Welcome => return true,
        };
        let most = if operator.is_big_provider() { each * PROVIDER } else { each };
        let believed = said.now(HALF_LIFE, now) + 1.0 <= most;
        if believed {
            said.add(HALF_LIFE, now);
        }
        believed
    }

    /// How many operators speak against the sender, at least.
    pub(super) fn count(&self, now: Tick) -> usize {
        self.0.iter().filter(|drawer| drawer.speaks(now)).count()
    }

    pub(super) fn stored(&self, now: Now) -> Vec<StoredWitness> {
        let stored =
            |drawer: &Drawer| StoredWitness(drawer.number, drawer.unknown.stored(now), drawer.spam.stored(now));
        self.0.iter().map(stored).collect()
    }

    pub(super) fn restored(stored: &[StoredWitness], now: Now) -> Self {
        let mut drawers: Vec<Drawer> = Vec::new();
        for StoredWitness(number, unknown, spam) in stored.iter().copied() {
            if u64::from(number) < DRAWERS && drawers.iter().all(|known| known.number != number) {
                let (unknown, spam) = (Count::restored(unknown, now), Count::restored(spam, now));
                drawers.push(Drawer { number, unknown, spam });
            }
        }
        Self(drawers)
    }
}

impl Drawer {
    fn speaks(&self, now: Tick) -> bool {
        self.unknown.now(HALF_LIFE, now) + self.spam.now(HALF_LIFE, now) >= FADED
    }
}

/// The drawer of an operator: FNV-1a, the same after a restart.
fn number(operator: &Operator) -> u8 {
    let hash = operator
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    u8::try_from((hash ^ (hash >> 32)) % DRAWERS).unwrap_or_default()
}
