//! The numbers of the fleet, each beside its reason.

use std::time::Duration;

use warren_config::defaults::CONNECTIONS;

/// What a tenant that is awake costs the platform: its pidfd, its control channel, and the sockets that are kept for its next clients.
const DESCRIPTORS_OF_A_TENANT: usize = 2 + super::cells::SPARE;
/// What a client costs it: its own connection, and the one to its MSA.
const DESCRIPTORS_OF_A_CLIENT: usize = 2;
/// What the platform itself has open (listeners, log, store, connections to its own socket, scrapers), and what starts under way cost beyond a
/// tenant's: at most an eighth of all.
const OWN_DESCRIPTORS: usize = 512;
/// The customary hard limit.
const USUAL_DESCRIPTORS: usize = 20_000;
/// What a tenant that is awake and does little takes of the machine's memory, in bytes, everything counted: 1.1 MiB, and some to spare.
const MEMORY_OF_A_TENANT: u64 = 3 << 19;

/// What bounds the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Starts in flight. The launcher is one thread; more than its pool of slots only queues there instead of here.
    pub parallel_starts: usize,
    /// Containers alive: as many as there are descriptors and memory for. See [`Policy::within`].
    pub awake: usize,
    /// Waiters of one tenant: the patience of its clients is not the node's memory.
    pub waiters_per_tenant: usize,
    /// Waiters of all tenants.
    pub waiters: usize,
    /// Wait after the first failed start. Small, because the most common failure is one killed process.
    pub backoff_first: Duration,
    /// The longest wait after failed starts: what an operator repaired works within it.
    pub backoff_max: Duration,
    /// How long a tenant must have lived for its crash to count as its first.
    pub sound_life: Duration,
    /// How long an MSA that said it goes may take to be gone.
    pub farewell: Duration,
    /// How long an MSA that was asked to go may finish its sessions.
    pub drain: Duration,
    /// The shortest sleep before deferred mail: an MSA that always claims to be due costs one start in this time.
    pub nap_min_ms: u64,
    /// The farthest due time that is believed; at worst a tenant is woken for nothing this often.
    pub due_max_ms: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            parallel_starts: 8,
            awake: awake(USUAL_DESCRIPTORS, CONNECTIONS),
            waiters_per_tenant: 100,
            waiters: 5000,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(60),
            sound_life: Duration::from_secs(60),
            farewell: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            nap_min_ms: 500,
            due_max_ms: 7 * 24 * 3600 * 1000,
        }
    }
}

/// How many tenants may be awake with so many descriptors. Clients have half of them at most.
fn awake(descriptors: usize, clients: u32) -> usize {
    let own = OWN_DESCRIPTORS.min(descriptors / 8);
    let clients = usize::try_from(clients).unwrap_or(usize::MAX).saturating_mul(DESCRIPTORS_OF_A_CLIENT);
    ((descriptors - own - clients.min(descriptors / 2)) / DESCRIPTORS_OF_A_TENANT).max(1)
}

impl Policy {
    /// For a platform that may have so many descriptors, serves at most so many clients at once, and runs on a machine with so much memory, in
    /// bytes: those who are awake may have half of it.
    #[must_use]
    pub fn within(descriptors: usize, clients: u32, memory: u64) -> Policy {
        let room = usize::try_from(memory / 2 / MEMORY_OF_A_TENANT).unwrap_or(usize::MAX).max(1);
        Policy { awake: awake(descriptors, clients).min(room), ..Policy::default() }
    }

    /// The wait after so many failures in a row: doubling.
    pub fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_max)
    }

    /// Starts in flight that only deferred mail wants: half, so that after a clock jump or a long outage clients find a place.
    pub fn parallel_mail_starts(&self) -> usize {
        self.parallel_starts.div_ceil(2)
    }

    /// A due time as far as it is believed.
    pub fn clamp_due(&self, due_unix_ms: u64, now_unix_ms: u64) -> u64 {
        due_unix_ms.clamp(now_unix_ms.saturating_add(self.nap_min_ms), now_unix_ms.saturating_add(self.due_max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_customary_limit_of_descriptors_is_enough_for_five_thousand() {
        let policy = Policy::within(20_000, CONNECTIONS, 24 << 30);
        assert!(policy.awake >= 5_000, "{}", policy.awake);
        let all = policy.awake * 3 + 2 * CONNECTIONS as usize + OWN_DESCRIPTORS;
        assert!(all <= 20_000, "{all}: the last one would have no descriptors");
    }

    #[test]
    fn few_descriptors_are_shared_with_clients() {
        assert_eq!(Policy::within(1_024, CONNECTIONS, u64::MAX).awake, 128);
        assert_eq!(Policy::within(0, CONNECTIONS, u64::MAX).awake, 1);
        assert!(Policy::within(usize::MAX, u32::MAX, u64::MAX).awake > 1 << 40);
    }

    #[test]
    fn little_memory_bounds_them_too() {
        assert_eq!(Policy::within(524_288, CONNECTIONS, 6 << 30).awake, 2_048);
        assert_eq!(Policy::within(524_288, CONNECTIONS, 0).awake, 1);
    }
}
