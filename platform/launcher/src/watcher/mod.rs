//! The watcher: a child of the launcher that measures the volumes of running containers and names those that are over.
//!
//! ```text
//!   $run/cells/N ──▶ who runs, and what its volume may hold
//!   $state/volumes/M ──▶ glance ──▶ measure ──▶ judge ──▶ Over{cell, why} ──▶ launcher, which ends the container
//!   control groups ──▶ processor time ──▶ pace ──▶ who burns it stands back (cpu.idle), until it has rested
//! ```
//!
//! Where the kernel has no quota for directories, this stands in for one. It looks after the fact: between two looks a program can write as
//! much as the disk takes. So there is a reserve of free space as well: when it is touched, whoever grew fastest is ended, even
//! within its limit. A process of its own, as walking directories may wait for the disk and the launcher must not.

mod glance;
mod judge;
mod measure;
mod pace;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use warren_launcher_api::{CellId, Limits, TenantName};
use warren_packet::Packets;

use crate::{cgroup, layout};
use glance::{Glances, Left, Look};
use judge::{Judge, Why};
use measure::{Budget, Usage};
use pace::Pace;

/// How often it glances at the disk.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How often it looks at the processor.
const PACE: Duration = Duration::from_millis(250);
/// Files looked at in one tick while the disk hardly changes: a few milliseconds. The rest has its turn in the next ones.
const CALM: usize = 2_000;
/// And when space goes: whoever takes it is to be found now.
const ALARM: usize = 200_000;
/// Containers whose processor time is read in one look, besides those that stand back; the rest has its turn in the next ones.
const PACED: usize = 500;

/// The launcher's only message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// `--run`
    pub run: PathBuf,
    /// `--state`
    pub state: PathBuf,
    /// Directories with the containers' control groups.
    pub groups: Vec<PathBuf>,
}

/// A container that must be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// Its cell.
    pub cell: CellId,
    /// What its volume holds.
    pub bytes: u64,
    /// For the log.
    pub why: String,
}

/// Of a container's record, what concerns its volume.
#[derive(Debug, Clone, Deserialize)]
struct Watched {
    tenant: TenantName,
    #[serde(default)]
    volume_bytes: u64,
    #[serde(default = "usual_weight")]
    cpu_weight: u32,
}

/// Of containers that an older launcher has recorded.
fn usual_weight() -> u32 {
    Limits::default().cpu_weight
}

