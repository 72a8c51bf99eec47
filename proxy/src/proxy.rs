//! What all sessions share.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use warren_daemon::Accepting;
use warren_launcher_api::CellId;
use warren_session::Recorder;
use warren_session::detect::Thresholds;
use warren_tlsrpt::Reporter;
use warren_wire::ClientTls;

use crate::departures::Departures;
use crate::detect::Detector;
use crate::egress::{Policy, Rules};
use crate::kept::Keeper;
use crate::names::{MAX_NOTE, Name, Names, Note};
use crate::own::{OwnAddresses, OwnLegs};
use crate::places::{self, Places};
use crate::settings::Settings;
use crate::standalone::Entrance;
use crate::tls::StsFound;

/// Notes read at once before a connection is handled: what a resolver can have queued.
const NOTES_AT_ONCE: usize = 1_000;

/// The proxy as its sessions see it.
#[derive(Debug)]
pub struct Proxy {
    settings: ArcSwap<Settings>,
    departures: Arc<Departures>,
    detector: Arc<Detector>,
    names: Mutex<Names>,
    notes: Option<UnixDatagram>,
    own: OwnAddresses,
    tls: ClientTls,
    recorder: Recorder,
    tls_reports: Reporter,
    places: Places,
    keeper: Keeper,
    accepting: Accepting,
    own_legs: OwnLegs,
    entrance: ArcSwapOption<Entrance>,
    draining: AtomicBool,
    /// Rings when draining begins.
    going_down: Notify,
    started: SystemTime,
}

/// What a proxy is made of.
#[derive(Debug)]
pub struct Parts {
    /// What every session needs to know.
    pub settings: Settings,
    /// From which address sessions leave, and when.
    pub policy: Policy,
    /// Where the resolver's notes arrive.
    pub notes: Option<UnixDatagram>,
    /// TLS towards MXs.
    pub tls: ClientTls,
    /// Where sessions are recorded.
    pub recorder: Recorder,
    /// Where sessions leave what they found about TLS.
    pub tls_reports: Reporter,
}

