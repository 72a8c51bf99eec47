//! The connection of the session before, and for the session after.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use warren_smtp::mediator::Kept;
use warren_wire::MaybeTls;

use super::{Connection, Mx};
use crate::egress::EgressAddr;
use crate::kept::{Budget, KeptLeg, Key, part};
use crate::tls::LegTls;
use crate::tls::leg::How;

impl Mx {
    /// Whether the session's connection may serve another, as far as this side of SMTP goes.
    pub(super) fn may_keep(&self) -> bool {
        let reuse = &self.settings.reuse;
        let Some(leg) = &self.leg else { return false };
        !reuse.idle.is_zero()
            && leg.carried.saturating_add(self.record.messages()) < reuse.messages
            // MXs count refusals by connection, too, and slow down or hang up behind some: the next session shall not pay for this one.
            && !self.record.was_refused()
            // It is dialled for TLS each time.
            && !matches!(leg.tls.how(), How::Failed(_))
            && !self.proxy.is_draining()
    }

    /// Keeps it. The session's place is free from now on.
    pub(super) fn keep_for_next(&mut self, stream: MaybeTls<TcpStream>, kept: Kept) {
        let Some(connection) = self.leg.take() else { return };
        self.conclude(Some(&connection));
        self.report(Some(&connection));
        self.place = None;
        let Connection { egress, tls, helo, own, carried, facts } = connection;
        let how = tls.into_how();
        let carried = carried.saturating_add(self.record.messages());
        let leg = KeptLeg::new(stream, kept, self.record.id(), Arc::clone(&self.settings));
        let leg = KeptLeg { how, facts, helo, own, carried, rtt: self.record.rtt(), ..leg };
        let (key, budget, until) = (self.key(egress), self.budget(egress), Instant::now() + self.settings.reuse.idle);
        // Under the policy's lock: whoever gets a place meanwhile makes room after that.
        self.proxy.departures().look(|policy, _| {
            let room = policy.spare(&self.ask(), egress);
            self.proxy.keeper().put(key, budget, leg, until, room);
        });
    }

    /// The connection of a session before, if this one was not dialled yet and would dial the same.
    pub(super) fn take_kept(&mut self) -> Option<(MaybeTls<TcpStream>, Kept)> {
        if self.proxy.keeper().is_empty() || self.record.was_dialled() || self.no_way.is_some() {
            return None;
        }
        self.settings.reach.judge(self.arrival.to, &self.proxy.own().now()).ok()?;
        let egress = self.place.as_ref()?.egress();
        let policy = self.handshake();
        let leg = self.proxy.keeper().take(&self.key(egress), |leg| leg.serves(&self.settings, policy));
        part(self.make_room(egress));
        let KeptLeg { stream, kept, how, facts, helo, own, rtt, carried, before, .. } = leg?;
        let mut place = self.place.take()?;
        let decision = serde_json::to_string(&place.decision(&self.ask())).unwrap_or_default();
        self.place = Some(place);
        self.record.taken_over(before, (egress.0, self.settings.name_of(egress)), &decision, rtt);
        if let Some(facts) = &facts {
            self.record.secured_before(facts);
        }
        self.leg = Some(Connection { egress, tls: LegTls::new(how), helo, own, carried, facts });
        Some((stream, kept))
    }

    /// This session has a place: no idle connection may have it as well. Those that have to go.
    pub(super) fn make_room(&self, egress: EgressAddr) -> Vec<KeptLeg> {
        if self.proxy.keeper().is_empty() {
            return Vec::new();
        }
        let room = self.proxy.departures().look(|policy, _| policy.spare(&self.ask(), egress));
        self.proxy.keeper().make_room(&self.budget(egress), room)
    }

    fn key(&self, egress: EgressAddr) -> Key {
        Key { tenant: self.arrival.tenant.clone(), mx: self.mx(), name: self.mx_name().map(str::to_owned), egress }
    }

    fn budget(&self, egress: EgressAddr) -> Budget {
        (egress, self.operator.clone())
    }
}
