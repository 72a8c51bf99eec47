//! The platform's socket: what the receiver and the command line may ask.
//!
//! Packets on `$run/platform.sock`; who may ask is judged by the peer's uid. Every request carries a tag, and every request
//! gets exactly one reply with that tag; replies may come in another order than the requests.

use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, RELAY_PORT, SUBMISSION_PORT, TenantName};

/// A question for the platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiRequest {
    /// What becomes of mail to this address? For the receiver, at RCPT.
    Recipient {
        /// Returned in the reply.
        tag: u64,
        /// `local@domain` as in the forward-path, without angle brackets.
        address: String,
    },
    /// A connection into a tenant's MSA, which is woken for it.
    Connect {
        /// Returned in the reply.
        tag: u64,
        /// Whose MSA.
        tenant: TenantName,
        /// Which entrance.
        entrance: Entrance,
        /// The cell of a [`ApiReply::Connected`] that ended before its banner.
        #[serde(default)]
        stale: Option<CellId>,
    },
    /// The tenants, by name, a page at a time.
    Tenants {
        /// Returned in the reply.
        tag: u64,
        /// The last name of the page before.
        #[serde(default)]
        after: Option<TenantName>,
    },
    /// How the node is.
    Status {
        /// Returned in the reply.
        tag: u64,
    },
    /// Wake a tenant, and answer when its container runs.
    Wake {
        /// Returned in the reply.
        tag: u64,
        /// Whom.
        tenant: TenantName,
    },
    /// Let a tenant finish what it does and put it to sleep; answered when it sleeps.
    Sleep {
        /// Returned in the reply.
        tag: u64,
        /// Whom.
        tenant: TenantName,
    },
}

/// An entrance of an MSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entrance {
    /// 127.0.0.1:587 in the cell: RFC 6409. Only the front door connects here.
    Submission,
    /// 127.0.0.1:24 in the cell: forwarded mail, which must stay whole.
    Relay,
}

impl Entrance {
    /// The port on the cell's 127.0.0.1.
    pub fn port(self) -> u16 {
        match self {
            Entrance::Submission => SUBMISSION_PORT,
            Entrance::Relay => RELAY_PORT,
        }
    }
}

/// An answer of the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ApiReply {
    /// To [`ApiRequest::Recipient`].
    Recipient {
        /// The request's.
        tag: u64,
        /// What becomes of the mail.
        verdict: Verdict,
    },
    /// To [`ApiRequest::Connect`]: one descriptor comes along, a connected TCP socket on which nothing was said yet. The MSA
    /// may be falling asleep: who sees the end of the stream before a banner asks once more, and names this cell as `stale`.
    Connected {
        /// The request's.
        tag: u64,
        /// Where the connection leads.
        cell: CellId,
    },
    /// It cannot be done now: the mail is put off with a 4xx.
    Unavailable {
        /// The request's.
        tag: u64,
        /// For the log, not for the peer.
        reason: String,
    },
    /// To [`ApiRequest::Tenants`].
    Tenants {
        /// The request's.
        tag: u64,
        /// One page, sorted by name.
        tenants: Vec<TenantInfo>,
        /// Whether another page follows.
        more: bool,
    },
    /// To [`ApiRequest::Status`].
    Status {
        /// The request's.
        tag: u64,
        /// How the node is.
        status: Box<Status>,
    },
    /// To [`ApiRequest::Wake`] and [`ApiRequest::Sleep`].
    Done {
        /// The request's.
        tag: u64,
    },
}

impl ApiReply {
    /// The tag of the request that this answers.
    pub fn tag(&self) -> u64 {
        match self {
            ApiReply::Recipient { tag, .. }
            | ApiReply::Connected { tag, .. }
            | ApiReply::Unavailable { tag, .. }
            | ApiReply::Tenants { tag, .. }
            | ApiReply::Status { tag, .. }
            | ApiReply::Done { tag } => *tag,
        }
    }
}

/// What becomes of mail to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The tenant forwards it.
    Forward {
        /// Whose queue it goes through.
        tenant: TenantName,
        /// The new forward-paths, never empty.
        to: Vec<String>,
    },
    /// The local part has the form of an SRS address (`SRS0=…`, `SRS1=…`) at a tenant's domain. The receiver has the key: it
    /// checks the address and sends the bounce on through this tenant, or refuses.
    Srs {
        /// Whose queue it goes through.
        tenant: TenantName,
    },
    /// The domain is ours, the address is not: `550 5.1.1`.
    NoSuchUser,
    /// Not a domain of this node: `550 5.7.1`.
    NotLocal,
    /// The directory cannot say: `451 4.3.0`.
    Deferred,
}

/// One tenant in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantInfo {
    /// Its name.
    pub name: TenantName,
    /// Where in its life it is.
    pub state: TenantState,
    /// Its domains, the first few.
    pub domains: Vec<String>,
    /// How many accounts it has.
    pub accounts: u64,
    /// When it must be awake next, in unix milliseconds.
    pub next_due_unix_ms: Option<u64>,
    /// Messages in its queue, as it last said.
    pub queued: Option<u64>,
}

/// Where in its life a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    /// No process.
    Asleep,
    /// On the way up.
    Starting,
    /// Serving.
    Awake,
    /// On the way down.
    Draining,
    /// Starting failed; it is tried again later.
    Failed,
}

/// How the node is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Tenants in the directory.
    pub provisioned: u64,
    /// Tenants on the way up.
    pub starting: u64,
    /// Tenants serving.
    pub awake: u64,
    /// Tenants on the way down.
    pub draining: u64,
    /// Tenants whose start failed lately.
    pub failed: u64,
    /// Sleeping tenants that have a time to be woken at.
    pub due: u64,
    /// Whether the launcher is there.
    pub launcher: bool,
    /// Connections at the front door.
    pub sessions: u64,
    /// Cold starts since the platform started.
    pub cold_starts: ColdStarts,
    /// How often something happened since the platform started: one name, one count.
    pub counters: Vec<(String, u64)>,
}

/// Cold starts: from the connection that wanted the tenant to the MSA's banner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ColdStarts {
    /// Those that found a warm slot.
    pub warm: Spread,
    /// Those that paid for the whole container.
    pub cold: Spread,
    /// Parts of the above by name, in the order in which they happen.
    pub stages: Vec<(String, Spread)>,
}

/// A distribution of durations, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}
