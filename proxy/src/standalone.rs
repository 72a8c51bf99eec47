//! Doors beside an existing MTA: listeners that nftables sends its outbound connections to.
//!
//! ```text
//!   MTA ── dials MX:25 ──▶ nftables: redirect to :10025 ──▶ listener: SO_ORIGINAL_DST is the MX, the source address the tenant
//!                          nftables: tproxy             ──▶ listener: its own address is the MX
//!   MTA ── asks 127.0.0.1:53 ──▶ warren-resolver, for the tenant whose address that is ── names.sock ──▶ which MX name, DANE, MTA-STS
//! ```
//!
//! Without the resolver ([`names`]) nobody tells the proxy of which MX names its connections are.

use std::collections::HashMap;
use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use warren_config::{Node, RedirectMode, Standalone, TenantName};
use warren_launcher_api::CellId;
use warren_session::Door;
use warren_smtp::Reply;
use warren_wire::server::{ServerTlsError, from_files};

use crate::door::{at_once, no_room, turn_away};
use crate::places::TenantPlaces;
use crate::proxy::Proxy;
use crate::session::{self, Arrival};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 512;

/// Why there is no such door.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be listened on.
    #[error("cannot listen on {at} ([proxy.standalone] listen): {source}")]
    Listen {
        /// Which.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The same, of the resolver.
    #[error(
        "cannot answer at {at} ([proxy.standalone] resolver; a port below 1024 needs CAP_NET_BIND_SERVICE): {source}"
    )]
    Resolver {
        /// Which.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// IP_TRANSPARENT was refused.
    #[error("cannot listen on {at} for tproxy, which needs CAP_NET_ADMIN (mode = \"redirect\" does not): {source}")]
    Transparent {
        /// Which.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens the listeners of a standalone proxy.
pub fn open(standalone: &Standalone) -> Result<Vec<net::TcpListener>, OpenError> {
    standalone.listen.iter().map(|at| listen(*at, standalone.mode)).collect()
}

fn listen(at: SocketAddr, mode: RedirectMode) -> Result<net::TcpListener, OpenError> {
    let failed = |source| OpenError::Listen { at, source };
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    if mode == RedirectMode::Tproxy {
        let transparent =
            if at.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
        transparent.map_err(|source| OpenError::Transparent { at, source })?;
    }
    socket.set_reuse_address(true).map_err(failed)?;
    if at.is_ipv6() {
        socket.set_only_v6(true).map_err(failed)?;
    }
    socket.bind(&at.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket.into())
}

/// The sockets that `warren-resolver` answers at: for each tenant with one the number that the proxy knows it by, a UDP socket, and a TCP listener.
pub fn names(standalone: &Standalone) -> Result<Vec<(CellId, net::UdpSocket, net::TcpListener)>, OpenError> {
    let open = |(at, tenant): (&SocketAddr, &TenantName)| {
        let failed = |source| OpenError::Resolver { at: *at, source };
        let udp = net::UdpSocket::bind(at).map_err(failed)?;
        let tcp = net::TcpListener::bind(at).map_err(failed)?;
        Ok(standalone.cell(tenant).map(|cell| (cell, udp, tcp)))
    };
    standalone.resolver.iter().map(open).filter_map(Result::transpose).collect()
}

/// What MTAs on other hosts are offered STARTTLS with.
#[derive(Debug)]
pub struct Entrance {
    /// Whose certificate.
    pub certificate: Arc<ServerConfig>,
    /// Whether mail has to wait for TLS.
    pub required: bool,
}

impl Entrance {
    /// As configured, the files read now; `None`: MTAs are not offered TLS.
    pub fn of(node: &Node) -> Result<Option<Self>, ServerTlsError> {
        let Some(tls) = node.proxy.standalone.as_ref().and_then(|standalone| standalone.tls.as_ref()) else {
            return Ok(None);
        };
        let certificate = from_files(&tls.files.certificate, &tls.files.key)?;
        Ok(Some(Self { certificate, required: tls.required }))
    }
}

/// Who may come in, and how many of them.
#[derive(Debug)]
pub struct Visitors {
    standalone: Standalone,
    tenants: HashMap<TenantName, Visitor>,
}

#[derive(Debug)]
struct Visitor {
    places: TenantPlaces,
    /// What the resolver calls it, if one tells of it.
    cell: Option<CellId>,
}

impl Visitors {
    /// Of these tenants.
    pub fn new(proxy: &Proxy, standalone: Standalone) -> Self {
        let visitor = |tenant| Visitor { places: proxy.places().of_tenant(), cell: standalone.cell(tenant) };
        let tenants = standalone.tenants.values().map(|tenant| (tenant.clone(), visitor(tenant))).collect();
        Self { standalone, tenants }
    }
}

/// Serves one listener until dropped. Several may serve the same.
pub async fn serve(proxy: Arc<Proxy>, listener: net::TcpListener, visitors: Arc<Visitors>) {
    let Visitors { standalone, tenants } = &*visitors;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be served"),
    };
    at_once(&listener);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                proxy.accepting().failed(&error, "exit").await;
                continue;
            }
        };
        let destination = destination(&stream, standalone.mode);
        if destination.as_ref().is_ok_and(|(_, to)| proxy.own_legs().has(from, *to)) {
            // Each would be dialled again, from another port, without end.
            tracing::error!(
                %from,
                "the proxy's own connection to an MX was sent back to it: the nftables rule must leave out its user (meta skuid != \"warren-proxy\")"
            );
            turn_away(&stream, &Reply::new(421, (4, 4, 6), "the proxy's own connections are redirected to it"));
            continue;
        }
        let tenant = tenant_of(standalone, from.ip());
        let Some((tenant, visitor)) = tenant.and_then(|tenant| Some((tenant, tenants.get(tenant)?))) else {
            tracing::warn!(from = %from.ip(), "no tenant has this address ([proxy.standalone] tenants)");
            turn_away(&stream, &Reply::new(421, (4, 7, 1), "your address is no tenant's here"));
            continue;
        };
        // One listener serves all tenants: waiting here for one would hold up the others. Connections wait inside, and a tenant has as many
        // waiting as it may have sessions before this happens.
        let Some(place) = visitor.places.try_enter() else {
            turn_away(&stream, &Reply::new(421, (4, 3, 2), "too many sessions at once; try again"));
            continue;
        };
        let Some(ticket) = visitor.places.admit(place) else {
            no_room(&proxy, &stream);
            continue;
        };
        match destination {
            Ok((door, to)) => {
                let arrival = Arrival { tenant: tenant.clone(), cell: visitor.cell, door, to };
                tokio::spawn(session::run(Arc::clone(&proxy), stream, arrival, ticket));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection that nftables did not send here");
                turn_away(&stream, &Reply::new(421, (4, 4, 1), "connect to the MX, not to me"));
            }
        }
    }
}

