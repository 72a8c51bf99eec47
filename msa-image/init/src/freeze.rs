//! Falling asleep without losing a client to the moment in between.
//!
//! ```text
//!   stop every process ──▶ is a session open? ── yes ──▶ let them go on
//!                                 │ no: nobody can accept one any more
//!                                 ▼
//!                SIGTERM to all, then let them go on: they end, the entrances close
//! ```
//! Who had connected and was not accepted gets a reset before any banner, and is brought again by the platform.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use crate::children::Children;
use crate::traffic::Traffic;

/// A process that writes to the disk stops when it is done with that.
const STOPPING: Duration = Duration::from_secs(1);
/// What a program has for its end.
const ENDING: Duration = Duration::from_secs(5);

/// Ends everything if nobody is served. Answers whether it did.
pub async fn end_if_quiet(children: &Children) -> io::Result<bool> {
    to_all(Signal::SIGSTOP)?;
    let quiet = stopped().await.and_then(|stopped| {
        let traffic = Traffic::now()?;
        Ok(stopped && traffic.sessions == 0 && traffic.deliveries == 0)
    });
    if !matches!(quiet, Ok(true)) {
        to_all(Signal::SIGCONT)?;
        return quiet;
    }
    end(children).await?;
    Ok(true)
}

/// Ends everything.
pub async fn end(children: &Children) -> io::Result<()> {
    to_all(Signal::SIGTERM)?;
    to_all(Signal::SIGCONT)?;
    if timeout(ENDING, children.all_gone()).await.is_err() {
        to_all(Signal::SIGKILL)?;
        children.all_gone().await;
    }
    Ok(())
}

/// To every process of the container but ourselves.
fn to_all(signal: Signal) -> io::Result<()> {
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(io::Error::other(format!("{signal} to all: {errno}"))),
    }
}

/// Waits until no process runs but ours; `false` if that takes too long.
async fn stopped() -> io::Result<bool> {
    let end = Instant::now() + STOPPING;
    while any_runs()? {
        if Instant::now() > end {
            return Ok(false);
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(true)
}

fn any_runs() -> io::Result<bool> {
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_none_or(|pid| pid == std::process::id()) {
            continue;
        }
        // Gone meanwhile: it does not run.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if !is_still(&stat) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this line of `/proc/PID/stat` is of a process that is stopped or dead. The name, in parentheses, may hold anything.
fn is_still(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't' | 'Z' | 'X' | 'x'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend() {
        assert!(is_still("12 (smtpd) T 1 12"));
        assert!(is_still("12 (a) b) Z 1 12"));
        assert!(!is_still("12 (x) T ) S 1 12"));
        assert!(!is_still(""));
    }
}
