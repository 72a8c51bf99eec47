//! Everything that runs below PID 1: its own children, and orphans of theirs, which the kernel gives to it.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// How a child ended: its exit status, or an error that says which signal.
pub type Ended = Result<i32, String>;

/// The one who waits for all of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Children {
    awaited: Arc<Mutex<HashMap<Pid, oneshot::Sender<Ended>>>>,
    /// Whether nothing but PID 1 is left.
    alone: watch::Sender<bool>,
}

impl Children {
    /// Begins to reap.
    pub fn watch() -> io::Result<Children> {
        let children = Children { awaited: Arc::default(), alone: watch::Sender::new(true) };
        let mut ended = signal(SignalKind::child())?;
        let reaper = children.clone();
        tokio::spawn(async move {
            loop {
                reaper.reap();
                if ended.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(children)
    }

    /// Starts a program: its pid, and what gives its end. Must be called on the runtime's one thread: there, nobody reaps in between.
    pub fn start(&self, command: &mut Command) -> io::Result<(Pid, oneshot::Receiver<Ended>)> {
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let (sender, receiver) = oneshot::channel();
        self.awaited().insert(pid, sender);
        self.alone.send_replace(false);
        Ok((pid, receiver))
    }

    /// Kills one of those that were started, if it has not been reaped.
    pub fn kill(&self, pid: Pid) {
        if self.awaited().contains_key(&pid) {
            // Nobody reaps in between, so it is that process still.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Returns when no process is left.
    pub async fn all_gone(&self) {
        // The sender is ours: it does not go away.
        let _ = self.alone.subscribe().wait_for(|alone| *alone).await;
    }

    fn reap(&self) {
        loop {
            let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ok(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Err(format!("killed by {signal}"))),
                Ok(WaitStatus::StillAlive) => return,
                Err(Errno::ECHILD) => {
                    self.alone.send_replace(true);
                    return;
                }
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(_) => return,
            };
            if let Some(waiting) = self.awaited().remove(&pid) {
                // Nobody may be interested any more.
                let _ = waiting.send(ended);
            }
        }
    }

    fn awaited(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Ended>>> {
        self.awaited.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Whoever waits for all children waits for those of other tests too.
    pub(crate) static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn ends_are_told() {
        let _alone = ONE_AT_A_TIME.lock().await;
        let children = Children::watch().unwrap();
        children.all_gone().await;
        let (_, seven) = children.start(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap();
        let (_, killed) = children.start(Command::new("/bin/sh").args(["-c", "kill -KILL $$"])).unwrap();
        assert_eq!(seven.await.unwrap(), Ok(7));
        assert_eq!(killed.await.unwrap(), Err("killed by SIGKILL".to_owned()));
        let (endless, ended) = children.start(Command::new("/bin/sleep").arg("1000")).unwrap();
        children.kill(endless);
        assert_eq!(ended.await.unwrap(), Err("killed by SIGKILL".to_owned()));
        children.all_gone().await;
    }
}