fn tenant_of(standalone: &Standalone, from: IpAddr) -> Option<&TenantName> {
    standalone.tenants.get(&from.to_canonical())
}

/// Where the MTA wanted to go.
fn destination(stream: &TcpStream, mode: RedirectMode) -> io::Result<(Door, SocketAddr)> {
    let own = stream.local_addr()?;
    if mode == RedirectMode::Tproxy {
        return Ok((Door::Tproxy, own));
    }
    let socket = SockRef::from(stream);
    let original = if own.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    let original = original.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((Door::Redirect, original))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn tenants_are_told_apart_by_their_address() {
        let acme = TenantName::new("acme").unwrap();
        let standalone = Standalone {
            listen: Vec::new(),
            mode: RedirectMode::Redirect,
            tenants: BTreeMap::from([("10.0.0.5".parse().unwrap(), acme.clone())]),
            tls: None,
            resolver: BTreeMap::new(),
        };
        assert_eq!(tenant_of(&standalone, "10.0.0.5".parse().unwrap()), Some(&acme));
        assert_eq!(tenant_of(&standalone, "::ffff:10.0.0.5".parse().unwrap()), Some(&acme));
        assert_eq!(tenant_of(&standalone, "10.0.0.6".parse().unwrap()), None);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_first, second) = (listen(taken, RedirectMode::Redirect), listen(taken, RedirectMode::Redirect));
        assert!(second.unwrap_err().to_string().starts_with(&format!("cannot listen on {taken}")));
    }
}
