//! A slot becomes a tenant's container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use warren_launcher_api::{CellId, Event, ImageName, LauncherError, Limits, Stage as Measured, TenantName};

use super::holders::News;
use super::{Cell, Launcher, Stage, log};
use crate::image::Image;
use crate::record::Record;
use crate::{bind, doors};

/// Wakes that wait for a slot. The maker serves sixty a second; more would only wait past the platform's deadline.
const MAX_WAITING: usize = 1024;
/// Slots that a wake may use up before it fails.
const TRIES: u32 = 2;

/// Making the next slot waits so long after a wake.
const REFILL_PAUSE: Duration = Duration::from_millis(10);

/// A tenant that is to be woken as soon as there is a slot.
pub(super) struct PendingWake {
    pub(super) peer: u64,
    pub(super) tag: u64,
    pub(super) tenant: TenantName,
    pub(super) image: Image,
    limits: Limits,
    since: Instant,
    tries: u32,
    /// A slot was there when it was asked for.
    from_slot: bool,
}

impl Launcher {
    /// A wish from the platform. Granted in `serve_waiting`, at once if there is a slot.
    pub(super) fn want_awake(&mut self, peer: u64, tag: u64, tenant: TenantName, image: ImageName, limits: Limits) {
        let since = Instant::now();
        match self.may_wake(&tenant, &image) {
            Ok(image) => {
                let from_slot = self.slot_for(&image).is_some();
                self.pools.woken(&image.name, since);
                self.waiting.push_back(PendingWake { peer, tag, tenant, image, limits, since, tries: 0, from_slot });
                self.serve_waiting();
            }
            Err(error) => {
                self.counts.wakes_failed += 1;
                self.say(peer, &Event::Failed { tag, error }, &[]);
            }
        }
    }

    fn may_wake(&mut self, tenant: &TenantName, image: &ImageName) -> Result<Image, LauncherError> {
        if self.ending.is_some() {
            return Err(LauncherError::Busy { reason: "the node is going down".to_owned() });
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(LauncherError::Busy { reason: format!("{MAX_WAITING} tenants wait for a slot") });
        }
        if self.waiting.iter().any(|wake| wake.tenant == *tenant) {
            return Err(LauncherError::Refused { reason: format!("{tenant} is being woken already") });
        }
        if let Some((number, cell)) = self.tenants.get(tenant).and_then(|id| Some((*id, self.cells.get(id)?))) {
            if cell.is_alive() && cell.stops.is_empty() {
                return Err(LauncherError::AlreadyAwake { tenant: tenant.clone(), cell: number });
            }
            if cell.is_alive() {
                return Err(LauncherError::StillEnding { tenant: tenant.clone(), cell: number });
            }
            // It has exited, only nobody has been told yet: the wake waits that moment.
        }
        self.image(image).map_err(|reason| LauncherError::Image { image: image.clone(), reason })
    }

    /// The image as it is now: read again if it was replaced.
    pub(super) fn image(&mut self, name: &ImageName) -> Result<Image, String> {
        if let Some(image) = self.images.get(name).filter(|image| image.is_current()) {
            return Ok(image.clone());
        }
        self.images.remove(name);
        let image = Image::load(&self.options.images, name)?;
        self.images.insert(name.clone(), image.clone());
        // Slots of the image before it are of no use.
        let stale: Vec<CellId> = self
            .ready()
            .filter(|id| self.cells.get(id).is_some_and(|cell| cell.image.name == *name && cell.image != image))
            .collect();
        for slot in stale {
            self.discard(slot);
        }
        Ok(image)
    }

    fn slot_for(&self, image: &Image) -> Option<CellId> {
        self.ready().find(|id| self.cells.get(id).is_some_and(|cell| cell.image == *image))
    }

    /// Wakes whom it can, in the order in which they came.
    pub(super) fn serve_waiting(&mut self) {
        if !self.leftovers.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(wake) = self.waiting.get(at) {
            let slot = match self.tenants.contains_key(&wake.tenant) {
                true => None,
                false => self.slot_for(&wake.image),
            };
            match slot.and_then(|slot| Some((slot, self.waiting.remove(at)?))) {
                Some((slot, wake)) => self.wake(slot, wake),
                None => at += 1,
            }
        }
    }

