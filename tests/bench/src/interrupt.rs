//! Ctrl-C and SIGTERM end the benchmark between two measurements, so that everything it made is taken away as at any other end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Notices the signals. By handlers, not by blocking them: programs that are started would inherit that.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, this process does not die of them.
    pub fn hold() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("watch for signals")?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _inside = runtime.enter();
            let watch = |kind| signal(kind).context("watch for signals");
            (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?)
        };
        let noticed = Arc::clone(&came);
        let watch = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            noticed.store(true, Ordering::Relaxed);
            eprintln!("warren-bench: interrupted; taking everything away");
            // The handlers stay: a second Ctrl-C does not leave containers behind.
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).context("watch for signals")?;
        Ok(Interrupt(came))
    }

    /// An error if one has come.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