impl Proxy {
    /// A proxy of these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let limits = parts.policy.rules().limits;
        Arc::new(Self {
            settings: ArcSwap::from_pointee(parts.settings),
            departures: Departures::new(parts.policy),
            detector: Detector::new(Thresholds::default()),
            names: Mutex::default(),
            notes: parts.notes,
            own: OwnAddresses::default(),
            tls: parts.tls,
            recorder: parts.recorder,
            tls_reports: parts.tls_reports,
            places: Places::new(limits.per_tenant, warren_daemon::descriptors()),
            keeper: Keeper::new(places::kept(warren_daemon::descriptors())),
            accepting: Accepting::default(),
            own_legs: OwnLegs::default(),
            entrance: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            going_down: Notify::new(),
            started: SystemTime::now(),
        })
    }

    /// Takes over changed settings and rules for sessions that begin from now on. What is known of addresses that stay is kept.
    pub fn reload(&self, settings: Settings, rules: Rules) {
        self.settings.store(Arc::new(settings));
        self.departures.reload(rules);
    }

    /// Offers MTAs outside of cells STARTTLS with this certificate, or with none. Sessions that were offered it before go on with the new one.
    pub fn offer_tls(&self, entrance: Option<Entrance>) {
        self.entrance.store(entrance.map(Arc::new));
    }

    /// What MTAs outside of cells are offered STARTTLS with.
    pub(crate) fn entrance(&self) -> Option<Arc<Entrance>> {
        self.entrance.load_full()
    }

    /// What holds for a session that begins now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// From which address sessions leave, and when.
    pub fn departures(&self) -> &Arc<Departures> {
        &self.departures
    }

    /// What sessions notice about MX hosts.
    pub fn detector(&self) -> &Arc<Detector> {
        &self.detector
    }

    /// When it was made.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    pub(crate) fn own(&self) -> &OwnAddresses {
        &self.own
    }

    pub(crate) fn tls(&self) -> &ClientTls {
        &self.tls
    }

    /// Where sessions leave what they found about TLS.
    pub(crate) fn tls_reports(&self) -> &Reporter {
        &self.tls_reports
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Connections between two sessions.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Leaves connections that were kept and that nobody took over in time, for ever.
    pub async fn keep_time(&self) {
        self.keeper.keep_time().await;
    }

    /// What doors do that cannot accept.
    pub(crate) fn accepting(&self) -> &Accepting {
        &self.accepting
    }

    /// The connections to MXs, for doors that a wrong rule may send them to.
    pub(crate) fn own_legs(&self) -> &OwnLegs {
        &self.own_legs
    }

    /// Everything that the resolver told a cell that `address` is, the likeliest first. Notes that wait in the socket are read first: they were sent
    /// before the address was given out.
    pub fn names_of(&self, cell: CellId, address: IpAddr) -> Vec<Name> {
        self.read_notes();
        self.names.lock().unwrap_or_else(PoisonError::into_inner).lookup(cell, address, Instant::now())
    }

    /// What a recipient of `domain` is judged by in a session with `address` under the name `dialled`; see [`Names::judge_by`].
    pub fn judge_by(&self, cell: CellId, address: IpAddr, domain: &str, dialled: Option<&str>) -> Option<Name> {
        self.read_notes();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.judge_by(cell, address, domain, dialled, Instant::now())
    }

    /// The MTA-STS policy of a domain that the cell asked for.
    pub fn sts_of(&self, cell: CellId, domain: &str) -> Arc<StsFound> {
        self.read_notes();
        self.names.lock().unwrap_or_else(PoisonError::into_inner).sts(cell, domain, Instant::now())
    }

    /// Forgets what a cell that is gone was told.
    pub(crate) fn forget(&self, cell: CellId) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).forget(cell);
    }

    /// Reads notes for ever, so that the resolver never finds the socket full.
    pub async fn keep_reading_notes(&self) {
        let Some(socket) = &self.notes else { return std::future::pending().await };
        loop {
            if let Err(error) = socket.readable().await {
                tracing::error!(%error, "the names socket is of no use; sessions go on without names");
                return std::future::pending().await;
            }
            // What is left to be read keeps the socket ready.
            let all = || if self.read_notes() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) };
            let _ = socket.try_io(Interest::READABLE, all);
        }
    }

    /// Whether all of them were read. Asks the kernel, not the runtime: sessions are on other threads than the one that watches the socket, which may not have
    /// seen yet that there is something.
    fn read_notes(&self) -> bool {
        let Some(socket) = &self.notes else { return true };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; MAX_NOTE];
        for _ in 0..NOTES_AT_ONCE {
            match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => match serde_json::from_slice::<Note>(&buffer[..length]) {
                    Ok(note) => names.note(note, Instant::now()),
                    Err(error) => tracing::warn!(%error, "not a note of the resolver"),
                },
                Err(Errno::AGAIN) => return true,
                Err(error) => {
                    tracing::warn!(%error, "reading the resolver's notes");
                    return true;
                }
            }
        }
        false
    }

    /// Asks all sessions to end behind their open transactions, and waits for that, at most for `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        self.going_down.notify_waiters();
        if tokio::time::timeout(patience, self.departures.all_gone()).await.is_err() {
            tracing::warn!("sessions were still going on; their mail is tried again by its MSA");
        }
        self.keeper.close().await;
    }

    /// Resolves when sessions are told to end from now on. Thousands of sessions wait for it: it is as small as such a thing can be.
    pub(crate) fn going_down(&self) -> Notified<'_> {
        self.going_down.notified()
    }

    /// Whether sessions were told to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Resolves when sessions are to end.
    pub(crate) async fn draining(&self) {
        // First, so that nothing is missed in between.
        let going_down = self.going_down();
        if !self.is_draining() {
            going_down.await;
        }
    }
}
