//! One session: an MSA's connection, from its door to the MX and into the records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use warren_launcher_api::{CellId, TenantName};
use warren_session::{Door, SessionId, SessionStart};
use warren_smtp::Reply;
use warren_smtp::mediator::{Deadlines, Event, Leg, Mediator, Observer, Outbound, Policy, StandIn};
use warren_wire::MaybeTls;
use warren_wire::relay::{Upstream, relay};

use crate::dial::{DialError, dial};
use crate::places::{Place, Ticket};
use crate::proxy::Proxy;
use crate::record::SessionRecord;
use crate::settings::Settings;

/// How long the MSA of a session without a place may be silent. Messages that are refused take it no time.
const STAND_IN_SILENCE: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Where a connection came from, and where to.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Whose it is.
    pub tenant: TenantName,
    /// The cell it came out of.
    pub cell: Option<CellId>,
    /// The kind of door.
    pub door: Door,
    /// The address that the MSA dialled.
    pub to: SocketAddr,
}

/// Carries one connection through: waits for its turn first, ends when both sides are done with.
pub async fn run(proxy: Arc<Proxy>, client: TcpStream, arrival: Arrival, ticket: Ticket) {
    let began = Instant::now();
    let settings = proxy.settings();
    let name = arrival.cell.and_then(|cell| proxy.name_of(cell, arrival.to.ip()));
    let mx_name = name.map(|name| name.mx);
    let start = SessionStart {
        id: SessionId::new(),
        tenant: arrival.tenant.clone(),
        cell: arrival.cell,
        door: arrival.door,
        mx: SocketAddr::new(arrival.to.ip().to_canonical(), arrival.to.port()),
        mx_name: mx_name.clone(),
        mx_operator: None,
        at: SystemTime::now(),
    };
    let record = SessionRecord::new(proxy.recorder().session(start), began);
    tracing::debug!(session = %record.id(), tenant = %arrival.tenant, to = %arrival.to, "session");
    let mut mx = Mx { proxy: &proxy, settings: &settings, to: arrival.to, mx_name, record };
    let turn = tokio::select! {
        biased;
        () = left(&client) => Turn::Missed,
        place = proxy.places().wait(&ticket) => Turn::Come(place),
        () = proxy.draining() => Turn::Come(None),
    };
    if let Turn::Come(place) = turn {
        // Commands are small and waited for. Failing costs speed only.
        let _ = client.set_nodelay(true);
        let mut mediator = mx.mediator(place.is_some());
        relay(&mut mediator, client, &mut mx, proxy.draining()).await;
    }
    mx.record.finish();
}

/// How waiting for a place ended.
enum Turn {
    /// With a place, or not in time.
    Come(Option<Place>),
    /// The MSA went away.
    Missed,
}

/// Resolves when the MSA goes away. One that talks before it is greeted stays.
async fn left(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}

/// The MX's side of a session, and its record.
struct Mx<'a> {
    proxy: &'a Proxy,
    settings: &'a Settings,
    to: SocketAddr,
    mx_name: Option<String>,
    record: SessionRecord,
}

impl Mx<'_> {
    /// The session, with the MX or, where there is no place for it, in the MX's stead.
    fn mediator(&mut self, place: bool) -> Mediator {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        if place {
            let leg = Leg { ehlo_name: self.settings.ehlo_name.clone(), tls: self.settings.tls };
            return Mediator::outbound(Outbound { leg, deadlines }, now);
        }
        self.record.crowded();
        let name = self.mx_name.clone().unwrap_or_else(|| format!("[{}]", self.to.ip().to_canonical()));
        let refusal = Reply::new(451, (4, 3, 2), "too many sessions at once; try again later");
        let deadlines = Deadlines { client: STAND_IN_SILENCE, content: STAND_IN_SILENCE, ..deadlines };
        Mediator::stand_in(StandIn { name, refusal, deadlines }, now, self)
    }

    async fn try_dial(&mut self) -> Result<TcpStream, Reply> {
        let to = self.settings.reach.judge(self.to, &self.proxy.own().now()).map_err(|refused| {
            self.record.forbidden();
            tracing::info!(session = %self.record.id(), to = %self.to, reason = %refused, "not dialled");
            unreachable_because(format!("{} is not dialled: {refused}", self.to.ip()))
        })?;
        let mut attempts = self.proxy.rotation().addresses().count().max(1);
        loop {
            let chosen = self.proxy.rotation().choose(to.ip(), Instant::now());
            let decision = chosen.map_err(|none| unreachable_because(none.to_string()))?;
            let facts = serde_json::to_value(&decision).unwrap_or_default();
            self.record.dialling(decision.egress.0, &self.settings.ehlo_name, facts);
            let error = match dial(decision.egress, to, self.settings.connect_timeout).await {
                Ok(stream) => {
                    self.record.connected();
                    return Ok(stream);
                }
                Err(error) => error,
            };
            self.record.failed(&error.to_string());
            match error {
                DialError::Egress { from, source } => {
                    tracing::warn!(egress = %from.0, %source, "an egress address cannot be used");
                    self.proxy.rotation().failed(from, Instant::now());
                    attempts -= 1;
                    if attempts == 0 {
                        return Err(unreachable_because("no egress address can be used now".into()));
                    }
                }
                DialError::Mx { to, reason } => return Err(unreachable_because(format!("{to}: {reason}"))),
            }
        }
    }
}

impl Policy for Mx<'_> {}

impl Upstream for Mx<'_> {
    type Stream = MaybeTls<TcpStream>;

    async fn dial(&mut self) -> Result<Self::Stream, Reply> {
        self.try_dial().await.map(MaybeTls::Plain)
    }

    async fn secure(&mut self, stream: Self::Stream) -> Option<(Self::Stream, bool)> {
        let address = self.to.ip().to_canonical();
        match self.proxy.tls().connect(stream, self.mx_name.as_deref(), address, HANDSHAKE).await {
            Ok(secured) => {
                let trusted = secured.facts.trusted;
                self.record.secured(secured.facts);
                Some((secured.stream, trusted))
            }
            Err(error) => {
                self.record.failed(&error.to_string());
                None
            }
        }
    }
}

impl Observer for Mx<'_> {
    fn event(&mut self, at: Instant, event: Event<'_>) {
        self.record.event(at, event);
    }
}

/// The MSA tries its next MX, and comes back.
fn unreachable_because(reason: String) -> Reply {
    Reply::new(421, (4, 4, 1), reason)
}
