//! One session: an MSA's connection, from its door to the MX and into the records.
//!
//! ```text
//!   Arrival ─▶ waits for its turn, greeting withheld ─┬▶ mediator and relay ◀─▶ Mx ◀─▶ the MX
//!                                                     └▶ no turn: stood in for, each message told 451
//!
//!   Mx   dial     which address, from there to the MX, under TLS        at accept, at MAIL, after a refusal
//!        judge    what the mediator asks: this MAIL from here? this recipient over this TLS? another address?
//!        learn    what is told: to the record, the egress policy, the TLS report
//! ```
//!
//! Decisions about SMTP are the [mediator](warren_smtp::mediator)'s, those about addresses the [egress policy](crate::egress)'s, those about trust
//! [`tls`](crate::tls)'. Here they meet, and are carried out.

mod dialling;
mod judging;
mod keeping;
mod learning;
mod turns;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use warren_launcher_api::{CellId, TenantName};
use warren_session::{Door, SessionId, SessionStart};
use warren_smtp::Reply;
use warren_smtp::mediator::{ClientTls, Deadlines, Leg, Mediator, Outbound, StandIn, Topic};
use warren_wire::MaybeTls;
use warren_wire::client::TlsFacts;
use warren_wire::relay::relay;

use crate::departures::{Place, Turn};
use crate::egress::{Ask, EgressAddr, NoEgress, Operator};
use crate::names::Name;
use crate::own::OwnLeg;
use crate::places::Ticket;
use crate::proxy::Proxy;
use crate::record::SessionRecord;
use crate::settings::Settings;
use crate::standalone::Entrance;
use crate::tls::{LegTls, Requirement};
use turns::{Owed, Turns, Whose};

/// How long the MSA of a session without a place may be silent. Messages that are refused take it no time.
const STAND_IN_SILENCE: Duration = Duration::from_secs(60);

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

/// Carries one connection through: waits for its turn first, ends when both sides are done with. The ticket is held until then.
pub fn run(proxy: Arc<Proxy>, client: TcpStream, arrival: Arrival, ticket: Ticket) -> impl Future<Output = ()> + Send {
    // Made here: what is an argument of the future keeps its place there, whatever becomes of it.
    let mut mx = Mx::new(proxy, arrival, Instant::now());
    async move {
        let _ticket = &ticket;
        // Boxed: waiting is over soon, and would make room for itself in a session that goes on for hours.
        let turn = Box::pin(async {
            tokio::select! {
                biased;
                // Most have their turn at once, and need not look whether somebody is still there.
                turn = mx.turn() => Some(turn),
                () = left(&client) => None,
                () = mx.proxy.draining() => Some(Turn::Missed),
            }
        });
        let mut mediator = match turn.await {
            Some(turn) => mx.mediator(turn),
            None => return mx.finish(),
        };
        let proxy = Arc::clone(&mx.proxy);
        // It hears of what happens from now on, so that nothing is missed in between.
        let mut going_down = pin!(proxy.going_down());
        if proxy.is_draining() {
            mediator.drain(Instant::now(), &mut mx);
        }
        // Asked again whenever something is said, and all sessions share one list: it stays on that, and is left alone until there is something to hear.
        let mut listens = false;
        let going_down = poll_fn(|cx| match std::mem::replace(&mut listens, true) && !proxy.is_draining() {
            true => Poll::Pending,
            false => going_down.as_mut().poll(cx),
        });
        relay(&mut mediator, MaybeTls::Plain(client), &mut mx, going_down).await;
        mx.finish();
    }
}

/// Resolves when the MSA goes away. One that talks before it is greeted stays.
async fn left(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}

/// The MX's side of a session, and its record.
struct Mx {
    proxy: Arc<Proxy>,
    settings: Arc<Settings>,
    arrival: Arrival,
    /// What the resolver said that the MX's address is, the likeliest first.
    names: Vec<Name>,
    operator: Operator,
    record: SessionRecord,
    /// The right to leave from an address, while there is one.
    place: Option<Place>,
    /// Why there is no way at all, for all MXs of the address's family.
    no_way: Option<Box<Reply>>,
    sender: Sender,
    /// The connection that is being dialled or used.
    leg: Option<Connection>,
    /// The one that was set aside, or just left.
    aside: Option<Box<Aside>>,
    /// TLS failed on the leg before, which is dialled again in the clear: why.
    tls_failed: Option<String>,
    /// TLS is wanted more than at first: by a recipient whose domain became known later.
    stricter: Option<Box<Requirement>>,
    /// The refusal that comes next was learned from already.
    learned: bool,
    /// The next MAIL leaves from another place: this one is given up with its connection, which may owe replies yet.
    leaving: bool,
    /// Whose message a reply is about.
    turns: Turns,
}

/// The message that the MSA is at, as far as MAIL told.
#[derive(Debug, Default)]
struct Sender {
    whose: Whose,
    require_tls: bool,
    /// MAIL waits for the first recipient that passes.
    held: bool,
}

/// A connection to the MX, as far as the outside of SMTP goes.
#[derive(Debug)]
struct Connection {
    egress: EgressAddr,
    tls: LegTls,
    /// The name that the MX gave itself.
    helo: Option<String>,
    /// Beside an MTA, a wrong rule may send it back to the door.
    own: Option<OwnLeg>,
    /// What its handshake came to, for the sessions that follow.
    facts: Option<Arc<TlsFacts>>,
    /// Messages of sessions before this one.
    carried: u32,
}

#[derive(Debug)]
struct Aside {
    connection: Option<Connection>,
    /// What it owes an answer to.
    owed: Owed,
    /// What the MX refused: the session goes back there if the new one is of no use.
    refused: Option<Topic>,
}

