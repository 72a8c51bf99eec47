//! The platform's socket: answers the receiver and the command line.
//!
//! Who may ask is judged by the kernel's word on the peer: root and ourselves anything, the receiver's user what a receiver
//! needs and no more, over connections of its own, so that a receiver gone wild shuts nobody out. Requests of one connection are answered
//! concurrently (a recipient does not wait behind a tenant that is being woken), `AT_ONCE` at a time.

use std::{collections::BTreeSet, io, net::TcpStream, os::fd::AsFd, sync::Arc};

use tokio::sync::Semaphore;
use warren_config::{Node, Tenant};
use warren_control::{
    ApiReply, ApiRequest, CellId, Entrance, TenantName, Verdict,
    api::{Plan, Status, TenantInfo, TenantState},
};
use warren_daemon::{Accepting, Draining};
use warren_metrics::{Format, Page};
use warren_packet::aio::{AsyncListener, AsyncPackets};

use crate::{
    books::{Book, Books},
    diary::Diary,
    fleet::{Handle, Unavailable},
    frontdoor::counts,
    metrics::{self, Asked},
    plan::{names, plan},
    rates::{Counts, Mail, now_ms},
    readings::Readings,
    recipients::verdict,
};

/// Requests of one connection under way; the next is read when one is answered.
const AT_ONCE: usize = 256;
/// Connections of operators, and as many of the receiver. The receiver has a few, the command line one at a time.
const CONNECTIONS: usize = 64;
/// Tenants in one page: with their longest domains it fits a packet.
const PAGE: usize = 100;
/// Domains told of each.
const DOMAINS: usize = 3;

/// What answers.
pub struct Api {
    /// The configuration.
    pub books: Arc<Books>,
    /// The fleet.
    pub fleet: Handle,
    /// How many sessions the front door has.
    pub sessions: Box<dyn Fn() -> usize + Send + Sync>,
    /// What came of clients at the front door.
    pub frontdoor: Arc<counts::Counts>,
    /// What was answered here.
    pub asked: Asked,
    /// Hourly counts: what is forwarded is counted here.
    pub rates: Arc<Counts>,
    /// What was logged of each tenant.
    pub diary: Diary,
    /// How reading the configuration again went.
    pub readings: Arc<Readings>,
    /// The configuration with which the node's programs were started.
    pub started: Arc<Node>,
    /// Users who may ask anything.
    pub operators: BTreeSet<u32>,
    /// The receiver's user, if there is one.
    pub receiver: Option<u32>,
}

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Operator,
    Receiver,
}

impl Caller {
    fn may(self, request: &ApiRequest) -> bool {
        match self {
            Caller::Operator => true,
            Caller::Receiver => matches!(request, ApiRequest::Recipient { .. } | ApiRequest::Connect { .. }),
        }
    }
}

