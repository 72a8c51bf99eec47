//! Ctrl-C and SIGTERM end the benchmark between two measurements, so that everything it made is taken away as at any other end.

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Holds the signals back.
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// From now on, this thread and those it starts do not die of them. Programs that are started do: `Command` lets the signals through.
    pub fn hold() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("hold signals back")?;
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Interrupt(descriptor.context("watch for signals")?))
    }

    /// An error if one has come.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.0.read_signal().context("watch for signals")? {
            Some(_) => bail!("interrupted; everything is taken away"),
            None => Ok(()),
        }
    }
}
