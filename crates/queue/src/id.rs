//! The queue id: names a message in the queue, in replies and in logs.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// A queue id: 1 to 32 of `[0-9a-z]`, so that it is always a harmless file name. Ids made by [`crate::Queue`] sort by when the
/// message's file was made, which may be long before it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(String);

/// The text was not a queue id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a queue id is 1 to 32 of a-z and 0-9")]
pub struct InvalidMessageId;

/// Crockford's alphabet: no letters that read like digits or like each other.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl MessageId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes the id of the `serial`-th file of a process that made it at `now_ms`. Unique together with a look at the directory.
    pub(crate) fn make(now_ms: u64, serial: u64) -> Self {
        let mut text = String::with_capacity(14);
        push_base32(&mut text, now_ms, 10);
        push_base32(&mut text, serial, 4);
        Self(text)
    }

    /// A number that depends on the id alone, to spread what would otherwise happen at once.
    #[must_use]
    pub fn seed(&self) -> u64 {
        // FNV-1a: stable across versions, unlike the standard library's hashers.
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn push_base32(text: &mut String, value: u64, digits: u32) {
    for digit in (0..digits).rev() {
        let index = (value >> (5 * digit)) & 31;
        text.push(char::from(ALPHABET[index as usize]));
    }
}

impl TryFrom<String> for MessageId {
    type Error = InvalidMessageId;

    fn try_from(text: String) -> Result<Self, InvalidMessageId> {
        let harmless = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        if harmless && (1..=32).contains(&text.len()) { Ok(Self(text)) } else { Err(InvalidMessageId) }
    }
}

impl std::str::FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        Self::try_from(text.to_owned())
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_a_path() {
        for text in ["", "..", "a/b", "A", "a.b", "${x}", "a\0", &"a".repeat(33)] {
            assert!(text.parse::<MessageId>().is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<MessageId>("\"../x\"").is_err());
    }

    #[test]
    fn sorts_by_time() {
        let ids = [
            MessageId::make(1_000, 9),
            MessageId::make(1_001, 0),
            MessageId::make(1_001, 1),
            MessageId::make(1_790_000_000_000, 0),
        ];
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.as_str().parse::<MessageId>().as_ref() == Ok(id)));
    }
}
