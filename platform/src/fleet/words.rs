//! The words of the fleet's machine: what happened, what to do, where a tenant is.

use std::time::Duration;

use warren_launcher_api::{CellId, TenantName};

/// The time, of both kinds. Deadlines are monotonic; due times are wall-clock time, because they outlive the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the performer began.
    pub since_start: Duration,
    /// Unix milliseconds.
    pub unix_ms: u64,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants the tenant awake.
    Wanted {
        /// Whom.
        tenant: TenantName,
        /// Who wants it.
        waiter: Waiter,
        /// When an answer is due at the latest.
        by: Duration,
        /// A cell that hung up on the one who asks before it said anything: it is falling asleep.
        stale: Option<CellId>,
    },
    /// Somebody wants the tenant asleep.
    Unwanted {
        /// Whom.
        tenant: TenantName,
        /// Who wants it.
        waiter: Waiter,
        /// When an answer is due at the latest.
        by: Duration,
    },
    /// A waiter went away and wants no answer.
    Cancelled(Waiter),
    /// A start that was asked for has worked.
    Started {
        /// Whose.
        tenant: TenantName,
        /// Where it runs.
        cell: CellId,
    },
    /// A start that was asked for has not worked.
    StartFailed {
        /// Whose.
        tenant: TenantName,
    },
    /// The MSA's last word.
    Sleeping {
        /// Where.
        cell: CellId,
        /// When to wake it.
        due: Option<u64>,
    },
    /// The control channel of a cell ended.
    ControlLost(CellId),
    /// A container has ended.
    Exited(CellId),
    /// The launcher's answer to [`Step::AskDue`], or what the store remembered.
    Due {
        /// Whose.
        tenant: TenantName,
        /// When to wake it.
        due: Option<u64>,
    },
    /// The launcher went away. What runs keeps running; the outcome of starts is unknown.
    LauncherLost,
    /// The launcher is there, and these are all the cells with a tenant that it has.
    LauncherBack(Vec<(CellId, TenantName)>),
    /// The tenant's container must be made anew (another image, other limits) as soon as it is idle; what failed so far is forgotten.
    Renew(TenantName),
    /// The tenant is no more.
    Removed(TenantName),
    /// The tenant is to sleep and to be woken for nobody.
    Suspended(TenantName),
    /// It may be woken again.
    Resumed(TenantName),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask the launcher to wake the tenant; report `Started` or `StartFailed`.
    Start(TenantName),
    /// Connect the control channel of a container that survived us.
    Adopt(TenantName, CellId),
    /// Say `Drain` to the MSA.
    Drain(CellId),
    /// Ask the launcher to end the container.
    Stop(CellId),
    /// Drop all that is held for a cell.
    Forget(CellId),
    /// Answer a waiter. Nobody is answered twice.
    Answer(Waiter, Answer),
    /// Keep this, durably.
    Remember(TenantName, Mark),
    /// Ask the launcher for the tenant's next due time and report `Due`.
    AskDue(TenantName),
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The tenant is awake here.
    Awake(CellId),
    /// The tenant sleeps.
    Asleep,
    /// It did not come to that.
    Refused(Refusal),
}

/// Why a waiter does not get what it wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The deadline passed.
    #[error("not within the deadline")]
    Late,
    /// Too many wait already.
    #[error("too many wait for it")]
    Crowded,
    /// The last start failed and the next attempt is after the deadline.
    #[error("its start failed")]
    Failed,
    /// It is starting, so it cannot be put to sleep now.
    #[error("it is just starting")]
    Starting,
    /// Its container was ended because its volume held too much, and may not start again yet.
    #[error("its volume is full")]
    Full,
    /// The tenant was removed from the directory.
    #[error("no such tenant")]
    Removed,
    /// An operator suspended the tenant.
    #[error("it is suspended")]
    Suspended,
}

/// What is remembered of a tenant over restarts of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is awake: if it is found not to be, its volume knows when it is due.
    Awake,
    /// It sleeps until then, or until somebody wants it.
    Due(Option<u64>),
}

/// Where in its life a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// No process; `due` in the entry.
    Asleep,
    /// Waits for a place among the parallel starts.
    Queued,
    /// The launcher is at it.
    Starting,
    /// Serving.
    Awake {
        /// Where.
        cell: CellId,
        /// Since when.
        since: Duration,
    },
    /// On its way down.
    Draining {
        /// Where.
        cell: CellId,
        /// When it is ended by force; `None` once that was asked for.
        until: Option<Duration>,
        /// Whether it told its due time: then it went in good order.
        said: bool,
    },
    /// A start failed, or it crashed: not before then.
    Failed {
        /// When it may be tried again.
        until: Duration,
    },
}

/// How many tenants are where in their lives, of those that are not simply asleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Queued or starting.
    pub starting: u64,
    /// Serving.
    pub awake: u64,
    /// On the way down.
    pub draining: u64,
    /// Backing off.
    pub failed: u64,
    /// Asleep with a time to be woken at.
    pub due: u64,
}
