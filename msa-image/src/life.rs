//! From start to sleep.
//!
//! ```text
//!   serve ──quiet for idle, nothing due soon──▶ stop accepting ──somebody came after all──▶ serve
//!     │                                              │ nobody
//!     │ SIGTERM or Drain                             ▼
//!     └──▶ stop accepting, finish, at most DRAIN ──▶ close store and entrances, write next-due, say Sleeping, return
//! ```
//!
//! Whoever has connected before the entrances close is served, or gets a reset before any banner and is brought again by the
//! platform. Whatever was answered `250` is on disk, and the next-due file is never later than it.

use crate::activity::Activity;
use crate::clock::now_ms;
use crate::control::Control;
use crate::delivery::dial::Dial;
use crate::delivery::route::Resolve;
use crate::delivery::{self, Deliveries};
use crate::entrance::{self, Entrance};
use crate::places::Places;
use crate::store::Store;
use crate::{Msa, plain_settings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use warren_control::Level;

/// What a draining MSA gives its sessions and deliveries.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long the disk may take for what is being accepted at the end.
const LAST_COMMITS: Duration = Duration::from_secs(5);
/// The disk is left alone until the first banner is out, or for so long.
const BANNER_FIRST: Duration = Duration::from_millis(20);

/// The sockets that the MSA is born with.
pub struct Sockets {
    /// For the tenant's users.
    pub submission: TcpListener,
    /// For mail forwarded to the tenant.
    pub relay: TcpListener,
    /// For the platform.
    pub control: UnixListener,
}

/// What an MSA is made of; tests bring their own.
pub struct Parts {
    /// Where the volume is.
    pub volume: PathBuf,
    /// Who is asked for MXs.
    pub resolver: Arc<dyn Resolve>,
    /// Who connects to them.
    pub dialer: Arc<dyn Dial>,
    /// The platform's channel.
    pub control: Control,
    /// When the program began.
    pub started: Instant,
    /// How long sessions and deliveries may take to finish, once drained: [`DRAIN`].
    pub drain: Duration,
}

/// The accept loops; stopped, they give their listeners back.
struct Doors {
    stop: watch::Sender<bool>,
    submission: JoinHandle<TcpListener>,
    relay: JoinHandle<TcpListener>,
}

impl Doors {
    fn open(submission: TcpListener, relay: TcpListener, msa: &Arc<Msa>) -> Self {
        let stop = watch::Sender::new(false);
        let serve =
            |listener, entrance| tokio::spawn(entrance::serve(listener, entrance, Arc::clone(msa), stop.subscribe()));
        Self { submission: serve(submission, Entrance::Submission), relay: serve(relay, Entrance::Relay), stop }
    }

    async fn stop(self) -> Option<(TcpListener, TcpListener)> {
        self.stop.send_replace(true);
        // A loop that panicked has closed its entrance: the MSA sleeps and is started anew.
        Some((self.submission.await.ok()?, self.relay.await.ok()?))
    }
}

/// Serves until there is nothing more to do. Returns after the last word to the platform.
pub async fn run(sockets: Sockets, parts: Parts) {
    let places = Places::here();
    let msa = Arc::new(Msa {
        places,
        control: parts.control,
        activity: Activity::default(),
        store: Store::new(parts.volume),
        deliveries: Deliveries::new(parts.resolver, parts.dialer, places.out),
        first_banner: Notify::new(),
    });
    tokio::spawn(msa.control.clone().serve(sockets.control));
    let mut doors = Doors::open(sockets.submission, sockets.relay, &msa);
    tokio::spawn(begin(Arc::clone(&msa), parts.started));
    tokio::spawn(delivery::run(Arc::clone(&msa)));
    let mut draining = msa.control.draining();
    loop {
        let drained = tokio::select! {
            _ = draining.wait_for(|draining| *draining) => true,
            () = nothing_to_do(&msa) => false,
        };
        let Some((submission, relay)) = doors.stop().await else { break };
        if drained {
            drop((submission, relay));
            let _ = timeout(parts.drain, msa.activity.quiet_for(Duration::ZERO)).await;
            break;
        }
        // Nobody came while the doors were closing, and nothing became due: the decision stands.
        if msa.activity.busy() == 0 && !due_within(&msa, idle(&msa)) {
            break;
        }
        doors = Doors::open(submission, relay, &msa);
    }
    // A session that outlived the drain may end its message only now: either it is known here, or it is not accepted.
    let known = timeout(LAST_COMMITS, msa.store.close()).await.is_ok();
    let due = if known { msa.deliveries.next_due_after_stop() } else { Some(now_ms()) };
    if let Err(error) = msa.store.next_due(due).await {
        // It then says an earlier time, which costs a start and loses nothing.
        msa.control.log(Level::Warn, error.to_string());
    }
    msa.control.sleeping(due).await;
}

/// The work that may wait for the first banner. Counts as activity: an MSA never sleeps before it knows its queue.
async fn begin(msa: Arc<Msa>, started: Instant) {
    let _busy = msa.activity.begin();
    if timeout(BANNER_FIRST, msa.first_banner.notified()).await.is_ok() {
        msa.control.log(Level::Debug, format!("first banner {} µs after start", started.elapsed().as_micros()));
    }
    delivery::scan(&msa).await;
}

fn idle(msa: &Msa) -> Duration {
    let ms =
        msa.control.settings().borrow().as_ref().map_or_else(|| plain_settings().idle_ms, |settings| settings.idle_ms);
    Duration::from_millis(ms)
}

fn due_within(msa: &Msa, time: Duration) -> bool {
    let horizon = now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    msa.deliveries.next_due_after_stop().is_some_and(|due| due <= horizon)
}

/// Returns when the MSA has been quiet for its idle time and nothing is due within the next.
async fn nothing_to_do(msa: &Msa) {
    let mut settings = msa.control.settings();
    loop {
        settings.mark_unchanged();
        let idle = idle(msa);
        tokio::select! {
            () = msa.activity.quiet_for(idle) => {}
            // The idle time may be another one now.
            Ok(()) = settings.changed() => continue,
        }
        if !due_within(msa, idle) {
            return;
        }
        sleep(idle.clamp(Duration::from_millis(10), Duration::from_secs(1))).await;
    }
}
