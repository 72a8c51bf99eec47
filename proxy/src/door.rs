//! Doors: listeners behind which a tenant's MSA dials.
//!
//! A door takes in only as many connections as may wait or go on ([`places`](crate::places)); the rest wait in its backlog, at the
//! tenant's own cost. Each open door is one task that sleeps in `accept`.

use std::io;
use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use warren_launcher_api::{CellId, TenantName};
use warren_session::Door;

use crate::pace::Pace;
use crate::places::{TenantPlaces, Ticket};
use crate::proxy::Proxy;
use crate::session::{self, Arrival};

/// How long a connection waits to learn whose cell it came out of. The launcher says so before the container runs.
const BOUND_WITHIN: Duration = Duration::from_secs(10);
/// Connections out of one cell in a second; more wait in its backlog.
const CONNECTIONS_PER_SECOND: u32 = 100;
/// Pause after an error of `accept` that will not go away by itself, such as a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the exit door of a cell until dropped. `tenant` becomes known when the cell is bound.
pub async fn serve_cell(
    proxy: Arc<Proxy>,
    listener: net::TcpListener,
    cell: CellId,
    tenant: watch::Receiver<Option<TenantName>>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%cell, %error, "an exit door cannot be served"),
    };
    let places = proxy.places().of_tenant();
    let mut pace = Pace::new(CONNECTIONS_PER_SECOND, Instant::now());
    loop {
        let (stream, ticket) = accept(&listener, &places).await;
        let next = pace.took(Instant::now());
        let (proxy, mut tenant) = (Arc::clone(&proxy), tenant.clone());
        tokio::spawn(async move {
            let bound = tokio::time::timeout(BOUND_WITHIN, tenant.wait_for(Option::is_some)).await;
            let Ok(Ok(Some(tenant))) = bound.map(|bound| bound.map(|tenant| tenant.clone())) else {
                return tracing::warn!(%cell, "a connection out of a cell that belongs to nobody");
            };
            // The address that was dialled is local in the cell: it is the socket's own.
            match stream.local_addr() {
                Ok(to) => {
                    let arrival = Arrival { tenant, cell: Some(cell), door: Door::Cell, to };
                    session::run(proxy, stream, arrival, ticket).await;
                }
                Err(error) => tracing::debug!(%cell, %error, "gone before it was looked at"),
            }
        });
        if let Some(next) = next {
            tokio::time::sleep_until(next.into()).await;
        }
    }
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
    let places = proxy.places().of_tenant();
    loop {
        let (stream, ticket) = accept(&listener, &places).await;
        let arrival = Arrival { tenant: tenant.clone(), cell, door: Door::Redirect, to };
        tokio::spawn(session::run(Arc::clone(&proxy), stream, arrival, ticket));
    }
}

/// The next connection, once it may be taken in.
async fn accept(listener: &TcpListener, places: &TenantPlaces) -> (TcpStream, Ticket) {
    let ticket = places.enter().await;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, ticket),
            Err(error) => pause(&error).await,
        }
    }
}

/// After an error of `accept`: at once if it was the connection's, after a pause if it is ours.
pub(crate) async fn pause(error: &io::Error) {
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) {
        tracing::warn!(%error, "cannot accept");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
