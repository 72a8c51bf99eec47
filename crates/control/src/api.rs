//! The platform's socket: what the receiver and the command line may ask.
//!
//! Packets on `$run/platform.sock`; who may ask is judged by the peer's uid. Every request carries a tag, and every request
//! gets exactly one reply with that tag; replies may come in another order than the requests.

use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, RELAY_PORT, SUBMISSION_PORT, TenantName};

use crate::channel::{Level, Outcome};

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
        /// Recipients of the message that is to be handed over: they count against the tenant's hourly limits.
        #[serde(default)]
        recipients: u32,
    },
    /// The tenants, by name, a page at a time.
    Tenants {
        /// Returned in the reply.
        tag: u64,
        /// The last name of the page before.
        #[serde(default)]
        after: Option<TenantName>,
    },
    /// The tenants that were active last, one page of them: those that run first, then those that fell asleep lately.
    Active {
        /// Returned in the reply.
        tag: u64,
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
    /// Put a tenant to sleep and wake it for nobody, until it is resumed; answered when it sleeps. Survives restarts.
    Suspend {
        /// Returned in the reply.
        tag: u64,
        /// Whom.
        tenant: TenantName,
    },
    /// Undo a suspension.
    Resume {
        /// Returned in the reply.
        tag: u64,
        /// Whom.
        tenant: TenantName,
    },
    /// Run a program of the tenant's image in its container, as its PID 1 does, and tell how it went; the tenant is woken for it.
    Exec {
        /// Returned in the reply.
        tag: u64,
        /// Whose container.
        tenant: TenantName,
        /// The program and its arguments.
        args: Vec<String>,
    },
    /// What the node said of a tenant lately.
    Logs {
        /// Returned in the reply.
        tag: u64,
        /// Whom.
        tenant: TenantName,
        /// Only lines with a higher number.
        #[serde(default)]
        after: u64,
        /// If there are none, wait for one; a bounded time, after which the reply has no lines.
        #[serde(default)]
        wait: bool,
    },
    /// What reading the configuration again would change, and which tenants run an image that was replaced.
    Plan {
        /// Returned in the reply.
        tag: u64,
    },
    /// What is counted.
    Metrics {
        /// Returned in the reply.
        tag: u64,
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
    /// To [`ApiRequest::Connect`]: the tenant has forwarded its share of this hour, `450 4.7.1`.
    OverLimit {
        /// The request's.
        tag: u64,
        /// For the peer.
        text: String,
    },
    /// It cannot be done now: the mail is put off with a 4xx.
    Unavailable {
        /// The request's.
        tag: u64,
        /// For the log, not for the peer.
        reason: String,
    },
    /// To [`ApiRequest::Tenants`] and [`ApiRequest::Active`].
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
    /// To [`ApiRequest::Logs`]: a few lines, the oldest first; ask again after the last one's number for more.
    Logs {
        /// The request's.
        tag: u64,
        /// The lines.
        lines: Vec<LogLine>,
    },
    /// To [`ApiRequest::Plan`].
    Plan {
        /// The request's.
        tag: u64,
        /// What would change.
        plan: Box<Plan>,
    },
    /// To [`ApiRequest::Metrics`]: the platform's page in the text format of Prometheus (`warren-metrics`).
    Metrics {
        /// The request's.
        tag: u64,
        /// The page.
        text: String,
    },
    /// To [`ApiRequest::Exec`].
    Executed {
        /// The request's.
        tag: u64,
        /// How it went.
        outcome: Outcome,
    },
    /// To [`ApiRequest::Wake`], [`ApiRequest::Sleep`], [`ApiRequest::Suspend`] and [`ApiRequest::Resume`].
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
            | ApiReply::OverLimit { tag, .. }
            | ApiReply::Unavailable { tag, .. }
            | ApiReply::Tenants { tag, .. }
            | ApiReply::Status { tag, .. }
            | ApiReply::Logs { tag, .. }
            | ApiReply::Plan { tag, .. }
            | ApiReply::Metrics { tag, .. }
            | ApiReply::Executed { tag, .. }
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
    /// The tenant is suspended: `450 4.2.1`, so that mail comes back for a few days.
    Suspended,
    /// The tenant has forwarded its share of this hour: `450 4.7.1` with this text.
    OverLimit(String),
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
    /// Since when it is in this state, in unix milliseconds; of sleeping tenants known only for those that were awake lately.
    #[serde(default)]
    pub since_unix_ms: Option<u64>,
    /// Memory of its container, kernel's share and page cache included.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Its last start; of sleeping tenants known only for those that were awake lately.
    #[serde(default)]
    pub started: Option<Started>,
}

/// A start of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When, in unix milliseconds.
    pub at_unix_ms: u64,
    /// From wanting it to its MSA having its settings; unknown of a container that was found running.
    pub took_us: Option<u64>,
    /// Why.
    pub reason: StartReason,
}

