//! A program that runs as long as the benchmark needs it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The program; ended with SIGTERM when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    patience: Duration,
}

impl Daemon {
    /// Starts it. What it says goes to `log`. In a process group of its own: Ctrl-C is for us to pass on, in our order.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let errors = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {}", command.get_program().display()))?;
        Ok(Daemon { child, log: log.to_owned(), patience: Duration::from_secs(30) })
    }

    /// How long its end may take.
    pub fn patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it runs no more.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("watch a program")? {
            Some(status) => bail!("it ended ({status}); {}", self.last_words()),
            None => Ok(()),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("its log ends:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let end = Instant::now() + self.patience;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                eprintln!("warren-bench: process {} had to be killed; {}", self.child.id(), self.last_words());
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
