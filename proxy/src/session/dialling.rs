//! From which address, to the MX, under TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use warren_session::Door;
use warren_smtp::Reply;
use warren_smtp::mediator::{Kept, TlsPolicy};
use warren_wire::MaybeTls;
use warren_wire::client::Chain;
use warren_wire::relay::Upstream;

use super::{Connection, Mx, Whose};
use crate::departures::{Place, Turn};
use crate::dial::{DialError, dial};
use crate::egress::What;
use crate::kept::leave;
use crate::tls::leg::How;
use crate::tls::{Channel, Demand, LegTls, Requirement, judge};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Addresses that are tried before a dial is given up because none of them can be bound.
const ATTEMPTS: usize = 8;

impl Upstream<MaybeTls<TcpStream>> for Mx {
    type Stream = MaybeTls<TcpStream>;

    fn take_over(&mut self) -> Option<(Self::Stream, Kept)> {
        self.take_kept()
    }

    fn put_by(&mut self, stream: Self::Stream, kept: Kept) {
        self.keep_for_next(stream, kept);
    }

    async fn dial(&mut self) -> Result<Self::Stream, Reply> {
        let to = self.settings.reach.judge(self.arrival.to, &self.proxy.own().now()).map_err(|refused| {
            self.record.forbidden();
            // As the MSA wrote it; doors are of both families.
            let to = self.arrival.to.ip().to_canonical();
            tracing::info!(session = %self.record.id(), %to, reason = %refused, "not dialled");
            unreachable_because(format!("{to} is not dialled: {refused}"))
        })?;
        if std::mem::take(&mut self.leaving) {
            self.place = None;
        }
        for _ in 0..ATTEMPTS {
            let mut place = self.placed().await?;
            let (egress, decision) = (place.egress(), place.decision(&self.ask()));
            self.place = Some(place);
            let too_many = self.make_room(egress);
            if !too_many.is_empty() {
                // First: the MX counts them, too.
                leave(too_many).await;
            }
            let facts = serde_json::to_string(&decision).unwrap_or_default();
            let leg = self.leg.take();
            self.part(leg);
            self.record.dialling(egress.0, self.settings.name_of(egress), &facts);
            let legs = (self.arrival.door != Door::Cell).then(|| self.proxy.own_legs());
            let error = match dial(egress, to, self.settings.connect_timeout, legs).await {
                Ok((stream, own)) => {
                    self.record.connected();
                    self.learn_slow();
                    let how = match self.tls_failed.take() {
                        Some(reason) => How::Failed(reason),
                        None if self.handshake() == TlsPolicy::Off => How::NotTried,
                        None => How::NotOffered,
                    };
                    self.leg =
                        Some(Connection { egress, tls: LegTls::new(how), helo: None, own, carried: 0, facts: None });
                    return Ok(MaybeTls::Plain(stream));
                }
                Err(error) => error,
            };
            self.record.failed(&error.to_string());
            match error {
                DialError::Egress { from, source } => {
                    tracing::warn!(egress = %from.0, %source, "an egress address cannot be used");
                    self.learn(from, &Whose::default(), What::NotBound);
                    if self.aside.as_ref().is_some_and(|aside| aside.refused.is_some()) {
                        // There is a leg to go back to, which has its place.
                        break;
                    }
                    self.place = None;
                }
                DialError::Lack(source) => {
                    if self.proxy.places().worth_a_word() {
                        tracing::error!(%source, "this node lacks descriptors or memory for connections; sessions are told 421");
                    }
                    return Err(Reply::new(421, (4, 3, 2), format!("no connection can be made here now: {source}")));
                }
                DialError::Ports { from, to } => {
                    tracing::warn!(egress = %from.0, %to, "all ports of an egress address are in use (net.ipv4.ip_local_port_range)");
                    let reason = format!("all ports of {} towards {to} are in use; try again later", from.0);
                    return Err(Reply::new(421, (4, 3, 2), reason));
                }
                DialError::Mx { to, reason } => return Err(unreachable_because(format!("{to}: {reason}"))),
            }
        }
        Err(unreachable_because("no egress address can be used now".into()))
    }

