//! A third MSA, written from `msa-image/CONTRACT.md` alone: no crate of Warren, nothing but the standard library, one thread a
//! connection. It shows that the contract says all that an image must know. Nobody should run it in earnest.
//!
//! ```text
//!   control.rs   settings in; Ready, Due, Sleeping out
//!   session.rs   both entrances
//!   queue.rs     messages on the volume
//!   deliver.rs   MX lookup, SMTP out, bounces
//!   json.rs      as much of JSON as control needs
//! ```
//!
//! `rustc -O --edition 2024 -C target-feature=+crt-static main.rs` builds it.

mod control;
mod deliver;
mod json;
mod queue;
mod session;

use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::{Control, Settings};
use queue::Queue;

/// What all threads share.
pub struct Msa {
    pub control: Control,
    pub queue: Queue,
    /// Bumped by whoever gives the delivery something to do.
    pub bell: (Mutex<u64>, Condvar),
    sessions: AtomicU64,
    busy_until: Mutex<Instant>,
}

impl Msa {
    pub fn ring(&self) {
        *self.bell.0.lock().unwrap() += 1;
        self.bell.1.notify_all();
    }

    /// Waits for the bell, or for a time.
    fn wait(&self, at_most: Duration) {
        let rung = self.bell.0.lock().unwrap();
        drop(self.bell.1.wait_timeout(rung, at_most).unwrap());
    }
}

pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn main() {
    // SAFETY: descriptors 3, 4 and 5 are what CONTRACT.md says that every image with `inherited` entrances inherits; nobody else
    // in this process knows of them.
    let (submission, relay, control) =
        unsafe { (TcpListener::from_raw_fd(3), TcpListener::from_raw_fd(4), UnixListener::from_raw_fd(5)) };
    let msa = Arc::new(Msa {
        control: Control::default(),
        queue: Queue::open(),
        bell: (Mutex::new(0), Condvar::new()),
        sessions: AtomicU64::new(0),
        busy_until: Mutex::new(Instant::now()),
    });
    let (held, heard) = (Arc::clone(&msa), Arc::clone(&msa));
    std::thread::spawn(move || held.control.listen(&control, || heard.ring()));
    for (listener, submitted) in [(submission.try_clone().unwrap(), true), (relay.try_clone().unwrap(), false)] {
        let msa = Arc::clone(&msa);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                msa.sessions.fetch_add(1, Ordering::SeqCst);
                let msa = Arc::clone(&msa);
                std::thread::spawn(move || {
                    session::serve(&msa, stream, submitted);
                    *msa.busy_until.lock().unwrap() = Instant::now();
                    msa.sessions.fetch_sub(1, Ordering::SeqCst);
                    msa.ring();
                });
            }
        });
    }
    live(&msa);
    // Listeners close with the process. Who connects from here on is reset, and comes back.
    let due = msa.queue.next_due();
    queue::write_next_due(due);
    msa.control.say_due("Sleeping", due);
}

/// Delivers what is due until nothing is, nobody is there, and nobody was for the idle time.
fn live(msa: &Msa) {
    loop {
        let Some(settings) = msa.control.settings() else {
            msa.wait(Duration::from_millis(100));
            continue;
        };
        let worked = deliver::due_messages(msa, &settings);
        if worked {
            *msa.busy_until.lock().unwrap() = Instant::now();
        }
        let due = msa.queue.next_due();
        queue::write_next_due(due);
        msa.control.due_changed(due);
        let idle = Duration::from_millis(settings.idle_ms);
        let (quiet, alone) = (msa.busy_until.lock().unwrap().elapsed(), msa.sessions.load(Ordering::SeqCst) == 0);
        let soon = due.is_some_and(|due| due <= now_ms() + settings.idle_ms);
        if alone && !soon && (quiet >= idle || msa.control.draining()) {
            return;
        }
        let until_due = due.map_or(idle, |due| Duration::from_millis(due.saturating_sub(now_ms())));
        msa.wait(until_due.min(idle.saturating_sub(quiet)).clamp(Duration::from_millis(10), Duration::from_secs(1)));
    }
}

/// Whether an account may write as this address.
pub fn may_use(settings: &Settings, login: &str, address: &str) -> bool {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let address = format!("{local}@{}", domain.to_ascii_lowercase());
    settings.accounts.iter().any(|(account, own)| account == login && own.iter().any(|o| *o == address))
}
