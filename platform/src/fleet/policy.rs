//! The numbers of the fleet, each beside its reason.

use std::time::Duration;

/// What bounds the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Starts in flight. The launcher is one thread; more than its pool of slots only queues there instead of here.
    pub parallel_starts: usize,
    /// Containers alive. Each costs the platform four descriptors, of which a process may have 20,000.
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
            awake: 4500,
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

impl Policy {
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
