//! What a killed supervisor left: programs that still run, socket files.
//!
//! A pid file names a process by pid and start time, so that a pid that the kernel gave to somebody else is never
//! signalled.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use warren_config::Node;

use super::crew::STOP_ORDER;

/// How long a program that was left may take to end in order.
const GRACE: Duration = Duration::from_secs(20);

/// Ends whatever programs of an earlier `warren up` still run, in the order of a stop.
pub fn end(node: &Node) -> anyhow::Result<()> {
    for name in STOP_ORDER {
        let file = pid_file(&node.paths.run, name);
        if let Some((pid, process)) = running(&file) {
            if !ended(&process, Duration::ZERO)? {
                eprintln!("warren: ending {name} (process {pid}) of a node that was killed");
            }
            finish(&process).with_context(|| format!("ending {name}, process {pid}"))?;
        }
        // Absent after an orderly end.
        let _ = fs::remove_file(file);
    }
    Ok(())
}

/// Removes the node's socket files; nobody listens any more.
pub fn remove_sockets(node: &Node) {
    let notify = fs::read_dir(node.paths.run.join("notify")).into_iter().flatten().flatten().map(|entry| entry.path());
    for socket in node.paths.sockets().into_iter().chain(notify) {
        // A socket file that stays does no harm: the next start replaces it.
        let _ = fs::remove_file(socket);
    }
}

/// Where a program's pid is written.
pub fn pid_file(run: &Path, name: &str) -> PathBuf {
    run.join("pids").join(name)
}

/// Writes a program's pid file.
pub fn note(run: &Path, name: &str, pid: u32) -> io::Result<()> {
    // It may have ended already.
    let Some(born) = start_time(pid) else { return Ok(()) };
    fs::write(pid_file(run, name), format!("{pid} {born}\n"))
}

/// The process that a pid file names, if it is still the same one.
fn running(file: &Path) -> Option<(u32, OwnedFd)> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, born) = text.trim().split_once(' ')?;
    let (pid, born): (u32, u64) = (pid.parse().ok()?, born.parse().ok()?);
    let process = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
    // Asked after opening: from here on the descriptor cannot change whom it means.
    (start_time(pid)? == born).then_some((pid, process))
}

/// When a process started, in clock ticks since boot; `None` if it is reaped.
///
/// Its state tells nothing: a killed process whose first thread is dead is a zombie by its `stat`, while its other threads have yet to
/// end and still hold its ports. Only its pidfd says when all is over.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything, stand the state (field 3) and, 19 further, the start time (field 22).
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// SIGTERM, and SIGKILL past the grace.
fn finish(process: &OwnedFd) -> io::Result<()> {
    for (signal, wait) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        match pidfd_send_signal(process, signal) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other?,
        }
        if ended(process, wait)? {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end, not even by SIGKILL"))
}

/// Whether a process ends within this time, all its threads and with them its descriptors.
fn ended(process: &OwnedFd, within: Duration) -> io::Result<bool> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let within = Timespec { tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(poll(&mut ended, Some(&within))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn ends_the_process_that_was_meant_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("pids")).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        note(directory.path(), "x", child.id()).unwrap();
        let file = pid_file(directory.path(), "x");
        let (pid, process) = running(&file).unwrap();
        assert_eq!(pid, child.id());
        fs::write(&file, format!("{pid} 1\n")).unwrap();
        assert!(running(&file).is_none(), "the pid is somebody else's now");
        finish(&process).unwrap();
        // Ended, and not yet reaped: as a process may be while its other threads still end.
        note(directory.path(), "x", pid).unwrap();
        let (_, process) = running(&file).unwrap();
        assert!(ended(&process, Duration::ZERO).unwrap());
        finish(&process).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(running(&file).is_none());
    }
}
