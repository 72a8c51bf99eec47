//! Doors: listeners behind which a tenant's MSA dials.
//!
//! A door takes in only as many connections as may wait or go on ([`places`](crate::places)); the rest wait in its backlog, at the
//! tenant's own cost. Each open door is one task that sleeps in `accept`.

use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use warren_daemon::Pace;
use warren_launcher_api::{CellId, TenantName};
use warren_session::Door;
use warren_smtp::Reply;

use crate::next::Taker;
use crate::places::{Place, TenantPlaces, Ticket};
use crate::proxy::Proxy;
use crate::session::{self, Arrival};

/// How long a connection waits to learn whose cell it came out of. The launcher says so before the container runs.
const BOUND_WITHIN: Duration = Duration::from_secs(10);
/// Connections out of one cell in a second; more wait in its backlog.
const CONNECTIONS_PER_SECOND: u32 = 100;

/// Serves the exit door of a cell until dropped, from the `next` listener on whenever there is one. `tenant` becomes known when the cell is bound.
pub(crate) async fn serve_cell(
    proxy: Arc<Proxy>,
    listener: net::TcpListener,
    mut next: Taker<net::TcpListener>,
    cell: CellId,
    tenant: watch::Receiver<Option<TenantName>>,
) {
    let Some(mut listener) = listening(listener, cell) else { return };
    let places = proxy.places().of_door();
    let mut pace = Pace::new(CONNECTIONS_PER_SECOND, Instant::now());
    let mut pause = None;
    loop {
        let (stream, place) = tokio::select! {
            biased;
            // Also while nobody is let in: who waits in the one before waits in this one when that is closed.
            given = next.take() => {
                listener = listening(given, cell).unwrap_or(listener);
                continue;
            }
            accepted = accept_after(pause, &proxy, &listener, &places) => accepted,
        };
        pause = pace.took(Instant::now());
        match places.admit(place) {
            Some(ticket) => come_out(&proxy, stream, cell, &tenant, ticket),
            None => no_room(&proxy, &stream),
        }
    }
}

/// A listener on this thread.
fn listening(listener: net::TcpListener, cell: CellId) -> Option<TcpListener> {
    let failed = |error: &std::io::Error| tracing::error!(%cell, %error, "an exit door cannot be served");
    let listener = TcpListener::from_std(listener).inspect_err(failed).ok()?;
    at_once(&listener);
    Some(listener)
}

/// A connection out of a cell. It waits, in a task that is larger than a session's, only where it is not known yet whose that is.
fn come_out(
    proxy: &Arc<Proxy>,
    stream: TcpStream,
    cell: CellId,
    tenant: &watch::Receiver<Option<TenantName>>,
    ticket: Ticket,
) {
    let proxy = Arc::clone(proxy);
    let known = tenant.borrow().clone();
    match known {
        Some(tenant) => {
            if let Some(arrival) = out_of_cell(&stream, cell, tenant) {
                tokio::spawn(session::run(proxy, stream, arrival, ticket));
            }
        }
        None => {
            let mut tenant = tenant.clone();
            tokio::spawn(async move {
                let bound = tokio::time::timeout(BOUND_WITHIN, tenant.wait_for(Option::is_some)).await;
                let Ok(Ok(Some(tenant))) = bound.map(|bound| bound.map(|tenant| tenant.clone())) else {
                    return tracing::warn!(%cell, "a connection out of a cell that belongs to nobody");
                };
                if let Some(arrival) = out_of_cell(&stream, cell, tenant) {
                    session::run(proxy, stream, arrival, ticket).await;
                }
            });
        }
    }
}

/// `None`: it is gone already.
fn out_of_cell(stream: &TcpStream, cell: CellId, tenant: TenantName) -> Option<Arrival> {
    // The address that was dialled is local in the cell: it is the socket's own.
    let to = stream.local_addr().inspect_err(|error| tracing::debug!(%cell, %error, "gone before it was looked at"));
    Some(Arrival { tenant, cell: Some(cell), door: Door::Cell, to: to.ok()? })
}

/// Serves a listener whose connections all are one tenant's on their way to `to`: a proxy in front of a single relay host. What the resolver told
/// `cell` counts for them.
pub async fn serve_fixed(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    tenant: TenantName,
    cell: Option<CellId>,
    to: SocketAddr,
) {
    at_once(&listener);
    let places = proxy.places().of_door();
    loop {
        let (stream, place) = accept(&proxy, &listener, &places).await;
        let Some(ticket) = places.admit(place) else {
            no_room(&proxy, &stream);
            continue;
        };
        let arrival = Arrival { tenant: tenant.clone(), cell, door: Door::Redirect, to };
        tokio::spawn(session::run(Arc::clone(&proxy), stream, arrival, ticket));
    }
}

/// Replies to those who come in are small and waited for: they are sent at once. Connections have it from their listener. Failing costs speed only.
pub(crate) fn at_once(listener: &TcpListener) {
    let _ = SockRef::from(listener).set_tcp_nodelay(true);
}

async fn accept_after(
    pause: Option<Instant>,
    proxy: &Proxy,
    listener: &TcpListener,
    places: &TenantPlaces,
) -> (TcpStream, Place) {
    if let Some(pause) = pause {
        tokio::time::sleep_until(pause.into()).await;
    }
    accept(proxy, listener, places).await
}

/// The next connection, once the tenant may have one more. Dropped early, none was taken.
async fn accept(proxy: &Proxy, listener: &TcpListener, places: &TenantPlaces) -> (TcpStream, Place) {
    let place = places.enter().await;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => proxy.accepting().failed(&error, "exit").await,
        }
    }
}

/// The node has no descriptors for one more session of this tenant. Its MSA tries again.
pub(crate) fn no_room(proxy: &Proxy, stream: &TcpStream) {
    if proxy.places().worth_a_word() {
        tracing::warn!("too few descriptors for all sessions: tenants that have many are told 421 (LimitNOFILE=)");
    }
    turn_away(stream, &Reply::new(421, (4, 3, 2), "too few descriptors for more sessions here; try again later"));
}

/// A few words and the end. They fit the socket's buffer, or are not said.
pub(crate) fn turn_away(stream: &TcpStream, reply: &Reply) {
    // Not by the runtime, which would first wait to learn that there is room.
    let _ = rustix::net::send(stream, &reply.to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
