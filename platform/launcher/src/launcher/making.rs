//! The maker and what it is given to do: one thing at a time, the most urgent next.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use warren_launcher_api::{CellId, ExitStatus, ImageName, LauncherError, WOKEN_TCP_SOCKETS};
use warren_packet::{PacketError, Packets};

use super::ending::Removal;
use super::holders::News;
use super::{Cell, Launcher, Stage, log, token};
use crate::doors::{self, Kept};
use crate::image::Image;
use crate::maker::{BlankIdmap, FromMaker, ToMaker};

/// Waits between two makers, or two tries to make a slot, double up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// A surplus of slots is ended one by one, so often.
const SHRINK: Duration = Duration::from_secs(5);

/// A maker that is told to end by the end of its socket has so long for what it is at.
const LAST_WORD: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// And one that has not answered for so long is stuck. Making a container takes a hundredth of a second, on a machine that is overloaded a hundred
/// times as long.
const STUCK: Duration = Duration::from_secs(30);

/// After a maker's death its half-made container may go on for a moment.
const SWEEP_AGAIN: Duration = Duration::from_millis(500);

/// The maker's process.
pub(super) struct Maker {
    child: Child,
    packets: Packets,
}

impl Maker {
    /// Sends a request; what may come back is heard later.
    pub(super) fn tell(&self, request: &ToMaker) -> Result<(), PacketError> {
        self.packets.send(request, &[])
    }
}

/// What the maker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Make(CellId),
    Reap(CellId),
}

impl Launcher {
    /// Starts a maker if there is none and it is time.
    pub(super) fn keep_maker(&mut self, now: Instant) {
        let idle = self.ending.is_some() && self.cells.is_empty();
        if self.maker.is_some() || idle || self.maker_not_before.is_some_and(|time| now < time) {
            return;
        }
        self.maker_not_before = None;
        match self.start_maker() {
            Ok(maker) => {
                self.maker = Some(maker);
                self.maker_lives += 1;
            }
            Err(error) => {
                log(&format!("cannot start a maker: {error}"));
                self.delay_maker(now);
            }
        }
    }