/// Serves the launcher on standard input until it hangs up.
pub fn run() -> io::Result<()> {
    let packets = Packets::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((begin, _)) = packets.recv::<Begin>().map_err(io::Error::other)? else { return Ok(()) };
    let mut watcher = Watcher::new(begin);
    loop {
        let mut hung_up = [PollFd::new(&packets, PollFlags::IN)];
        match poll(&mut hung_up, Some(&TICK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // It says nothing more, so this is its end.
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if watcher.paced_at.elapsed() >= PACE {
            watcher.paced_at = Instant::now();
            watcher.refresh()?;
            watcher.pace();
        }
        for over in watcher.glance()? {
            packets.send(&over, &[]).map_err(io::Error::other)?;
        }
    }
}

struct Watcher {
    begin: Begin,
    cells: BTreeMap<CellId, Watched>,
    judge: Judge,
    /// The last that was measured; the next look begins behind it.
    last: Option<CellId>,
    glances: Glances,
    pace: Pace,
    /// The last whose processor time was read.
    paced: Option<CellId>,
    paced_at: Instant,
    began: Instant,
}

impl Watcher {
    fn new(begin: Begin) -> Watcher {
        Watcher {
            begin,
            cells: BTreeMap::new(),
            judge: Judge::default(),
            last: None,
            glances: Glances::default(),
            pace: Pace::default(),
            paced: None,
            paced_at: Instant::now(),
            began: Instant::now(),
        }
    }

    /// Looks at the volumes, if it is time for that.
    fn glance(&mut self) -> io::Result<Vec<Over>> {
        let space = rustix::fs::statvfs(self.begin.state.join("volumes"))?;
        let left = Left {
            bytes: space.f_bavail * space.f_frsize,
            size: space.f_blocks * space.f_frsize,
            files: space.f_ffree,
        };
        let began = self.began.elapsed();
        let Some(look) = self.glances.glance(left, began) else { return Ok(Vec::new()) };
        self.refresh()?;
        let over = self.look(look == Look::Closely, left.is_short());
        let now = self.began.elapsed();
        self.glances.looked(now.saturating_sub(began), now);
        Ok(over)
    }

    fn look(&mut self, alarm: bool, short: bool) -> Vec<Over> {
        let mut budget = Budget::new(if alarm { ALARM } else { CALM });
        let next = |last: Option<CellId>| self.cells.keys().copied().filter(move |cell| last.is_none_or(|l| *cell > l));
        let turn: Vec<CellId> = next(self.last).chain(self.cells.keys().copied()).take(self.cells.len()).collect();
        let mut over = Vec::new();
        for cell in turn {
            if budget.is_spent() {
                break;
            }
            self.last = Some(cell);
            let Some(watched) = self.cells.get(&cell) else { continue };
            if watched.volume_bytes == 0 {
                continue;
            }
            let usage = self.measure(cell, watched, alarm, &mut budget);
            if let Some(why) = self.judge.measured(cell, &watched.tenant, usage, watched.volume_bytes) {
                over.push(said(cell, usage.bytes, why));
            }
        }
        if short
            && over.is_empty()
            && let Some((cell, bytes)) = self.judge.fastest()
        {
            over.push(said(cell, bytes, Why::Reserve));
        }
        for named in &over {
            self.judge.forget(named.cell);
        }
        over
    }

    /// Has those stand back who burn the processor. It is a kindness to the others: where the kernel lacks it, they have their weights.
    fn pace(&mut self) {
        let after =
            |last: Option<CellId>| self.cells.keys().copied().filter(move |cell| last.is_none_or(|l| *cell > l));
        let mut turn: Vec<CellId> =
            after(self.paced).chain(self.cells.keys().copied()).take(self.cells.len()).collect();
        turn.truncate(PACED);
        self.paced = turn.last().copied();
        turn.extend(self.pace.standing_back());
        for cell in turn {
            let Some(watched) = self.cells.get(&cell) else { continue };
            let name = layout::container_name(cell);
            let groups = || self.begin.groups.iter().map(|group| group.join(&name));
            let Some(used) = groups().find_map(|group| cgroup::processor_time(&group)) else { continue };
            if let Some(back) = self.pace.measured(cell, &watched.tenant, used, self.began.elapsed()) {
                // It can only be gone, or on a kernel older than 5.15.
                let _ = groups().try_for_each(|group| cgroup::stand_back(&group, back, watched.cpu_weight));
            }
        }
    }

    fn measure(&self, cell: CellId, watched: &Watched, alarm: bool, budget: &mut Budget) -> Usage {
        let volume = self.begin.state.join("tenants").join(watched.tenant.as_str());
        let Ok(number) = fs::read_link(volume) else { return Usage::default() };
        let volume = self.begin.state.join("volumes").join(number);
        let mut usage = measure::directory(&volume, judge::ceiling(watched.volume_bytes), budget);
        // What was deleted and is still open takes space as well, and shows nowhere else.
        if alarm {
            let name = layout::container_name(cell);
            usage.bytes += measure::deleted(&volume, self.begin.groups.iter().map(|group| group.join(&name)), budget);
        }
        usage
    }

    /// Who runs now. A record never changes, so each is read once.
    fn refresh(&mut self) -> io::Result<()> {
        let mut there = BTreeMap::new();
        for entry in fs::read_dir(layout::cells(&self.begin.run))? {
            let entry = entry?;
            let Some(cell) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(CellId) else {
                continue;
            };
            let known = self.cells.remove(&cell).or_else(|| read(&entry.path()));
            there.extend(known.map(|watched| (cell, watched)));
        }
        self.judge.keep(|cell| there.contains_key(&cell));
        self.pace.keep(|cell| there.contains_key(&cell));
        self.cells = there;
        Ok(())
    }
}

fn read(record: &Path) -> Option<Watched> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

fn said(cell: CellId, bytes: u64, why: Why) -> Over {
    Over { cell, bytes, why: why.to_string() }
}