impl Api {
    /// Answers until the program drains.
    pub async fn serve(self: Arc<Self>, listener: AsyncListener, mut draining: Draining) {
        let operators = Arc::new(Semaphore::new(CONNECTIONS));
        let receivers = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = Accepting::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining.wait() => return,
            };
            let peer = match accepted {
                Ok(packets) => packets,
                Err(error) => {
                    accepting.failed(&io::Error::other(error), "platform.sock").await;
                    continue;
                }
            };
            let Some(caller) = self.caller(&peer) else { continue };
            let places = if caller == Caller::Operator { &operators } else { &receivers };
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                tracing::warn!(?caller, "too many connections to the platform's socket");
                continue;
            };
            let api = Arc::clone(&self);
            tokio::spawn(async move {
                api.converse(Arc::new(peer), caller).await;
                drop(place);
            });
        }
    }

    fn caller(&self, peer: &AsyncPackets) -> Option<Caller> {
        match peer.peer() {
            Ok(peer) if self.operators.contains(&peer.uid) => Some(Caller::Operator),
            Ok(peer) if self.receiver == Some(peer.uid) => Some(Caller::Receiver),
            Ok(peer) => {
                tracing::warn!(uid = peer.uid, pid = peer.pid, "stranger at the platform's socket");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a peer at the platform's socket cannot be told");
                None
            }
        }
    }

    async fn converse(self: Arc<Self>, peer: Arc<AsyncPackets>, caller: Caller) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match peer.recv::<ApiRequest>().await {
                Ok(Some((request, _))) if !caller.may(&request) => {
                    return tracing::warn!(?caller, "a request at the platform's socket that is not its business");
                }
                Ok(Some((request, _))) => {
                    let (api, peer) = (Arc::clone(&self), Arc::clone(&peer));
                    tokio::spawn(async move {
                        let (reply, stream) = api.answer(request).await;
                        let descriptors: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
                        if let Err(error) = peer.send(&reply, &descriptors).await {
                            tracing::debug!(%error, "an answer found nobody");
                        }
                        drop(place);
                    });
                }
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "a request at the platform's socket is not understood"),
            }
        }
    }

    async fn answer(&self, request: ApiRequest) -> (ApiReply, Option<TcpStream>) {
        let unavailable = |tag, error: Unavailable| ApiReply::Unavailable { tag, reason: error.to_string() };
        let done = |tag, result: Result<(), Unavailable>| match result {
            Ok(()) => ApiReply::Done { tag },
            Err(error) => unavailable(tag, error),
        };
        let reply = match request {
            ApiRequest::Recipient { tag, address } => {
                let book = self.books.current();
                let verdict = self.within_limits(&book, self.unless_suspended(verdict(&book, &address)));
                self.asked.recipient(&verdict);
                ApiReply::Recipient { tag, verdict }
            }
            ApiRequest::Connect { tag, tenant, entrance, stale, recipients } => {
                // The second dial of a hand-over is not a second message.
                if entrance == Entrance::Relay
                    && stale.is_none()
                    && let Err(text) = self.forward(&tenant, recipients)
                {
                    return (ApiReply::OverLimit { tag, text }, None);
                }
                return self.connect(tag, &tenant, entrance, stale).await;
            }
            ApiRequest::Tenants { tag, after } => match self.tenants(after).await {
                Ok((tenants, more)) => ApiReply::Tenants { tag, tenants, more },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Active { tag } => match self.active().await {
                Ok(tenants) => ApiReply::Tenants { tag, tenants, more: false },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Status { tag } => match self.status().await {
                Ok(status) => ApiReply::Status { tag, status: Box::new(status) },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Suspend { tag, tenant } if self.knows(&tenant) => done(tag, self.fleet.suspend(&tenant).await),
            // Also one that was removed from the directory since.
            ApiRequest::Resume { tag, tenant } if self.knows(&tenant) || self.fleet.is_suspended(&tenant) => {
                done(tag, self.fleet.resume(&tenant).await)
            }
            ApiRequest::Logs { tag, tenant, after, wait: true } => {
                ApiReply::Logs { tag, lines: self.diary.follow(&tenant, after).await }
            }
            ApiRequest::Logs { tag, tenant, after, wait: false } => {
                ApiReply::Logs { tag, lines: self.diary.read(&tenant, after) }
            }
            ApiRequest::Plan { tag } => match self.plan().await {
                Ok(plan) => ApiReply::Plan { tag, plan: Box::new(plan) },
                Err(reason) => ApiReply::Unavailable { tag, reason },
            },
            ApiRequest::Metrics { tag } => match self.page().await {
                Some(page) => ApiReply::Metrics { tag, text: page.render(Format::Prometheus) },
                None => unavailable(tag, Unavailable::Ending),
            },
            ApiRequest::Exec { tag, tenant, args } if self.knows(&tenant) => match self.fleet.exec(&tenant, args).await
            {
                Ok(outcome) => ApiReply::Executed { tag, outcome },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Wake { tag, tenant } if self.knows(&tenant) => done(tag, self.fleet.wake(&tenant).await),
            ApiRequest::Sleep { tag, tenant } if self.knows(&tenant) => done(tag, self.fleet.sleep(&tenant).await),
            ApiRequest::Wake { tag, tenant }
            | ApiRequest::Sleep { tag, tenant }
            | ApiRequest::Suspend { tag, tenant }
            | ApiRequest::Exec { tag, tenant, .. }
            | ApiRequest::Resume { tag, tenant } => unknown(tag, &tenant),
        };
        (reply, None)
    }

    fn knows(&self, tenant: &TenantName) -> bool {
        self.books.current().directory.tenant(tenant).is_some()
    }

    /// At RCPT nothing is counted yet: who only asks uses up nothing.
    fn within_limits(&self, book: &Book, verdict: Verdict) -> Verdict {
        let (tenant, recipients) = match &verdict {
            Verdict::Forward { tenant, to } => (tenant, u32::try_from(to.len()).unwrap_or(u32::MAX)),
            Verdict::Srs { tenant } => (tenant, 1),
            _ => return verdict,
        };
        let Some(found) = book.directory.tenant(tenant) else { return verdict };
        let more = Mail { messages: 1, recipients };
        match self.rates.ledger().may_forward(tenant, more, &found.rates, now_ms()) {
            Ok(()) => verdict,
            Err(over) => Verdict::OverLimit(over.to_string()),
        }
    }

    /// Counts a message that is about to be handed over.
    fn forward(&self, tenant: &TenantName, recipients: u32) -> Result<(), String> {
        let book = self.books.current();
        let Some(found) = book.directory.tenant(tenant) else { return Ok(()) };
        let more = Mail { messages: 1, recipients };
        self.rates.ledger().forward(tenant, more, &found.rates, now_ms()).map_err(|over| {
            tracing::warn!(%tenant, %over, "forwarded mail is over its limit");
            over.to_string()
        })
    }

    async fn connect(
        &self,
        tag: u64,
        tenant: &TenantName,
        entrance: Entrance,
        stale: Option<CellId>,
    ) -> (ApiReply, Option<TcpStream>) {
        if !self.knows(tenant) {
            return (unknown(tag, tenant), None);
        }
        let connected = match self.fleet.connect(tenant, entrance, stale).await {
            Ok(connection) => {
                connection.stream.into_std().map(|stream| (stream, connection.cell)).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match connected {
            Ok((stream, cell)) => (ApiReply::Connected { tag, cell }, Some(stream)),
            Err(reason) => (ApiReply::Unavailable { tag, reason }, None),
        }
    }

    async fn tenants(&self, after: Option<TenantName>) -> Result<(Vec<TenantInfo>, bool), Unavailable> {
        let book = self.books.current();
        let mut rest = book.directory.tenants_after(after.as_ref());
        let page: Vec<TenantInfo> = rest.by_ref().take(PAGE).map(|tenant| known_of(tenant)).collect();
        let more = rest.next().is_some();
        Ok((self.fleet.describe(page).await?, more))
    }

    async fn active(&self) -> Result<Vec<TenantInfo>, Unavailable> {
        let names = self.fleet.active(PAGE).await?;
        let book = self.books.current();
        // Removed ones are remembered for a while.
        let page = names.iter().filter_map(|name| book.directory.tenant(name)).map(|tenant| known_of(tenant));
        self.fleet.describe(page.collect()).await
    }

    async fn status(&self) -> Result<Status, Unavailable> {
        let status = self.fleet.status().await?;
        let provisioned = self.books.current().directory.tenants().len() as u64;
        let readings = self.readings.count();
        Ok(Status { provisioned, sessions: (self.sessions)() as u64, readings, ..status })
    }

    /// The platform's metrics; none when it is ending.
    pub async fn page(&self) -> Option<Page> {
        let status = self.status().await.ok()?;
        let mut page = Page::default();
        self.asked.tell(&mut page);
        metrics::tell(&mut page, &status);
        if let Some(launcher) = self.fleet.launcher().await.ok()? {
            metrics::launcher::tell(&mut page, &launcher);
        }
        self.frontdoor.tell(&mut page);
        Some(page)
    }

    async fn plan(&self) -> Result<Plan, String> {
        let (books, started) = (Arc::clone(&self.books), Arc::clone(&self.started));
        // Thousands of files may have to be read.
        let reading =
            tokio::task::spawn_blocking(move || books.read_anew().map(|new| plan(&started, &books.current(), &new)));
        let planned = reading.await.map_err(|_| "the platform is ending".to_owned())?;
        let planned = planned.map_err(|problems| problems.to_string())?;
        let outdated = self.fleet.outdated().await.map_err(|error| error.to_string())?;
        Ok(Plan { outdated: names(&outdated), ..planned })
    }

    /// Mail for a suspended tenant comes back later.
    fn unless_suspended(&self, verdict: Verdict) -> Verdict {
        match &verdict {
            Verdict::Forward { tenant, .. } | Verdict::Srs { tenant } if self.fleet.is_suspended(tenant) => {
                tracing::info!(%tenant, "mail to forward put off: the tenant is suspended");
                Verdict::Suspended
            }
            _ => verdict,
        }
    }
}

/// What the directory says of a tenant; the rest is the fleet's.
fn known_of(tenant: &Tenant) -> TenantInfo {
    TenantInfo {
        name: tenant.name.clone(),
        state: TenantState::Asleep,
        domains: tenant.domains.iter().take(DOMAINS).cloned().collect(),
        accounts: tenant.accounts.len() as u64,
        next_due_unix_ms: None,
        queued: None,
        since_unix_ms: None,
        memory_bytes: None,
        started: None,
    }
}

fn unknown(tag: u64, tenant: &TenantName) -> ApiReply {
    ApiReply::Unavailable { tag, reason: format!("there is no tenant {tenant}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_asks_what_receivers_need() {
        let tenant = TenantName::new("acme").unwrap();
        let recipient = ApiRequest::Recipient { tag: 1, address: "info@acme.example".into() };
        let suspend = ApiRequest::Suspend { tag: 1, tenant: tenant.clone() };
        let logs = ApiRequest::Logs { tag: 1, tenant, after: 0, wait: false };
        assert!(Caller::Receiver.may(&recipient));
        for request in [suspend, logs, ApiRequest::Status { tag: 1 }] {
            assert!(!Caller::Receiver.may(&request), "{request:?}");
            assert!(Caller::Operator.may(&request), "{request:?}");
        }
    }
}
