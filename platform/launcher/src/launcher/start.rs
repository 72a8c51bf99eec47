//! Before the loop: is this machine fit, what still runs, what was left over.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, pidfd_send_signal, setrlimit};
use warren_launcher_api::{CellId, SOCKET_NAME, Status};
use warren_packet::PacketListener;

use super::ending::Removal;
use super::peers::Peers;
use super::pool::Pools;
use super::{Cell, Launcher, Stage, log, token};
use crate::arguments::Options;
use crate::cgroup::Cgroups;
use crate::doors::Kept;
use crate::ids::{CellNumbers, SlotRanges};
use crate::image::{Entrance, Image};
use crate::record::Record;
use crate::volume::Volumes;
use crate::{bind, check, layout};

/// What the launcher and its maker keep; README.md says what each is for.
const CAPABILITIES: [Capability; 7] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
];

/// A container that the killed launcher's maker had half made may appear after the first look.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);

impl Launcher {
    /// Everything up to the first turn of the loop.
    pub(super) fn start(options: Options) -> Result<Launcher, String> {
        // Before anything is opened: the socket that the starter passes is descriptor 3.
        let passed = passed_listener()?;
        check::root()?;
        check::user_namespaces()?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| format!("{what}: {error}")
        };
        bound_capabilities()?;
        crate::confine::confine()?;
        fs::create_dir_all(&options.run).map_err(failed(&format!("{}", options.run.display())))?;
        let lock = lock(&options.run)?;
        for directory in [layout::cells(&options.run), layout::containers(&options.run), layout::bundles(&options.run)]
        {
            fs::create_dir_all(&directory).map_err(failed(&format!("{}", directory.display())))?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
                .map_err(failed(&format!("{}", directory.display())))?;
        }
        let mut cgroups = Cgroups::discover(&options.cgroup)?;
        let volumes = Volumes::open(&options.state).map_err(failed(&format!("{}", options.state.display())))?;
        bind::probe_idmapped_mounts(volumes.directory())?;
        // A broken image is not fatal: it may be built while we run. But it is worth saying at once.
        let mut images = HashMap::new();
        match Image::load(&options.images, &options.image) {
            Ok(image) => drop(images.insert(options.image.clone(), image)),
            Err(reason) => log(&format!("image {}: {reason}", options.image)),
        }
        // More descriptors than cells: each has one, and a wake some more.
        let files = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })
            .map_err(|errno| format!("raise the limit of open files: {errno}"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| format!("become the reaper of containers: {errno}"))?;
        let signals = signals().map_err(failed("signals"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| format!("epoll: {errno}"))?;
        let listener = match passed {
            Some(listener) => listener,
            None => own_listener(&options.run)?,
        };
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        for (source, data) in [
            (std::os::fd::AsFd::as_fd(&listener), token::LISTENER),
            (std::os::fd::AsFd::as_fd(&signals), token::SIGNALS),
        ] {
            epoll::add(&epoll, source, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
                .map_err(|errno| format!("epoll: {errno}"))?;
        }
        let numbers = CellNumbers::open(&options.run).map_err(failed("cell numbers"))?;
        // Late, so that a machine that is not fit keeps no empty groups.
        cgroups.prepare().map_err(failed("make control groups"))?;
        let group_parents = remember_parents(&options.run, &cgroups).map_err(failed("note control groups"))?;
        let open = |path: &str| File::open(path).map(OwnedFd::from).map_err(failed(path));
        let mut launcher = Launcher {
            epoll,
            home_net: open("/proc/self/ns/net")?,
            home_mounts: open("/proc/self/ns/mnt")?,
            listener,
            accept_at: None,
            signals,
            _lock: lock,
            cgroups,
            group_parents,
            volumes,
            life: numbers.life(),
            numbers,
            ranges: SlotRanges::default(),
            cells: BTreeMap::new(),
            tenants: HashMap::new(),
            images,
            slots: BTreeSet::new(),
            pools: Pools::new(options.image.clone(), options.slots),
            seats: VecDeque::new(),
            waiting: VecDeque::new(),
            maker: None,
            watcher: None,
            watcher_not_before: None,
            maker_lives: 0,
            maker_backoff: Duration::ZERO,
            maker_not_before: None,
            job: None,
            job_until: None,
            reaps: VecDeque::new(),
            refill_not_before: None,
            refill_backoff: Duration::ZERO,
            shrink_at: None,
            ended: HashMap::new(),
            removals: VecDeque::new(),
            leftovers: BTreeSet::new(),
            sweep_at: Some(Instant::now() + SWEEP_AGAIN),
            kills: BTreeSet::new(),
            peers: Peers::default(),
            holders: BTreeMap::new(),
            counts: Status::default(),
            ending: None,
            options,
        };
        launcher.adopt().map_err(failed("adopt running containers"))?;
        launcher.find_leftovers();
        // Nobody may be waiting for it.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        log(&format!("ready, {} containers adopted", launcher.cells.len()));
        Ok(launcher)
    }

    /// Takes over the containers of an earlier launcher that are what their records say.
    fn adopt(&mut self) -> io::Result<()> {
        for record in Record::all(&self.options.run)? {
            let pidfd = Pid::from_raw(record.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            // Held first, judged then: a pid cannot change hands while we hold it.
            let Some(pidfd) = pidfd.filter(|_| crate::process::start_time(record.pid) == Some(record.start_time))
            else {
                Record::remove(&self.options.run, record.cell);
                continue;
            };
            let image = Image::load(&self.options.images, &record.image);
            let in_group = Cgroups::holds(&self.group_parents, record.cell, record.pid);
            let taken = self.tenants.contains_key(&record.tenant);
            if !record.is_alive() || !in_group || taken {
                log(&format!("cell {} of {} is not what its record says: ended", record.cell, record.tenant));
                // It can only be gone by itself.
                let _ = pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
                Record::remove(&self.options.run, record.cell);
                continue;
            }
            // The image may be gone by now; the container does not need it any more.
            let mut image = image.unwrap_or_else(|_| Image {
                name: record.image.clone(),
                rootfs: PathBuf::new(),
                args: Vec::new(),
                uid: 0,
                gid: 0,
                entrance: Entrance::Inherited,
                capabilities: Vec::new(),
                tmpfs: Vec::new(),
                stamp: Vec::new(),
            });
            image.stamp.clone_from(&record.stamp);
            epoll::add(
                &self.epoll,
                &pidfd,
                epoll::EventData::new_u64(token::CELL | record.cell.0),
                epoll::EventFlags::IN,
            )?;
            self.ranges.adopt(record.base);
            self.tenants.insert(record.tenant.clone(), record.cell);
            let cell = Cell {
                base: record.base,
                image,
                pid: record.pid,
                pidfd: Some(pidfd),
                maker: 0,
                stage: Stage::Bound { tenant: record.tenant, started_unix_ms: record.started_unix_ms },
                exited: false,
                over: false,
                wanted: None,
                doors: 0,
                kept: Kept::default(),
                stops: Vec::new(),
            };
            self.cells.insert(record.cell, cell);
        }
        Ok(())
    }

    /// Everything of ours that belongs to no cell is removed: slots of an earlier life, containers that died meanwhile, what a killed
    /// maker had begun.
    pub(super) fn find_leftovers(&mut self) {
        let places = self.group_parents.iter().cloned();
        let places = places.chain([layout::containers(&self.options.run), layout::bundles(&self.options.run)]);
        let names =
            places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten()).map(|entry| entry.file_name());
        let found: BTreeSet<CellId> = names
            .filter_map(|name| name.to_str().and_then(layout::cell_of))
            .filter(|cell| {
                !self.cells.contains_key(cell) && !self.leftovers.contains(cell) && !self.seats.contains(cell)
            })
            .collect();
        if !found.is_empty() {
            log(&format!("removing {} leftover containers", found.len()));
        }
        let now = Instant::now();
        self.removals.extend(found.iter().map(|cell| Removal::of(*cell, now)));
        self.leftovers.extend(found);
    }
}

/// The socket that systemd or `warren up` passes, if any.
fn passed_listener() -> Result<Option<PacketListener>, String> {
    let ours = match std::env::var("LISTEN_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => true,
    };
    match std::env::var("LISTEN_FDS").as_deref() {
        Ok("1") if ours => crate::sys::take_inherited_descriptor()
            .map(|descriptor| Some(PacketListener::from(descriptor)))
            .map_err(|error| format!("the socket passed as descriptor 3 (LISTEN_FDS=1): {error}")),
        Ok(number) if ours && number != "0" => Err(format!("LISTEN_FDS={number}: one socket is wanted")),
        _ => Ok(None),
    }
}

/// Anybody may connect; what one may ask for is decided by the user the kernel names.
fn own_listener(run: &Path) -> Result<PacketListener, String> {
    let path = run.join(SOCKET_NAME);
    let listener = PacketListener::listen(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(listener)
}

fn lock(run: &Path) -> Result<OwnedFd, String> {
    let path = run.join("lock");
    let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another launcher runs with --run {}: end it first", run.display()))?;
    Ok(file.into())
}

fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    // SIGHUP would mean reload; there is nothing to.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Gives up every capability that is not needed, for good: also the maker's exec cannot regain them.
fn bound_capabilities() -> Result<(), String> {
    let failed = |error: caps::errors::CapsError| format!("give up capabilities: {error}");
    for capability in caps::all() {
        if !CAPABILITIES.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let kept = permitted.iter().copied().filter(|capability| CAPABILITIES.contains(capability)).collect();
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
    match CAPABILITIES.iter().find(|capability| !kept.contains(capability)) {
        Some(missing) => Err(format!("{missing} is missing: start it with root's full capabilities")),
        None => Ok(()),
    }
}

/// Our place in the hierarchies may differ from start to start (a shell's session, a service), so earlier places are kept in a file as
/// long as they exist.
fn remember_parents(run: &Path, cgroups: &Cgroups) -> io::Result<Vec<PathBuf>> {
    let file = run.join("cgroups");
    let mut parents = cgroups.parents();
    for line in fs::read_to_string(&file).unwrap_or_default().lines() {
        let earlier = PathBuf::from(line);
        if earlier.is_dir() && !parents.contains(&earlier) {
            parents.push(earlier);
        }
    }
    let text: String = parents.iter().map(|parent| format!("{}\n", parent.display())).collect();
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &file)?;
    Ok(parents)
}