    fn start_maker(&self) -> Result<Maker, String> {
        let (ours, its) = Packets::pair().map_err(|error| error.to_string())?;
        // As standard input: no number to agree on. An empty environment: libcontainer would read LISTEN_FDS from it.
        let mut child = Command::new("/proc/self/exe")
            .arg("maker")
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let begin = ToMaker::Begin {
            run: self.options.run.clone(),
            images: self.options.images.clone(),
            cgroups: self.cgroups.clone(),
        };
        let begun = ours
            .send(&begin, &[])
            .and_then(|()| ours.set_nonblocking(true))
            .map_err(|error| error.to_string())
            .and_then(|()| {
                epoll::add(&self.epoll, &ours, epoll::EventData::new_u64(token::MAKER), epoll::EventFlags::IN)
                    .map_err(|errno| errno.to_string())
            });
        if let Err(error) = begun {
            // It ends by itself when the socket closes; this is only quicker.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Maker { child, packets: ours })
    }

    fn delay_maker(&mut self, now: Instant) {
        self.maker_backoff = (self.maker_backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
        self.maker_not_before = Some(now + self.maker_backoff);
    }

    /// The maker's pid, to tell its end from others'.
    pub(super) fn maker_pid(&self) -> Option<i32> {
        self.maker.as_ref().map(|maker| maker.child.id() as i32)
    }

    /// The maker is dead. What it was making is to be swept; its unbound slots are ended, as its children are now ours only by
    /// accident of the subreaper; bound containers live on.
    pub(super) fn maker_died(&mut self, how: &str, reaped: bool) {
        let Some(mut maker) = self.maker.take() else { return };
        if !reaped {
            // It has gone wrong or is about to go; either way it can only be gone already.
            let _ = maker.child.kill();
            reap_within(&mut maker.child, LAST_WORD);
        }
        if self.ending.is_none() || !self.cells.is_empty() {
            log(&format!("the maker {how}; starting another"));
        }
        self.counts.maker_restarts += 1;
        self.delay_maker(Instant::now());
        match self.job.take() {
            Some(Job::Make(cell)) => self.forget(cell),
            Some(Job::Reap(cell)) => self.reaps.push_front(cell),
            None => {}
        }
        // Those who sat in them end with it; what is left of them is swept.
        self.seats.clear();
        let slots: Vec<CellId> = self.ready().collect();
        for cell in slots {
            self.discard(cell);
        }
        // Now ours: what it did not reap, and what it had begun.
        self.reap_own();
        self.kill_strangers();
        self.sweep_at = Some(Instant::now() + SWEEP_AGAIN);
        for cell in std::mem::take(&mut self.reaps) {
            let status = self.cells.get(&cell).and_then(|cell| self.ended.remove(&cell.pid));
            self.cell_ended(cell, status.unwrap_or(ExitStatus::Unknown));
        }
    }

    /// Slots that can be bound. Asked for at every turn of the loop, so it does not look at thousands of bound cells.
    pub(super) fn ready(&self) -> impl Iterator<Item = CellId> + '_ {
        self.slots.iter().copied().filter(|id| {
            self.cells.get(id).is_some_and(|cell| matches!(cell.stage, Stage::Ready { .. }) && cell.is_alive())
        })
    }

    /// How many slots there should be, of all images.
    pub(super) fn slots_wanted(&mut self, now: Instant) -> usize {
        self.pools.wanted(now).iter().map(|(_, count)| count).sum()
    }

    /// Ends a slot.
    pub(super) fn discard(&mut self, number: CellId) {
        self.slots.remove(&number);
        if let Some(cell) = self.cells.get_mut(&number) {
            cell.stage = Stage::Discarded;
            if let Some(pidfd) = &cell.pidfd {
                // It can only be gone by itself, which its pidfd will tell.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }

    /// A cell without a container: only its traces are to be removed.
    fn forget(&mut self, number: CellId) {
        if let Some(cell) = self.cells.get_mut(&number) {
            cell.stage = Stage::Discarded;
            cell.exited = true;
            self.removals.push_back(Removal::of(number, Instant::now()));
        }
    }

    /// Gives the maker its next job: first the dead (quick, and a tenant may wait for it), then those who wait, then the pool.
    pub(super) fn give_job(&mut self, now: Instant) {
        self.shrink(now);
        if self.job.is_some() && self.job_until.is_some_and(|until| until <= now) {
            self.maker_died(&format!("has not answered for {} s", STUCK.as_secs()), false);
        }
        if self.job.is_some() || self.maker.is_none() {
            return;
        }
        if let Some(cell) = self.reaps.pop_front() {
            let pid = self.cells.get(&cell).map_or(0, |cell| cell.pid);
            return self.ask_maker(Job::Reap(cell), &ToMaker::Reap { cell, pid });
        }
        if self.ending.is_some() || !self.leftovers.is_empty() {
            return;
        }
        let Some(image) = self.wanted_image(now) else { return };
        let Some(cell) = self.next_cell() else { return self.delay_refill(now) };
        let Some(base) = self.ranges.take() else { return log("all ranges of ids are in use") };
        let entry = Cell {
            base,
            image: image.clone(),
            pid: 0,
            pidfd: None,
            maker: self.maker_lives,
            stage: Stage::Making,
            exited: false,
            over: false,
            wanted: None,
            doors: 0,
            kept: Kept::default(),
            stops: Vec::new(),
        };
        self.cells.insert(cell, entry);
        self.ask_maker(Job::Make(cell), &ToMaker::Make { cell, base, image });
    }

    fn ask_maker(&mut self, job: Job, request: &ToMaker) {
        let Some(maker) = &self.maker else { return };
        self.job = Some(job);
        self.job_until = Some(Instant::now() + STUCK);
        if let Err(error) = maker.tell(request) {
            self.maker_died(&format!("does not listen ({error})"), false);
        }
    }

    /// The image of which a slot should be made now, if any.
    fn wanted_image(&mut self, now: Instant) -> Option<Image> {
        if let Some(wake) = self.waiting.iter().find(|wake| !self.tenants.contains_key(&wake.tenant)) {
            return Some(wake.image.clone());
        }
        if self.refill_not_before.is_some_and(|time| now < time) {
            return None;
        }
        self.refill_not_before = None;
        for (name, wanted) in self.pools.wanted(now) {
            if self.ready().filter(|id| self.is_of(*id, &name)).count() >= wanted {
                continue;
            }
            match self.image(&name) {
                Ok(image) => return Some(image),
                // Said when it was wanted by somebody, or at the start.
                Err(_) if name == self.options.image => self.delay_refill(now),
                Err(_) => self.pools.forget(&name),
            }
        }
        None
    }

    fn is_of(&self, cell: CellId, image: &ImageName) -> bool {
        self.cells.get(&cell).is_some_and(|cell| cell.image.name == *image)
    }

    /// A slot more than its image is to have, if there is one. The youngest: the oldest have proved to work, and all are equal
    /// otherwise.
    fn surplus(&mut self, now: Instant) -> Option<CellId> {
        let mut room: HashMap<ImageName, usize> = self.pools.wanted(now).into_iter().collect();
        let without_room = |id: &CellId| match self.cells.get(id).and_then(|cell| room.get_mut(&cell.image.name)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        };
        self.ready().filter(without_room).last()
    }

    /// When a slot too many is to be ended.
    pub(super) fn surplus_due(&mut self, now: Instant) -> Option<Instant> {
        self.surplus(now).map(|_| self.shrink_at.unwrap_or(now + SHRINK))
    }

    fn shrink(&mut self, now: Instant) {
        let Some(surplus) = self.surplus(now) else {
            self.shrink_at = None;
            return;
        };
        match self.shrink_at {
            Some(time) if now >= time => {
                self.shrink_at = Some(now + SHRINK);
                self.discard(surplus);
            }
            Some(_) => {}
            None => self.shrink_at = Some(now + SHRINK),
        }
    }

    fn delay_refill(&mut self, now: Instant) {
        self.refill_backoff = (self.refill_backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
        self.refill_not_before = Some(now + self.refill_backoff);
    }

    pub(super) fn hear_maker(&mut self) {
        loop {
            let Some(maker) = &self.maker else { return };
            match maker.packets.recv::<FromMaker>() {
                Ok(Some((answer, descriptors))) => self.take_answer(answer, descriptors),
                Ok(None) => return self.maker_died("has closed its socket", false),
                Err(error) if error.would_block() => return,
                Err(error) => return self.maker_died(&error.to_string(), false),
            }
        }
    }

    fn take_answer(&mut self, answer: FromMaker, descriptors: Vec<OwnedFd>) {
        self.maker_backoff = Duration::ZERO;
        match (answer, self.job.take()) {
            (FromMaker::Made { cell, pid }, Some(Job::Make(asked))) if cell == asked => {
                match self.take_slot(cell, pid, descriptors) {
                    Ok(()) => {
                        self.counts.slots_made += 1;
                        self.refill_backoff = Duration::ZERO;
                    }
                    Err(reason) => self.making_failed(cell, &reason),
                }
            }
            (FromMaker::MakeFailed { cell, reason }, Some(Job::Make(asked))) if cell == asked => {
                self.making_failed(cell, &reason);
                self.forget(cell);
            }
            (FromMaker::Reaped { cell, status }, Some(Job::Reap(asked))) if cell == asked => {
                self.cell_ended(cell, status);
            }
            (answer, job) => self.maker_died(&format!("answers {answer:?} to {job:?}"), false),
        }
    }

    fn take_slot(&mut self, number: CellId, pid: i32, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let count = descriptors.len();
        let [pidfd, user, uid_map, gid_map]: [OwnedFd; 4] =
            descriptors.try_into().map_err(|_| format!("the maker sent {count} descriptors"))?;
        let Some(cell) = self.cells.get_mut(&number) else { return Err("an unknown cell".to_owned()) };
        cell.pid = pid;
        let watched =
            epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(token::CELL | number.0), epoll::EventFlags::IN);
        let cell_pidfd = cell.pidfd.insert(pidfd);
        cell.stage = Stage::Discarded;
        if let Err(errno) = watched {
            // Nobody would hear of its end: it is waited for at once.
            self.discard(number);
            self.cell_exited(number);
            return Err(format!("epoll: {errno}"));
        }
        let sockets = doors::in_cell(cell_pidfd, &self.home_net, || doors::sockets(WOKEN_TCP_SOCKETS, 1));
        match sockets {
            Ok(sockets) if self.ending.is_none() => {
                cell.stage = Stage::Ready { idmap: BlankIdmap { user, uid_map, gid_map }, sockets };
                self.slots.insert(number);
                self.announce(News::Door(number));
                Ok(())
            }
            Ok(_) => {
                self.discard(number);
                Ok(())
            }
            Err(error) => {
                self.discard(number);
                Err(format!("make sockets: {error}"))
            }
        }
    }

    /// Tells one of those who wait, so that a broken machine does not make them wait for ever; and tries again later.
    fn making_failed(&mut self, number: CellId, reason: &str) {
        log(&format!("cell {number}: {reason}"));
        self.counts.slots_failed += 1;
        self.delay_refill(Instant::now());
        let image = self.cells.get(&number).map(|cell| cell.image.name.clone());
        if let Some(at) = self.waiting.iter().position(|wake| Some(&wake.image.name) == image.as_ref())
            && let Some(wake) = self.waiting.remove(at)
        {
            let error = LauncherError::Start { reason: reason.to_owned() };
            self.wake_failed(&wake, error);
        }
    }

    /// Ends the maker for good.
    pub(super) fn end_maker(&mut self) {
        if let Some(Maker { mut child, packets }) = self.maker.take() {
            drop(packets);
            if !reap_within(&mut child, LAST_WORD) {
                // Whatever it is at, nobody wants it any more.
                let _ = child.kill();
                reap_within(&mut child, LAST_WORD);
            }
        }
    }

    /// The pidfd of a cell's container.
    pub(super) fn pidfd(&self, cell: CellId) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.cells.get(&cell)?.pidfd.as_ref().map(|pidfd| pidfd.as_fd())
    }
}

/// Takes the child's end, if it comes in this time. One that the kernel does not let go yet is told by SIGCHLD later: nobody waits for it here.
fn reap_within(child: &mut Child, patience: Timespec) -> bool {
    let pidfd = Pid::from_raw(child.id() as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let ended = pidfd.is_some_and(|pidfd| {
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).is_ok_and(|ended| ended > 0)
    });
    ended && child.wait().is_ok()
}
