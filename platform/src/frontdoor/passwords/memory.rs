//! What checks compute in: 19 MiB each, kept for a moment after a check.
//!
//! ```text
//!   check ──▶ take ──▶ compute ──▶ put back ──▶ the next check
//!                                     └─ nobody for KEPT ──▶ the system's
//! ```
//! Memory that is fresh from the system comes page by page, and half of a check went into that: 27 ms of a processor instead of 14. What a check left
//! behind says nothing that its hash does not say; but it lets guesses at that password be tried faster, for whoever can read it, so it is
//! kept no longer than it is of use. There is never more of it than checks were made at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, PasswordHash},
};

/// So long without a check, and it goes back to the system.
const KEPT: Duration = Duration::from_secs(2);

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

    /// Unusual costs get memory of their own, and keep none.
    fn is_usual(&self) -> bool {
        self.0.capacity() <= BLOCKS
    }
}

/// Memory that no check computes in at present.
#[derive(Default)]
pub struct Kept(Mutex<Spare>);

impl Kept {
    /// What was used last, or none yet.
    pub fn take(&self) -> Memory {
        self.spare().take()
    }

    /// For the next check, if it comes soon. Called within a runtime.
    pub fn put_back(self: &Arc<Self>, memory: Memory) {
        if self.spare().put_back(memory, Instant::now()) {
            let kept = Arc::clone(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(KEPT).await;
                    // Unmapping takes its time, so the lock is given back before.
                    let (unused, over) = kept.spare().expire(Instant::now());
                    drop(unused);
                    if over {
                        return;
                    }
                }
            });
        }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pure.
#[derive(Default)]
struct Spare {
    /// With the time when it was put back, the last one behind the others.
    free: Vec<(Memory, Instant)>,
    /// Somebody calls `expire`.
    looked_after: bool,
}

impl Spare {
    fn take(&mut self) -> Memory {
        self.free.pop().map(|(memory, _)| memory).unwrap_or_default()
    }

    /// Whether somebody must call `expire` from now on.
    fn put_back(&mut self, memory: Memory, now: Instant) -> bool {
        if memory.is_usual() {
            self.free.push((memory, now));
        }
        let nobody = !self.looked_after && !self.free.is_empty();
        self.looked_after |= nobody;
        nobody
    }

    /// What nobody wanted for long, and whether nothing is left: then nobody has to call this until `put_back` says so.
    fn expire(&mut self, now: Instant) -> (Vec<Memory>, bool) {
        let unused = self.free.extract_if(.., |(_, since)| now.saturating_duration_since(*since) >= KEPT);
        let unused = unused.map(|(memory, _)| memory).collect();
        self.looked_after = !self.free.is_empty();
        (unused, !self.looked_after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Claim, Party, Verifier};
    use super::*;
    use argon2::{PasswordHasher, PasswordVerifier};

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

    fn used(blocks: usize) -> Memory {
        let mut memory = Memory::default();
        memory.blocks(blocks);
        memory
    }

    #[tokio::test]
    async fn a_check_leaves_its_memory_to_the_next() {
        let (verifier, text) = (Verifier::new(), hash_of(b"secret", 64, 1, 1));
        let party = Party { tenant: None, network: std::net::IpAddr::from([192, 0, 2, 1]) };
        for password in [&b"secret"[..], b"wrong", b"secret"] {
            let claim = Claim { login: "alice@acme.example", hash: Some(&text), neighbour: None, party: &party };
            verifier.verify(claim, password.to_vec().into(), Duration::ZERO).await.unwrap();
            let spare = verifier.memory.spare();
            assert_eq!((spare.free.len(), spare.looked_after), (1, true));
        }
    }

    #[test]
    fn the_next_check_takes_what_the_last_has_left() {
        let (mut spare, now) = (Spare::default(), Instant::now());
        assert_eq!(spare.take().0.len(), 0);
        assert!(spare.put_back(used(8), now), "from now on somebody looks");
        assert!(!spare.put_back(used(16), now), "one is enough");
        assert_eq!((spare.take().0.len(), spare.take().0.len(), spare.take().0.len()), (16, 8, 0));
    }

    #[test]
    fn what_nobody_wants_goes_back() {
        let (mut spare, now) = (Spare::default(), Instant::now());
        let moment = Duration::from_millis(1);
        spare.put_back(used(8), now);
        spare.put_back(used(16), now + moment);
        assert!(matches!(spare.expire(now + KEPT - moment), (gone, false) if gone.is_empty()));
        assert!(matches!(&*spare.expire(now + KEPT).0, [gone] if gone.0.len() == 8));
        assert!(matches!(spare.expire(now + KEPT + moment), (gone, true) if gone.len() == 1));
        assert!(spare.put_back(used(8), now), "and again");
    }

    #[test]
    fn memory_of_an_unusual_size_is_not_kept() {
        let (mut spare, now) = (Spare::default(), Instant::now());
        assert!(!spare.put_back(used(BLOCKS + 1), now));
        assert!(spare.free.is_empty());
    }
}
