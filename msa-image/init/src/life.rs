//! From start to sleep.
//!
//! ```text
//!   settings ──▶ gate ──▶ configure ──▶ run ──▶ both entrances listen ──▶ Ready ──▶ watch traffic and queue
//!                                                                             │ quiet for idle, nothing due soon
//!                        exit 0 ◀── Sleeping ◀── next-due ◀── all ended ◀─────┘
//! ```
//!
//! While the program runs, `next-due` says "now": after a crash the tenant is woken once, and its queue is looked at. Settings that change
//! meanwhile are told to the hooks; while these cannot run, the program goes on with what it had (`overdue`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use warren_control::{Level, Settings, Stats};
use warren_msa::control::Control;
use warren_msa::store::{Store, VOLUME};

use crate::children::{Children, Ended};
use crate::freeze;
use crate::gate;
use crate::hooks::{self, Waiting};
use crate::overdue::Overdue;
use crate::programs;
use crate::traffic::Traffic;

/// How long the program may take until it listens.
const START: Duration = Duration::from_secs(20);
/// What open sessions have when the tenant is to go.
const DRAIN: Duration = Duration::from_secs(10);
/// The queue is looked at so often while nothing else asks for it.
const LOOK: Duration = Duration::from_secs(5);

/// Lives. An error is a program that cannot work; the platform hears of it and tries again later.
pub async fn live(control: &Control, children: &Children) -> io::Result<()> {
    let store = Store::new(VOLUME.into());
    let Some(settings) = first_settings(control).await else { return Ok(()) };
    store.next_due(Some(now_ms())).await.map_err(io::Error::other)?;
    gate::open(control)?;
    hooks::configure(&settings, children, control).await?;
    let mut program = hooks::run(children, control)?;
    let served = match listening(&mut program).await {
        Ok(()) => {
            control.ready();
            serve(control, children, &mut program).await
        }
        Err(error) => Err(error),
    };
    if served.is_err() {
        freeze::end(children).await?;
    }
    let waiting = hooks::queue(children).await;
    let due = match &waiting {
        Ok(waiting) if waiting.now > 0 => Some(now_ms()),
        Ok(waiting) => waiting.due_ms,
        Err(_) => Some(now_ms()),
    };
    store.next_due(due).await.map_err(io::Error::other)?;
    served.and(waiting)?;
    control.sleeping(due).await;
    Ok(())
}

/// `None`: to end before it began.
async fn first_settings(control: &Control) -> Option<Arc<Settings>> {
    let (mut settings, mut draining) = (control.settings(), control.draining());
    tokio::select! {
        settings = settings.wait_for(Option::is_some) => settings.ok()?.clone(),
        _ = draining.wait_for(|draining| *draining) => None,
    }
}

async fn listening(program: &mut oneshot::Receiver<Ended>) -> io::Result<()> {
    let end = Instant::now() + START;
    while Traffic::now()?.entrances < 2 {
        tokio::select! {
            ended = &mut *program => return Err(gone(ended)),
            () = sleep(Duration::from_millis(2)) => {}
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("the program does not listen after {} s", START.as_secs())));
        }
    }
    Ok(())
}

/// Returns when everything has ended because there was nothing more to do.
async fn serve(control: &Control, children: &Children, program: &mut oneshot::Receiver<Ended>) -> io::Result<()> {
    let (mut settings, mut draining) = (control.settings(), control.draining());
    settings.mark_unchanged();
    let programs = programs::serve(control.clone(), children.clone());
    let mut quiet_since = Instant::now();
    let mut looked = None;
    let mut overdue = Overdue::default();
    loop {
        let idle = settings.borrow().as_ref().map_or(START, |settings| Duration::from_millis(settings.idle_ms));
        let changed = tokio::select! {
            ended = &mut *program => return Err(gone(ended)),
            _ = draining.wait_for(|draining| *draining) => return drain(children).await,
            Ok(()) = settings.changed() => true,
            () = sleep((idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))) => false,
        };
        if changed {
            overdue.changed(Instant::now());
        }
        if overdue.is_due(Instant::now()) {
            let new = settings.borrow_and_update().clone();
            let done = put_into_force(new.as_deref(), children, control).await;
            told(done, &mut overdue, control);
        }
        let quiet = Traffic::now()?.is_quiet() && programs::running(&programs) == 0;
        if !quiet {
            quiet_since = Instant::now();
        }
        let may_sleep = quiet && quiet_since.elapsed() >= idle;
        if !may_sleep && looked.is_some_and(|looked: Instant| looked.elapsed() < LOOK) {
            continue;
        }
        looked = Some(Instant::now());
        let waiting = match hooks::queue(children).await {
            Ok(waiting) => waiting,
            Err(error) => {
                control.log(Level::Warn, error.to_string());
                continue;
            }
        };
        control.stats(Stats { queued: waiting.count, ..Stats::default() });
        control.due(waiting.due_ms);
        if may_sleep && !is_needed(&waiting, idle) {
            if freeze::end_if_quiet(children).await? {
                return Ok(());
            }
            quiet_since = Instant::now();
        }
    }
}

async fn put_into_force(new: Option<&Settings>, children: &Children, control: &Control) -> io::Result<()> {
    let Some(new) = new else { return Ok(()) };
    hooks::configure(new, children, control).await?;
    hooks::reload(children, control).await
}

fn told(done: io::Result<()>, overdue: &mut Overdue, control: &Control) {
    match done {
        Ok(()) if overdue.succeeded() => control.log(Level::Info, "the new settings are in force"),
        Ok(()) => {}
        Err(error) if overdue.failed(Instant::now()) => {
            control.log(Level::Warn, format!("the new settings are not in force, and are tried again: {error}"));
        }
        Err(_) => {}
    }
}

/// Whether mail is worked on, or will be within `time`.
fn is_needed(waiting: &Waiting, time: Duration) -> bool {
    let horizon = now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    waiting.now > 0 || waiting.due_ms.is_some_and(|due| due <= horizon)
}

async fn drain(children: &Children) -> io::Result<()> {
    let end = Instant::now() + DRAIN;
    while Instant::now() < end {
        if freeze::end_if_quiet(children).await? {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    freeze::end(children).await
}

fn gone(ended: Result<Ended, oneshot::error::RecvError>) -> io::Error {
    let how = match ended {
        Ok(Ok(code)) => format!("exit status {code}"),
        Ok(Err(signal)) => signal,
        Err(_) => "lost".to_owned(),
    };
    io::Error::other(format!("the program has ended: {how}"))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