    fn wake(&mut self, slot: CellId, mut wake: PendingWake) {
        let mut watch = Watch::since(wake.since);
        watch.note(if wake.from_slot { "queue" } else { "create" });
        match self.bind(slot, &wake, &mut watch) {
            Ok(sockets) => {
                // The program that starts now has the processor for itself; the next slot can wait that long.
                self.refill_not_before = self.refill_not_before.max(Some(Instant::now() + REFILL_PAUSE));
                let event = Event::Woken { tag: wake.tag, cell: slot, slot: wake.from_slot, stages: watch.stages };
                let pidfd = self.pidfd(slot).and_then(|pidfd| pidfd.try_clone_to_owned().ok());
                let Some(pidfd) = pidfd else {
                    // It runs, and nobody can be told of it: it goes as any container goes.
                    self.end_gracefully(slot, 0);
                    return self
                        .wake_failed(&wake, LauncherError::Start { reason: "no descriptor is left".to_owned() });
                };
                let (count, durations) = if wake.from_slot {
                    (&mut self.counts.woken_from_slot, &mut self.counts.from_slot)
                } else {
                    (&mut self.counts.woken_without_slot, &mut self.counts.without_slot)
                };
                *count += 1;
                durations.add(wake.since.elapsed());
                // Control first, then TCP: the reverse of how they were made.
                let (tcp, control) = sockets.split_at(sockets.len() - 1);
                let mut descriptors = vec![pidfd.as_fd()];
                descriptors.extend(control.iter().chain(tcp).map(|socket| socket.as_fd()));
                self.say(wake.peer, &event, &descriptors);
            }
            Err(error) => {
                log(&format!("cell {slot} for {}: {error}", wake.tenant));
                self.unbind(slot);
                wake.tries += 1;
                let hopeless = matches!(error, LauncherError::Volume { .. });
                if hopeless || wake.tries >= TRIES {
                    self.wake_failed(&wake, error);
                } else {
                    wake.from_slot = false;
                    self.waiting.push_front(wake);
                }
            }
        }
    }

    /// Nothing came of a wake: whoever asked is told why.
    pub(super) fn wake_failed(&mut self, wake: &PendingWake, error: LauncherError) {
        self.counts.wakes_failed += 1;
        self.pools.in_vain(&wake.image.name, wake.since);
        self.say(wake.peer, &Event::Failed { tag: wake.tag, error }, &[]);
    }

    fn bind(&mut self, slot: CellId, wake: &PendingWake, watch: &mut Watch) -> Result<Vec<OwnedFd>, LauncherError> {
        let failed = |error: std::io::Error| LauncherError::Start { reason: error.to_string() };
        let volume = self
            .volumes
            .of(&wake.tenant, wake.image.uid, wake.image.gid)
            .map_err(|error| LauncherError::Volume { reason: error.to_string() })?;
        watch.note("find-volume");
        let run = self.options.run.clone();
        let Some(cell) = self.cells.get_mut(&slot) else { return Err(LauncherError::NoSuchCell { cell: slot }) };
        let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let (pid, base) = (cell.pid, cell.base);
        let bound = Stage::Bound { tenant: wake.tenant.clone(), started_unix_ms };
        self.slots.remove(&slot);
        cell.wanted = Some(wake.since);
        let (idmap, sockets, pidfd) = match (std::mem::replace(&mut cell.stage, bound), &cell.pidfd) {
            (Stage::Ready { idmap, sockets }, Some(pidfd)) => (idmap, sockets, pidfd),
            _ => return Err(LauncherError::Start { reason: "not a slot".to_owned() }),
        };
        bind::mount_volume(&volume, idmap, base, pidfd, &self.home_mounts).map_err(failed)?;
        watch.note("volume");
        self.cgroups.limit(slot, &wake.limits).map_err(failed)?;
        bind::limit_process(pid, &wake.limits).map_err(failed)?;
        watch.note("limits");
        let gone = || LauncherError::Start { reason: "the slot has died".to_owned() };
        let record = Record {
            cell: slot,
            tenant: wake.tenant.clone(),
            image: wake.image.name.clone(),
            pid,
            start_time: crate::process::start_time(pid).ok_or_else(gone)?,
            net: crate::process::namespace(pid, "net").ok_or_else(gone)?,
            user: crate::process::namespace(pid, "user").ok_or_else(gone)?,
            base,
            volume_bytes: wake.limits.volume_bytes,
            cpu_weight: wake.limits.cpu_weight,
            started_unix_ms,
            stamp: wake.image.stamp.clone(),
        };
        record.write(&run).map_err(failed)?;
        watch.note("record");
        self.tenants.insert(wake.tenant.clone(), slot);
        self.announce(News::Bound(slot));
        self.tell_holders();
        self.make_doors(slot).map_err(failed)?;
        watch.note("doors");
        bind::start(&run, slot).map_err(failed)?;
        watch.note("start");
        Ok(sockets)
    }

    /// Doors that nobody held so far are made before the tenant's program runs, which might listen at their addresses itself.
    fn make_doors(&mut self, number: CellId) -> std::io::Result<()> {
        let Some(Cell { kept, pidfd: Some(pidfd), .. }) = self.cells.get_mut(&number) else { return Ok(()) };
        if kept.is_made() { Ok(()) } else { doors::in_cell(pidfd, &self.home_net, || kept.make()) }
    }

    /// A bind that failed half-way: nobody gets this slot.
    fn unbind(&mut self, slot: CellId) {
        Record::remove(&self.options.run, slot);
        self.tenants.retain(|_, cell| *cell != slot);
        self.discard(slot);
    }
}

/// Measures the steps of a wake.
struct Watch {
    last: Instant,
    stages: Vec<Measured>,
}

impl Watch {
    fn since(start: Instant) -> Watch {
        Watch { last: start, stages: Vec::with_capacity(8) }
    }

    fn note(&mut self, name: &str) {
        let now = Instant::now();
        let micros = now.duration_since(self.last).as_micros() as u64;
        self.stages.push(Measured { name: name.to_owned(), micros });
        self.last = now;
    }
}