impl Mx {
    fn new(proxy: Arc<Proxy>, arrival: Arrival, began: Instant) -> Self {
        let settings = proxy.settings();
        let mx = SocketAddr::new(arrival.to.ip().to_canonical(), arrival.to.port());
        let names = arrival.cell.map(|cell| proxy.names_of(cell, mx.ip())).unwrap_or_default();
        let mx_name = names.first().map(|name| name.mx.clone());
        let operator = proxy.departures().operator(mx_name.as_deref(), mx.ip());
        let start = SessionStart {
            id: SessionId::new(),
            tenant: arrival.tenant.clone(),
            cell: arrival.cell,
            door: arrival.door,
            mx,
            mx_name,
            mx_operator: Some(operator.as_str().to_owned()),
            at: SystemTime::now(),
        };
        let record = SessionRecord::new(proxy.recorder().session(start), began);
        let record = record.watched(proxy.detector().watch(operator.shared()));
        tracing::debug!(session = %record.id(), tenant = %arrival.tenant, to = %arrival.to, "session");
        Self {
            proxy,
            settings,
            arrival,
            names,
            operator,
            record,
            place: None,
            no_way: None,
            sender: Sender::default(),
            leg: None,
            aside: None,
            tls_failed: None,
            stricter: None,
            learned: false,
            leaving: false,
            turns: Turns::default(),
        }
    }

    fn mx_name(&self) -> Option<&str> {
        self.names.first().map(|name| name.mx.as_str())
    }

    /// What this session asks of the egress policy, for the message that the MSA is at.
    fn ask(&self) -> Ask<'_> {
        self.ask_for(&self.sender.whose)
    }

    /// The same, for each of these messages.
    fn asks_for<'b>(&'b self, all: impl Iterator<Item = &'b Whose>) -> Vec<Ask<'b>> {
        all.map(|whose| self.ask_for(whose)).collect()
    }

    fn ask_for<'b>(&'b self, whose: &'b Whose) -> Ask<'b> {
        Ask {
            tenant: &self.arrival.tenant,
            account: whose.account.as_deref(),
            class: whose.class,
            operator: &self.operator,
            mx: self.arrival.to.ip().to_canonical(),
        }
    }

    /// Waits for the session's turn.
    async fn turn(&self) -> Turn {
        self.proxy.departures().enter(&self.ask(), self.settings.max_wait).await
    }

    /// The session, with the MX or, where there is no place for it, in the MX's stead.
    fn mediator(&mut self, turn: Turn) -> Mediator {
        let (deadlines, now) = (Arc::clone(&self.settings.deadlines), Instant::now());
        let refusal = match turn {
            Turn::Place(place) => {
                self.place = Some(place);
                None
            }
            Turn::Refused(none) if none.try_next_mx() => {
                self.no_way = Some(Box::new(none.reply()));
                None
            }
            Turn::Refused(none) => Some(self.put_off(&none)),
            Turn::Missed => Some(self.crowded()),
        };
        let Some(refusal) = refusal else {
            let leg = Leg { ehlo_name: self.settings.ehlo_name.clone(), tls: self.handshake() };
            return Mediator::outbound(Outbound { leg, deadlines }, now).offering_tls(self.client_tls());
        };
        self.record.crowded();
        let name = self.mx_name().map_or_else(|| format!("[{}]", self.arrival.to.ip().to_canonical()), str::to_owned);
        let deadlines = Arc::new(Deadlines { client: STAND_IN_SILENCE, content: STAND_IN_SILENCE, ..*deadlines });
        Mediator::stand_in(StandIn { name, refusal, deadlines }, now, self).offering_tls(self.client_tls())
    }

    /// What the MSA is offered. One in a cell is on this machine, and nobody is in between.
    fn client_tls(&self) -> ClientTls {
        match self.entrance() {
            None => ClientTls::Never,
            Some(entrance) if entrance.required => ClientTls::Required,
            Some(_) => ClientTls::Offered,
        }
    }

    fn entrance(&self) -> Option<Arc<Entrance>> {
        self.proxy.entrance().filter(|_| self.arrival.door != Door::Cell)
    }

    /// Why a session or a message has to wait.
    fn put_off(&mut self, none: &NoEgress) -> Reply {
        tracing::info!(session = %self.record.id(), tenant = %self.arrival.tenant, operator = %self.operator, reason = %none, "put off");
        self.passed_over(none);
        none.reply()
    }

    /// Its turn did not come in time.
    fn crowded(&mut self) -> Reply {
        self.passed_over(&"no turn in time");
        Reply::new(451, (4, 3, 2), "too many sessions at once; try again later")
    }

    /// The decision of a session, or a message, that no address was chosen for: there is no leg to store it with.
    fn passed_over(&mut self, why: &dyn std::fmt::Display) {
        let over = self.proxy.departures().look(|policy, now| policy.passed_over(&self.ask(), now));
        self.record.noted(&format!("no egress address: {why}: {over}"));
    }

    /// The session is over.
    fn finish(mut self) {
        let leg = self.leg.take();
        self.part(leg);
        if let Some(aside) = self.aside.take() {
            self.report(aside.connection.as_ref());
        }
        self.record.settle();
        self.learn_slow();
        self.record.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What the runtime adds to a future: header, scheduler, number, stage and trailer of a task.
    const OF_THE_RUNTIME: usize = 112;

    /// A session that waits keeps all of this, and thousands wait. What is over soon (a turn that is waited for, a dial, a handshake, a farewell) is boxed.
    /// The allocator has blocks of 2,048 bytes; the next ones are of 2,560, and a task, which is aligned to 128, takes them of its size and 127.
    #[test]
    fn a_session_that_waits_is_small() {
        let size = size_of_future(run) + OF_THE_RUNTIME;
        assert!(size <= 2_048, "{size}");
    }
}
