//! Connecting to an MX from an egress address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, TcpStream};

use crate::egress::EgressAddr;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The egress address is of no use now: it is not on this host, or its ports are used up. Another one may do.
    #[error("egress address {}: {source}", from.0)]
    Egress {
        /// Which.
        from: EgressAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The MX cannot be reached.
    #[error("{to}: {reason}")]
    Mx {
        /// Which.
        to: SocketAddr,
        /// In a few words for the MSA: `connection refused`.
        reason: String,
    },
}

/// Connects to `to` from `from` within `limit`.
pub async fn dial(from: EgressAddr, to: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let egress = |source| DialError::Egress { from, source };
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(egress)?;
    // The port is chosen at connect, where only the whole four-tuple must be unique: without this the ports of one egress address end
    // at 28,000 connections to the whole world. A kernel that cannot do it still connects.
    if let Err(error) = setsockopt(&socket, IpBindAddressNoPort, &true) {
        tracing::debug!(%error, "IP_BIND_ADDRESS_NO_PORT");
    }
    socket.bind(SocketAddr::new(from.0, 0)).map_err(egress)?;
    let stream = match tokio::time::timeout(limit, socket.connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => return Err(egress(error)),
        Ok(Err(error)) => return Err(DialError::Mx { to, reason: words(&error) }),
        Err(_) => return Err(DialError::Mx { to, reason: format!("no answer within {} s", limit.as_secs_f32()) }),
    };
    // Commands are small and waited for. Failing costs speed only.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The system's words without its error number.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const LIMIT: Duration = Duration::from_secs(5);

    fn loopback(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[tokio::test]
    async fn leaves_from_the_egress_address() {
        let listener = tokio::net::TcpListener::bind((loopback(1), 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = dial(EgressAddr(loopback(9)), to, LIMIT).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), loopback(9));
    }

    #[tokio::test]
    async fn says_why_not() {
        let closed = {
            let listener = tokio::net::TcpListener::bind((loopback(1), 0)).await.unwrap();
            listener.local_addr().unwrap()
        };
        let refused = dial(EgressAddr(loopback(1)), closed, LIMIT).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("{closed}: connection refused"));
        let foreign = EgressAddr("192.0.2.1".parse().unwrap());
        assert!(matches!(dial(foreign, closed, LIMIT).await, Err(DialError::Egress { .. })));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_given_up_in_time() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind(SocketAddr::new(loopback(1), 0)).unwrap();
        let full = full.listen(0).unwrap();
        let to = full.local_addr().unwrap();
        // A backlog of none takes one or two, and leaves the next without an answer.
        let limit = Duration::from_millis(200);
        let mut taken = Vec::new();
        while let Ok(stream) = dial(EgressAddr(loopback(9)), to, limit).await {
            taken.push(stream);
            assert!(taken.len() < 10, "a backlog of none is full");
        }
        let began = std::time::Instant::now();
        let silent = dial(EgressAddr(loopback(9)), to, limit).await.unwrap_err();
        assert_eq!(silent.to_string(), format!("{to}: no answer within 0.2 s"));
        assert!(began.elapsed() >= limit && began.elapsed() < LIMIT);
    }
}