    async fn secure(&mut self, stream: Self::Stream) -> Option<(Self::Stream, bool)> {
        let address = self.arrival.to.ip().to_canonical();
        match self.proxy.tls().connect(stream, self.mx_name(), address, HANDSHAKE).await {
            Ok(secured) => {
                let verified = secured.facts.trusted || self.speaks_dane(&secured.chain);
                self.record.secured(&secured.facts);
                if let Some(leg) = &mut self.leg {
                    leg.tls = LegTls::new(How::Tls(secured.chain));
                    // What nobody will keep, a session that waits need not either.
                    leg.facts = (!self.settings.reuse.idle.is_zero()).then(|| Arc::new(secured.facts));
                }
                Some((secured.stream, verified))
            }
            Err(error) => {
                let reason = error.to_string();
                self.record.failed(&reason);
                if let Some(leg) = &mut self.leg {
                    leg.tls = LegTls::new(How::Failed(reason.clone()));
                }
                self.tls_failed = Some(reason);
                None
            }
        }
    }

    async fn secure_client(&mut self, client: MaybeTls<TcpStream>) -> Option<MaybeTls<TcpStream>> {
        // Gone with a reload: the MSA comes back, and is not offered it.
        let entrance = self.entrance()?;
        match client.accept_tls(&entrance.certificate, HANDSHAKE).await {
            Ok(client) => {
                self.record.noted(&format!("TLS with the MSA: {}", client.tls_words().unwrap_or_default()));
                Some(client)
            }
            Err(error) => {
                self.record.noted(&format!("no TLS with the MSA: {error}"));
                None
            }
        }
    }
}

impl Mx {
    /// The place that the session has, or waits for, to be put back: at MAIL another may be wanted.
    async fn placed(&mut self) -> Result<Place, Reply> {
        if let Some(reply) = &self.no_way {
            return Err(Reply::clone(reply));
        }
        if let Some(place) = self.place.take() {
            return Ok(place);
        }
        let turn = tokio::select! {
            biased;
            turn = self.turn() => turn,
            () = self.proxy.draining() => Turn::Missed,
        };
        match turn {
            Turn::Place(place) => Ok(place),
            Turn::Refused(none) => Err(self.put_off(&none)),
            Turn::Missed => Err(self.crowded()),
        }
    }

    /// What is to be done about STARTTLS with this MX.
    pub(super) fn handshake(&self) -> TlsPolicy {
        match &self.stricter {
            Some(requirement) => Requirement::handshake(std::slice::from_ref(&**requirement), &self.settings.tls_rules),
            None => Requirement::handshake(&self.requirements(), &self.settings.tls_rules),
        }
    }

    /// What the domains ask for that the MX is known to serve.
    pub(super) fn requirements(&self) -> Vec<Requirement> {
        let known = self.names.iter().filter_map(|name| Some((name, name.domain.as_deref()?)));
        known.map(|(name, domain)| Requirement::of(&name.known(domain), &self.settings.tls_rules, false)).collect()
    }

    /// Whether TLSA records speak for these certificates: as good as a trusted root.
    fn speaks_dane(&self, chain: &Chain) -> bool {
        let now = UnixTime::now();
        let dane = self.requirements().into_iter().filter(|one| matches!(one.demand, Demand::Dane(_)));
        dane.into_iter().any(|requirement| judge(&requirement, Channel::Tls(chain), now).is_ok())
    }

    /// Where the session goes.
    pub(super) fn mx(&self) -> SocketAddr {
        SocketAddr::new(self.arrival.to.ip().to_canonical(), self.arrival.to.port())
    }
}

/// The MSA tries its next MX, and comes back.
fn unreachable_because(reason: String) -> Reply {
    Reply::new(421, (4, 4, 1), reason)
}
