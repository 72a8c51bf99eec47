//! Containers end; nothing of them stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, pidfd_send_signal, wait};
use warren_launcher_api::{CellId, DAEMONS_GROUP, Event, ExitStatus, LauncherError};

use super::holders::News;
use super::{Cell, Launcher, Stage, log};
use crate::{cgroup, layout, process};

/// A control group stays busy for a moment after its last process.
const AGAIN: Duration = Duration::from_millis(5);
/// And is given up after so many tries; the next launcher will find it.
const TRIES: u32 = 2000;
/// When told to end, we go after the grace and this much, whatever is left.
const PATIENCE: Duration = Duration::from_secs(20);
/// And so much more for each container: the kernel takes milliseconds for a control group.
const PATIENCE_EACH: Duration = Duration::from_millis(50);

/// The traces of one container, taken away in small steps so that no wake has to wait.
pub(super) struct Removal {
    cell: CellId,
    step: usize,
    tries: u32,
    pub(super) not_before: Instant,
}

impl Removal {
    pub(super) fn of(cell: CellId, now: Instant) -> Removal {
        Removal { cell, step: 0, tries: 0, not_before: now }
    }
}

impl Launcher {
    /// A pidfd has become readable: all processes of the container are gone.
    pub(super) fn cell_exited(&mut self, number: CellId) {
        let Some(cell) = self.cells.get_mut(&number) else { return };
        if cell.exited {
            return;
        }
        cell.exited = true;
        self.slots.remove(&number);
        if let Some(pidfd) = &cell.pidfd {
            // It stays readable; one event is enough.
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        if cell.maker == self.maker_lives && self.maker.is_some() {
            return self.reaps.push_back(number);
        }
        // Its maker is dead, so it is our child, or was somebody's of whom we do not know.
        self.reap_own();
        let pid = self.cells.get(&number).map_or(0, |cell| cell.pid);
        let status = self.ended.remove(&pid).unwrap_or(ExitStatus::Unknown);
        self.cell_ended(number, status);
    }

    /// Reaps our own children: the maker, and containers whose maker has died.
    pub(super) fn reap_own(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if self.maker_pid() == Some(pid) {
                self.maker_died(&format!("has ended ({:?})", process::exit_status(status)), true);
            } else if self.watcher_pid() == Some(pid) {
                self.watcher_died();
            } else if self.cells.values().any(|cell| cell.pid == pid) {
                self.ended.insert(pid, process::exit_status(status));
            }
        }
    }

