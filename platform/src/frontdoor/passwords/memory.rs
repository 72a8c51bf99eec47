//! What a check computes in: 19 MiB, used again by the next one.
//!
//! Memory that is fresh from the system comes page by page, and half of a check went into that: 27 ms of a processor instead of 14. What a check left
//! behind says nothing that its hash does not say; but it lets guesses at that password be tried faster, for whoever can read it, so it is
//! kept no longer than it is of use (`desks`).

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, PasswordHash},
};

/// Of a size that the C library maps by itself, always, and so unmaps when it is freed: above 32 MiB. It keeps what is smaller once it has freed
/// something of that size. Pages that are never written take nothing.
const BLOCKS: usize = (33 << 20) / Block::SIZE;

/// What one check computes in.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    /// Whether this is the password of that hash: computes it anew, with its salt and its cost. `false` also for a hash that nobody can compute.
    pub fn matches(&mut self, password: &[u8], hash: &PasswordHash) -> bool {
        // The comparison takes the same time wherever they differ: `Output` promises that.
        hash.hash.as_ref().is_some_and(|known| self.compute(password, hash).as_ref() == Some(known))
    }

    fn compute(&mut self, password: &[u8], hash: &PasswordHash) -> Option<Output> {
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(hash).ok()?;
        let mut buffer = [0; Output::MAX_LENGTH];
        let out = buffer.get_mut(..params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN))?;
        let blocks = self.blocks(params.block_count());
        Argon2::new(algorithm, version, params)
            .hash_password_into_with_memory(password, hash.salt.as_ref()?, out, blocks)
            .ok()?;
        Output::new(out).ok()
    }

    /// As many, whatever stands in them.
    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.0.capacity() < count {
            self.0 = Vec::with_capacity(count.max(BLOCKS));
        }
        if self.0.len() < count {
            self.0.resize(count, Block::new());
        }
        &mut self.0[..count]
    }

    /// Whether it is worth to be kept: unusual costs keep none.
    pub fn is_usual(&self) -> bool {
        self.0.capacity() <= BLOCKS
    }

    /// Whether nothing was computed in it yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::{PasswordHasher, PasswordVerifier};

    impl Memory {
        /// More than is kept.
        pub const UNUSUAL: usize = BLOCKS + 1;

        pub fn len(&self) -> usize {
            self.0.len()
        }

        /// Answers how much it was before.
        pub fn use_blocks(&mut self, count: usize) -> usize {
            let before = self.0.len();
            self.blocks(count);
            before
        }
    }

    fn hash_of(password: &[u8], memory_kib: u32, passes: u32, lanes: u32) -> String {
        let params = Params::new(memory_kib, passes, lanes, None).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password).unwrap().to_string()
    }

    /// What the library says with memory of its own, whatever was computed in ours before.
    #[test]
    fn any_cost_in_the_same_memory() {
        let mut memory = Memory::default();
        for (memory_kib, passes, lanes) in
            [(64, 3, 1), (1_024, 1, 2), (64, 1, 1), (8, 1, 1), (40_000, 1, 1), (64, 3, 4)]
        {
            let text = hash_of(b"secret", memory_kib, passes, lanes);
            let hash = PasswordHash::new(&text).unwrap();
            for password in [&b"secret"[..], b"Secret", b""] {
                let wanted = Argon2::default().verify_password(password, &hash).is_ok();
                assert_eq!(memory.matches(password, &hash), wanted, "{text}");
            }
        }
    }

    #[test]
    fn what_cannot_be_computed_matches_nothing() {
        let mut memory = Memory::default();
        let text = hash_of(b"secret", 64, 1, 1);
        assert!(memory.matches(b"secret", &PasswordHash::new(&text).unwrap()));
        for (part, other) in [("argon2id", "scrypt"), ("v=19", "v=17"), ("p=1", "p=0"), ("m=64", "m=4")] {
            let text = text.replace(part, other);
            assert!(!memory.matches(b"secret", &PasswordHash::new(&text).unwrap()), "{text}");
        }
        let without = text.rsplit_once('$').unwrap().0;
        assert!(!memory.matches(b"secret", &PasswordHash::new(without).unwrap()));
    }
}
