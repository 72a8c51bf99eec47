//! One session: an MSA's connection, from its door to the MX and into the records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use warren_launcher_api::{CellId, TenantName};
use warren_session::{Door, SessionId, SessionStart};
use warren_smtp::Reply;
use warren_smtp::mediator::{Deadlines, Event, Mediator, Observer, Outbound, Transparent};
use warren_wire::MaybeTls;
use warren_wire::relay::{Upstream, relay};

use crate::dial::{DialError, dial};
use crate::proxy::Proxy;
use crate::record::SessionRecord;
use crate::settings::Settings;

/// How long a session waits for its place, its greeting withheld: below the time that MSAs wait for one (Postfix: 5 minutes with
/// `smtp_helo_timeout`, Exim: 5 minutes).
const PATIENCE: Duration = Duration::from_secs(60);
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

/// Carries one connection through. Ends when both sides are done with.
pub async fn run(proxy: Arc<Proxy>, client: TcpStream, arrival: Arrival) {
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
    let place = proxy.place(PATIENCE).await;
    // Commands are small and waited for. Failing costs speed only.
    let _ = client.set_nodelay(true);
    let outbound =
        Outbound { ehlo_name: settings.ehlo_name.clone(), tls: settings.tls, deadlines: Deadlines::default() };
    let mut mediator = Mediator::outbound(outbound, Transparent, began);
    let draining = proxy.draining();
    let mut mx = Mx { proxy: &proxy, settings: &settings, to: arrival.to, mx_name, full: place.is_none(), record };
    relay(&mut mediator, client, &mut mx, draining).await;
    mx.record.finish();
}

/// The MX's side of a session, and its record.
struct Mx<'a> {
    proxy: &'a Proxy,
    settings: &'a Settings,
    to: SocketAddr,
    mx_name: Option<String>,
    /// There was no place for this session.
    full: bool,
    record: SessionRecord,
}

impl Mx<'_> {
    async fn try_dial(&mut self) -> Result<TcpStream, Reply> {
        if self.full {
            return Err(Reply::new(421, (4, 3, 2), "too many sessions at once; try again"));
        }
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

impl Upstream for Mx<'_> {
    type Stream = MaybeTls<TcpStream>;

    async fn dial(&mut self) -> Result<Self::Stream, Reply> {
        self.try_dial().await.map(MaybeTls::Plain)
    }

    async fn secure(&mut self, stream: Self::Stream) -> Option<(Self::Stream, bool)> {
        let address = self.to.ip().to_canonical();
        match self.proxy.tls().connect(stream, self.mx_name.as_deref(), address, HANDSHAKE).await {
            Ok((stream, facts)) => {
                let trusted = facts.trusted;
                self.record.secured(facts);
                Some((stream, trusted))
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