/// Why a tenant was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartReason {
    /// A mail user connected.
    Connection,
    /// Mail to forward came in.
    Forward,
    /// Deferred mail was due.
    Due,
    /// An operator wanted it.
    Hand,
    /// It ran already when the platform started.
    Found,
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
    /// Asleep, and woken for nobody until it is resumed.
    Suspended,
}

/// One line of the node's log about a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Ascending, not without gaps: other tenants' lines have numbers too.
    pub number: u64,
    /// When, in unix milliseconds.
    pub at_unix_ms: u64,
    /// How loud.
    pub level: Level,
    /// Which part of the node said it: `msa`, `frontdoor`, `fleet` …
    pub source: String,
    /// What happened; escaped by the reader.
    pub text: String,
}

/// What reading the configuration again would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// New tenants.
    pub added: Names,
    /// Tenants whose containers end. Their volumes stay.
    pub removed: Names,
    /// Tenants whose container is made anew once its sessions are over.
    pub container: Names,
    /// Tenants whose MSA learns new settings while it runs.
    pub settings: Names,
    /// Tenants with other passwords or forwards, which concern no container.
    pub access: Names,
    /// Whether `warren.toml` says something else than the last time it was read.
    pub node: bool,
    /// Sections that take effect only when the node starts again, changed since it started.
    pub restart: Vec<String>,
    /// Tenants that run an image which was replaced since: they go on until they are drained.
    pub outdated: Names,
}

/// Tenants, the first few by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// How many there are.
    pub count: u64,
    /// The first of them, as many as fit.
    pub first: Vec<TenantName>,
}

/// How the platform's readings of the configuration went. They follow one another, so that whoever changed a file and asks for a
/// reading waits for one that had not begun when it asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readings {
    /// How many were begun, the one at start not counted.
    pub begun: u64,
    /// How many are over.
    pub done: u64,
    /// What was wrong at the last one, in which case nothing changed.
    pub problems: Option<String>,
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
    /// The earliest of these times, in unix milliseconds.
    pub next_due_unix_ms: Option<u64>,
    /// Messages in the queues of tenants that run, as their MSAs last said. What sleeps tells nothing but when it is due.
    pub queued: u64,
    /// Tenants that are suspended, whatever their state.
    pub suspended: u64,
    /// How the last readings of the configuration went.
    pub readings: Readings,
    /// Whether the launcher is there.
    pub launcher: bool,
    /// Connections at the front door.
    pub sessions: u64,
    /// Cold starts since the platform started.
    pub cold_starts: ColdStarts,
    /// Starts since the platform started, by reason, and whether a warm slot was found.
    pub starts: Vec<(StartReason, bool, u64)>,
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
    /// Those that found a warm slot, counted by length.
    pub warm_lengths: Lengths,
    /// Those that paid for the whole container, counted by length.
    pub cold_lengths: Lengths,
}

/// Durations, counted by length.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lengths {
    /// How many took at most so many microseconds, in rising order.
    pub up_to_us: Vec<(u64, u64)>,
    /// All of them together, in microseconds.
    pub sum_us: u64,
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
