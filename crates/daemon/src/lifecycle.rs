//! What the outside wants of a running program: reload, or drain and end.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::watch;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: take no new work, finish or hand back what is under way, end.
    Drain,
    /// SIGHUP: read the configuration again; keep the old one if the new one is broken.
    Reload,
}

/// The signals of a program.
#[derive(Debug)]
pub struct Lifecycle {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    draining: watch::Sender<bool>,
}

impl Lifecycle {
    /// Starts listening; from now on these signals no longer end the process by themselves. Needs a tokio runtime.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            draining: watch::Sender::new(false),
        })
    }

    /// Waits for the next signal. Cancel safe. After [`Signal::Drain`], every [`Draining`] is resolved.
    pub async fn next(&mut self) -> Signal {
        let what = tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Drain,
            _ = self.interrupt.recv() => Signal::Drain,
            _ = self.hangup.recv() => Signal::Reload,
        };
        if what == Signal::Drain {
            self.draining.send_replace(true);
        }
        what
    }

    /// A handle for tasks that must notice draining.
    pub fn draining(&self) -> Draining {
        Draining(self.draining.subscribe())
    }
}

/// Tells tasks that the program is draining. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Draining {
    /// Whether draining has begun.
    pub fn begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until draining begins (or the [`Lifecycle`] is gone, which means the same). Cancel safe.
    pub async fn wait(&mut self) {
        // An error says that the sender is gone: the program is ending.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}
