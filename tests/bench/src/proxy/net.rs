//! The benchmark's own internet.
//!
//! ```text
//!   cell (lo only, every address local) ── door ──▶ node 198.51.100.1 ══ veth ══ mx 198.51.100.10
//!   sender                                          the path, direct sender       sink
//! ```

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
pub use warren_lab::net::Namespace;
use warren_lab::net::ip;

use super::sink::{BROKEN_MX, TLS_MX};

/// Where paths leave from, and direct senders.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Where the sink is.
pub const MX: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Connections that may wait in a door.
const BACKLOG: i32 = 4096;

/// A cell: whatever address is dialled in it, it arrives at a door.
pub fn cell() -> anyhow::Result<Namespace> {
    let cell = Namespace::create()?;
    cell.within(|| ip("link set lo up\nroute add local 0.0.0.0/0 dev lo\n"))??;
    cell.within(many_ports)??;
    Ok(cell)
}

/// A listener in a cell.
pub fn door(cell: &Namespace, at: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || -> std::io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    cell.within(listen)?.with_context(|| format!("listen on {at} in a cell"))
}

/// The node and the MX host, joined by one wire.
pub fn node_and_mx() -> anyhow::Result<(Namespace, Namespace)> {
    let (node, mx) = (Namespace::create()?, Namespace::create()?);
    let other = format!("/proc/{}/fd/{}", std::process::id(), mx.fd());
    node.within(|| {
        ip(&format!(
            "link set lo up\nlink add eth0 type veth peer name eth0 netns {other}\naddr add {NODE}/24 dev eth0\nlink set eth0 up\n"
        ))
    })??;
    mx.within(|| ip(&format!("link set lo up\naddr add {MX}/24 dev eth0\naddr add {TLS_MX}/24 dev eth0\naddr add {BROKEN_MX}/24 dev eth0\nlink set eth0 up\n")))??;
    node.within(many_ports)??;
    Ok((node, mx))
}

/// A hundred thousand short connections in a row find a port each.
fn many_ports() -> anyhow::Result<()> {
    for (name, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("set {name}"))?;
    }
    Ok(())
}
