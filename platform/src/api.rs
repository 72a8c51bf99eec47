//! The platform's socket: answers the receiver and the command line.
//!
//! Who may ask is judged by the kernel's word on the peer: root, the receiver's user, ourselves. Requests of one connection are answered
//! concurrently (a recipient does not wait behind a tenant that is being woken), `AT_ONCE` at a time.

use std::{collections::BTreeSet, net::TcpStream, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use warren_config::Recipient;
use warren_control::{
    ApiReply, ApiRequest, CellId, Entrance, TenantName, Verdict,
    api::{Status, TenantInfo, TenantState},
};
use warren_daemon::Draining;
use warren_packet::aio::{AsyncListener, AsyncPackets};
use warren_smtp::Mailbox;

use crate::{
    books::{Book, Books},
    fleet::{Handle, Unavailable},
};

/// Requests of one connection under way; the next is read when one is answered.
const AT_ONCE: usize = 256;
/// Connections. The receiver has a few, the command line one at a time.
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
    /// Who may ask.
    pub uids: BTreeSet<u32>,
}

impl Api {
    /// Answers until the program drains.
    pub async fn serve(self: Arc<Self>, listener: AsyncListener, mut draining: Draining) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining.wait() => return,
            };
            let peer = match accepted {
                Ok(packets) => packets,
                Err(error) => {
                    tracing::error!(%error, "cannot accept on the platform's socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match (self.may_ask(&peer), Arc::clone(&connections).try_acquire_owned()) {
                (true, Ok(place)) => {
                    let api = Arc::clone(&self);
                    tokio::spawn(async move {
                        api.converse(Arc::new(peer)).await;
                        drop(place);
                    });
                }
                (true, Err(_)) => tracing::warn!("too many connections to the platform's socket"),
                (false, _) => {}
            }
        }
    }

    fn may_ask(&self, peer: &AsyncPackets) -> bool {
        match peer.peer() {
            Ok(peer) if self.uids.contains(&peer.uid) => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid, pid = peer.pid, "stranger at the platform's socket");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "a peer at the platform's socket cannot be told");
                false
            }
        }
    }

    async fn converse(self: Arc<Self>, peer: Arc<AsyncPackets>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match peer.recv::<ApiRequest>().await {
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
                ApiReply::Recipient { tag, verdict: verdict(&self.books.current(), &address) }
            }
            ApiRequest::Connect { tag, tenant, entrance, stale } => {
                return self.connect(tag, &tenant, entrance, stale).await;
            }
            ApiRequest::Tenants { tag, after } => match self.tenants(after).await {
                Ok((tenants, more)) => ApiReply::Tenants { tag, tenants, more },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Status { tag } => match self.status().await {
                Ok(status) => ApiReply::Status { tag, status: Box::new(status) },
                Err(error) => unavailable(tag, error),
            },
            ApiRequest::Wake { tag, tenant } if self.knows(&tenant) => done(tag, self.fleet.wake(&tenant).await),
            ApiRequest::Sleep { tag, tenant } if self.knows(&tenant) => done(tag, self.fleet.sleep(&tenant).await),
            ApiRequest::Wake { tag, tenant } | ApiRequest::Sleep { tag, tenant } => unknown(tag, &tenant),
        };
        (reply, None)
    }

    fn knows(&self, tenant: &TenantName) -> bool {
        self.books.current().directory.tenant(tenant).is_some()
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
        let mut rest =
            book.directory.tenants().filter(|tenant| after.as_ref().is_none_or(|after| tenant.name > *after));
        let page: Vec<TenantInfo> = rest
            .by_ref()
            .take(PAGE)
            .map(|tenant| TenantInfo {
                name: tenant.name.clone(),
                state: TenantState::Asleep,
                domains: tenant.domains.iter().take(DOMAINS).cloned().collect(),
                accounts: tenant.accounts.len() as u64,
                next_due_unix_ms: None,
                queued: None,
            })
            .collect();
        let more = rest.next().is_some();
        Ok((self.fleet.describe(page).await?, more))
    }

    async fn status(&self) -> Result<Status, Unavailable> {
        let status = self.fleet.status().await?;
        let provisioned = self.books.current().directory.tenants().len() as u64;
        Ok(Status { provisioned, sessions: (self.sessions)() as u64, ..status })
    }
}

fn unknown(tag: u64, tenant: &TenantName) -> ApiReply {
    ApiReply::Unavailable { tag, reason: format!("there is no tenant {tenant}") }
}

/// What becomes of inbound mail to an address.
fn verdict(book: &Book, address: &str) -> Verdict {
    let Ok(mailbox) = address.parse::<Mailbox>() else { return Verdict::NoSuchUser };
    // Mail to an address literal is not for a tenant.
    let Some(domain) = mailbox.domain() else { return Verdict::NotLocal };
    match book.directory.recipient(mailbox.local(), domain.as_str()) {
        Recipient::Forward { tenant, to } => Verdict::Forward { tenant: tenant.name.clone(), to: to.to_vec() },
        Recipient::NotLocal => Verdict::NotLocal,
        Recipient::NoSuchUser => match book.directory.by_domain(domain.as_str()) {
            Some(tenant) if is_srs(mailbox.local()) => Verdict::Srs { tenant: tenant.name.clone() },
            _ => Verdict::NoSuchUser,
        },
    }
}

/// `SRS0=…` or `SRS1=…`; SRS allows `+` and `-` for the first separator, and other MTAs may have changed the case.
fn is_srs(local: &str) -> bool {
    let local = local.as_bytes();
    let tag = local.get(..4).is_some_and(|tag| tag.eq_ignore_ascii_case(b"SRS0") || tag.eq_ignore_ascii_case(b"SRS1"));
    tag && matches!(local.get(4), Some(b'=' | b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn verdicts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        fs::create_dir(directory.path().join("tenants")).unwrap();
        write("warren.toml", "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n");
        write("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\n\"info\" = [\"a@b.example\"]\n");
        let book = Book::read(directory.path()).unwrap();
        let tenant = TenantName::new("acme").unwrap();
        let forward = Verdict::Forward { tenant: tenant.clone(), to: vec!["a@b.example".into()] };
        for address in ["info@acme.example", "INFO@Acme.Example", "\"info\"@acme.example"] {
            assert_eq!(verdict(&book, address), forward, "{address}");
        }
        for address in ["SRS0=HHH=TT=b.example=x@acme.example", "srs1-x@acme.example"] {
            assert_eq!(verdict(&book, address), Verdict::Srs { tenant: tenant.clone() }, "{address}");
        }
        for address in ["bob@acme.example", "SRS0@acme.example", "info%x@acme.example", "no address", "info@"] {
            assert_eq!(verdict(&book, address), Verdict::NoSuchUser, "{address}");
        }
        for address in ["info@globex.example", "info@[192.0.2.1]", "SRS0=a@globex.example"] {
            assert_eq!(verdict(&book, address), Verdict::NotLocal, "{address}");
        }
    }
}
