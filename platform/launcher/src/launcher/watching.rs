//! The watcher's process, and what it says. The node works without it, only its disk is not guarded: so it is started again, and
//! nothing waits for it.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Signal, pidfd_send_signal};
use warren_packet::Packets;

use super::{Launcher, Stage, log, token};
use crate::watcher::{Begin, Over};

/// Between two watchers.
const PAUSE: Duration = Duration::from_secs(2);

/// The watcher's process.
pub(super) struct Watching {
    child: Child,
    packets: Packets,
}

impl Launcher {
    /// Starts a watcher if there is none and it is time.
    pub(super) fn keep_watcher(&mut self, now: Instant) {
        if self.watcher.is_some() || self.ending.is_some() || self.watcher_not_before.is_some_and(|time| now < time) {
            return;
        }
        // Whether it starts or not, and dies at once or not.
        self.watcher_not_before = Some(now + PAUSE);
        match self.start_watcher() {
            Ok(watching) => self.watcher = Some(watching),
            Err(error) => log(&format!("cannot start a watcher of volumes: {error}")),
        }
    }

    fn start_watcher(&self) -> Result<Watching, String> {
        let (ours, its) = Packets::pair().map_err(|error| error.to_string())?;
        let child = Command::new("/proc/self/exe")
            .arg("watcher")
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let watching = Watching { child, packets: ours };
        let begin = Begin {
            run: self.options.run.clone(),
            state: self.options.state.clone(),
            groups: self.group_parents.clone(),
        };
        // If this fails it ends by itself, as the socket closes.
        watching.packets.send(&begin, &[]).map_err(|error| error.to_string())?;
        watching.packets.set_nonblocking(true).map_err(|error| error.to_string())?;
        let data = epoll::EventData::new_u64(token::WATCHER);
        epoll::add(&self.epoll, &watching.packets, data, epoll::EventFlags::IN).map_err(|errno| errno.to_string())?;
        Ok(watching)
    }

    /// The watcher's pid, to tell its end from others'.
    pub(super) fn watcher_pid(&self) -> Option<i32> {
        self.watcher.as_ref().map(|watching| watching.child.id() as i32)
    }

    /// It is dead and reaped.
    pub(super) fn watcher_died(&mut self) {
        self.watcher = None;
        if self.ending.is_none() {
            log("the watcher of volumes has ended; starting another");
        }
    }

    /// It names containers that must go.
    pub(super) fn hear_watcher(&mut self) {
        loop {
            let Some(watching) = &self.watcher else { return };
            match watching.packets.recv::<Over>() {
                Ok(Some((over, _))) => self.end_hog(&over),
                Err(error) if error.would_block() => return,
                // Its end is reaped as every child's.
                _ => {
                    let _ = epoll::delete(&self.epoll, &watching.packets);
                    return;
                }
            }
        }
    }

    fn end_hog(&mut self, over: &Over) {
        let Some(cell) = self.cells.get_mut(&over.cell) else { return };
        if let (Stage::Bound { tenant, .. }, Some(pidfd), false) = (&cell.stage, &cell.pidfd, cell.exited) {
            log(&format!("cell {} of {tenant} is ended with {} bytes: {}", over.cell, over.bytes, over.why));
            cell.over = true;
            // It can only be gone by itself, which its pidfd will tell.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// The last act: it would end by itself, but the launcher leaves nothing behind.
    pub(super) fn end_watcher(&mut self) {
        if let Some(mut watching) = self.watcher.take() {
            let _ = watching.child.kill();
            let _ = watching.child.wait();
        }
    }
}