    /// Kills children of ours that belong to no cell: helpers and inits that a dead maker had begun.
    pub(super) fn kill_strangers(&self) {
        for pid in process::children() {
            let ours = [self.maker_pid(), self.watcher_pid()].contains(&Some(pid));
            if !ours && !self.cells.values().any(|cell| cell.pid == pid) {
                // Our own child, not reaped yet: its number cannot be another's.
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
    }

    /// A container is reaped: tell everybody, then take its traces away.
    pub(super) fn cell_ended(&mut self, number: CellId, status: ExitStatus) {
        let Some(cell) = self.cells.get_mut(&number) else { return };
        let status = if cell.over { ExitStatus::OverVolume } else { status };
        let (image, wanted, unbidden) = (cell.image.name.clone(), cell.wanted.take(), cell.stops.is_empty());
        // Drops its sockets and doors, and with them the last references to the cell.
        cell.kept = crate::doors::Kept::default();
        match std::mem::replace(&mut cell.stage, Stage::Discarded) {
            Stage::Bound { tenant, .. } => {
                crate::record::Record::remove(&self.options.run, number);
                self.tenants.remove(&tenant);
                // Unless it was told to end.
                if let Some(wanted) = wanted.filter(|_| unbidden && status != ExitStatus::Code(0)) {
                    self.pools.in_vain(&image, wanted);
                }
                self.say_platform(&Event::Exited { cell: number, tenant, status });
            }
            Stage::Ready { .. } => log(&format!("slot {number} ended by itself: {status:?}")),
            Stage::Making | Stage::Discarded => {}
        }
        self.announce(News::Gone(number));
        self.removals.push_back(Removal::of(number, Instant::now()));
    }

    /// Kills those whose grace is over.
    pub(super) fn kill_overdue(&mut self, now: Instant) {
        while let Some((at, number)) = self.kills.first().copied().filter(|(at, _)| *at <= now) {
            self.kills.remove(&(at, number));
            if let Some(pidfd) =
                self.cells.get(&number).filter(|cell| !cell.exited).and_then(|cell| cell.pidfd.as_ref())
            {
                // It can only be gone by itself, which its pidfd will tell.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }

    /// One step of one removal.
    pub(super) fn remove_step(&mut self, now: Instant) {
        let Some(at) = self.removals.iter().position(|removal| removal.not_before <= now) else { return };
        let Some(mut removal) = self.removals.remove(at) else { return };
        let places = self.places(removal.cell);
        let Some(place) = places.get(removal.step) else { return self.removed(removal.cell) };
        match remove(place, removal.step < self.group_parents.len()) {
            Ok(()) => {
                removal.step += 1;
                removal.tries = 0;
                removal.not_before = now;
            }
            Err(error) if removal.tries >= TRIES => {
                log(&format!("{} stays: {error}", place.display()));
                removal.step += 1;
                removal.tries = 0;
            }
            Err(_) => {
                removal.tries += 1;
                removal.not_before = now + AGAIN;
            }
        }
        self.removals.push_back(removal);
    }

    /// First the groups, as the directories' names are how a next launcher would find them.
    fn places(&self, cell: CellId) -> Vec<PathBuf> {
        let name = layout::container_name(cell);
        let run = &self.options.run;
        let parents = self.group_parents.iter().cloned();
        parents.chain([layout::containers(run), layout::bundles(run)]).map(|parent| parent.join(&name)).collect()
    }

    fn removed(&mut self, number: CellId) {
        self.leftovers.remove(&number);
        self.kills.retain(|(_, cell)| *cell != number);
        let Some(Cell { base, stops, pid, .. }) = self.cells.remove(&number) else { return };
        self.ranges.give_back(base);
        self.ended.remove(&pid);
        for (peer, tag) in stops {
            self.say(peer, &Event::Stopped { tag }, &[]);
        }
    }

    /// SIGTERM: everything is to end.
    pub(super) fn begin_end(&mut self) {
        if self.ending.is_some() {
            return;
        }
        log("ending all containers");
        let grace = self.options.grace_ms;
        let each = PATIENCE_EACH * u32::try_from(self.cells.len()).unwrap_or(u32::MAX);
        self.ending = Some(Instant::now() + Duration::from_millis(grace.into()) + PATIENCE + each);
        for wake in std::mem::take(&mut self.waiting) {
            let error = LauncherError::Busy { reason: "the node is going down".to_owned() };
            self.say(wake.peer, &Event::Failed { tag: wake.tag, error }, &[]);
        }
        let cells: Vec<(CellId, bool)> = self.cells.iter().map(|(id, cell)| (*id, cell.tenant().is_some())).collect();
        for (cell, bound) in cells {
            if bound {
                self.end_gracefully(cell, grace);
            } else if self.cells.get(&cell).is_some_and(|cell| cell.is_alive()) {
                self.discard(cell);
            }
        }
    }

    /// We were told to end, and nothing is left, or it is too late.
    pub(super) fn is_done(&mut self) -> bool {
        let Some(latest) = self.ending else { return false };
        if self.cells.is_empty() && self.removals.is_empty() {
            // With it go the seats, which may still be at making their groups.
            self.end_maker();
            self.seats.clear();
            self.find_leftovers();
        }
        self.cells.is_empty() && self.removals.is_empty() || Instant::now() >= latest
    }

    /// The last act.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        self.end_maker();
        self.end_watcher();
        if !self.cells.is_empty() {
            return Err(io::Error::other(format!("{} containers would not end", self.cells.len())));
        }
        self.cgroups.leave_daemons();
        for parent in &self.group_parents {
            // Those who followed us into the daemons' group may still be there, and another launcher of the same name its groups.
            let _ = fs::remove_dir(parent.join(DAEMONS_GROUP));
            let _ = fs::remove_dir(parent);
        }
        log("ended");
        Ok(())
    }
}

fn remove(place: &Path, is_group: bool) -> io::Result<()> {
    let done = if is_group { remove_group(place) } else { fs::remove_dir_all(place) };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn remove_group(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            cgroup::kill_all(group);
            Err(error)
        }
        done => done,
    }
}
