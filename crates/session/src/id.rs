//! Session ids: sixteen characters that sort by time and can be typed.
//!
//! 51 bits of microseconds since 2020 (until 2091), then 29 random bits, in Crockford's base 32 in lower case: no `i`, `l`,
//! `o` or `u`, and what is read aloud or typed as `O`, `I` or `L` is understood. Two proxies that begin 100 sessions a
//! second each would have to run for more than a thousand years to make the same id twice.

use std::{
    cell::RefCell,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// 2020-01-01T00:00:00Z in seconds of Unix time.
const EPOCH_S: u64 = 1_577_836_800;
const RANDOM_BITS: u32 = 29;
const TIME_BITS: u32 = 51;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an id: 80 bits, five each.
pub const LENGTH: usize = 16;
/// The same in bytes.
pub(crate) const BYTES: usize = 10;

/// The kernel is asked for the randomness of so many ids at once.
const IDS_AT_ONCE: usize = 64;

thread_local! {
    static RANDOM: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

fn random() -> u32 {
    RANDOM.with_borrow_mut(|left| {
        let mut bytes = [0; 4 * IDS_AT_ONCE];
        if left.is_empty() && getrandom::fill(&mut bytes).is_ok() {
            left.extend(bytes.as_chunks().0.iter().copied().map(u32::from_ne_bytes));
        }
        left.pop().unwrap_or_default()
    })
}

/// Names one session with an MX, in the logs, in the store, and to people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SessionId(u128);

impl SessionId {
    /// A new id for a session that begins now.
    #[must_use]
    pub fn new() -> Self {
        // Without randomness the microsecond alone still tells the sessions of one proxy apart.
        let random = random();
        Self::at(SystemTime::now(), random)
    }

    /// The id of a session that began at `time`; of `random` the lowest 29 bits count.
    #[must_use]
    pub fn at(time: SystemTime, random: u32) -> Self {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S);
        let micros = time.duration_since(epoch).unwrap_or_default().as_micros().min((1 << TIME_BITS) - 1);
        Self(micros << RANDOM_BITS | u128::from(random & ((1 << RANDOM_BITS) - 1)))
    }

    /// The smallest id that a session begun at `time` can have.
    #[must_use]
    pub fn floor(time: SystemTime) -> Self {
        Self::at(time, 0)
    }

    /// The id in ten bytes that sort by time.
    pub(crate) fn to_bytes(self) -> [u8; BYTES] {
        let [_, _, _, _, _, _, bytes @ ..] = self.0.to_be_bytes();
        bytes
    }

    /// The id that has these bytes.
    pub(crate) fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let mut value = [0; 16];
        value[16 - BYTES..].copy_from_slice(&bytes);
        Self(u128::from_be_bytes(value))
    }

    /// When the session began.
    #[must_use]
    pub fn time(self) -> SystemTime {
        let micros = u64::try_from(self.0 >> RANDOM_BITS).expect("51 bits remain");
        SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S) + Duration::from_micros(micros)
    }
}

impl Default for SessionId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; LENGTH];
        for (place, character) in text.iter_mut().rev().enumerate() {
            let digit = (self.0 >> (5 * place)) & 31;
            *character = ALPHABET[usize::try_from(digit).expect("five bits")];
        }
        f.pad(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no session id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: expected {LENGTH} characters of 0-9 and a-z without i, l, o, u")]
pub struct NotAnId;

impl FromStr for SessionId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != LENGTH {
            return Err(NotAnId);
        }
        let value = text.bytes().try_fold(0u128, |value, byte| Some(value << 5 | u128::from(digit(byte)?)));
        value.map(Self).ok_or(NotAnId)
    }
}

/// `text` as an id would spell it, capitals and look-alikes resolved; none if it has other characters.
pub(crate) fn canonical(text: &str) -> Option<String> {
    text.bytes().map(|byte| digit(byte).map(|digit| char::from(ALPHABET[usize::from(digit)]))).collect()
}

/// What one typed character stands for, look-alikes included.
fn digit(byte: u8) -> Option<u8> {
    let byte = match byte.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    let place = ALPHABET.iter().position(|&c| c == byte)?;
    u8::try_from(place).ok()
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for SessionId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn ids_sort_by_time_as_values_and_as_text() {
        let early = SessionId::at(moment(1_700_000_000_000_000), u32::MAX);
        let late = SessionId::at(moment(1_700_000_000_000_001), 0);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn an_id_survives_its_text_and_tells_its_time() {
        let id = SessionId::at(moment(1_795_298_400_123_456), 0x1234_5678);
        assert_eq!(id.to_string().len(), LENGTH);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.time(), moment(1_795_298_400_123_456));
        assert_eq!(SessionId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn look_alikes_and_capitals_are_understood() {
        let id: SessionId = "0123456789abcd01".parse().unwrap();
        assert_eq!("OI23456789ABCDoL".parse(), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0123", "0123456789abcd0u", "0123456789abcd012", "0123456789abcd0é", "../../etc/passwd"] {
            assert_eq!(text.parse::<SessionId>(), Err(NotAnId), "{text}");
        }
    }

    #[test]
    fn times_outside_the_range_are_clamped() {
        assert_eq!(SessionId::floor(moment(0)).to_string(), "0000000000000000");
        assert_eq!(SessionId::at(moment(u64::MAX), u32::MAX).to_string(), "zzzzzzzzzzzzzzzz");
    }
}
