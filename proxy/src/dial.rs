//! Connecting to an MX from an egress address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::egress::EgressAddr;
use crate::own::{OwnLeg, OwnLegs};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The egress address is of no use now: it is not on this host. Another one may do.
    #[error("egress address {}: {source}", from.0)]
    Egress {
        /// Which.
        from: EgressAddr,
        /// What the system said.
        source: io::Error,
    },
    /// All ports of the egress address that lead to this MX are in use (`ip_local_port_range`). To other MXs they are free.
    #[error("egress address {}: all its ports towards {to} are in use", from.0)]
    Ports {
        /// Which.
        from: EgressAddr,
        /// Towards whom.
        to: SocketAddr,
    },
    /// This node lacks descriptors or memory. No address is to blame.
    #[error("this node lacks what a connection takes: {0}")]
    Lack(#[source] io::Error),
    /// The MX cannot be reached.
    #[error("{to}: {reason}")]
    Mx {
        /// Which.
        to: SocketAddr,
        /// In a few words for the MSA: `connection refused`.
        reason: String,
    },
}

/// Connects to `to` from `from` within `limit`. `legs` are to know of the connection before anybody can accept it.
pub async fn dial(
    from: EgressAddr,
    to: SocketAddr,
    limit: Duration,
    legs: Option<&OwnLegs>,
) -> Result<(TcpStream, Option<OwnLeg>), DialError> {
    let (stream, leg) = begin(from, to, legs)?;
    let connected = async {
        stream.writable().await?;
        stream.take_error()?.map_or(Ok(()), Err)
    };
    match tokio::time::timeout(limit, connected).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(DialError::Mx { to, reason: words(&error) }),
        Err(_) => return Err(DialError::Mx { to, reason: format!("no answer within {} s", limit.as_secs_f32()) }),
    }
    // Commands are small and waited for. Failing costs speed only.
    let _ = stream.set_nodelay(true);
    Ok((stream, leg))
}

/// Sends for the MX, and does not wait for it.
fn begin(from: EgressAddr, to: SocketAddr, legs: Option<&OwnLegs>) -> Result<(TcpStream, Option<OwnLeg>), DialError> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP)).map_err(DialError::Lack)?;
    // The port is chosen at connect, where only the whole four-tuple must be unique: without this the ports of one egress address end
    // at 28,000 connections to the whole world. A kernel that cannot do it still connects.
    if let Err(error) = setsockopt(&socket, IpBindAddressNoPort, &true) {
        tracing::debug!(%error, "IP_BIND_ADDRESS_NO_PORT");
    }
    socket.bind(&SocketAddr::new(from.0, 0).into()).map_err(|source| match is_lack(&source) {
        true => DialError::Lack(source),
        false => DialError::Egress { from, source },
    })?;
    let connect = || match socket.connect(&to.into()) {
        Err(error) if is(&error, &[Errno::INPROGRESS]) => Ok(()),
        connected => connected,
    };
    let leg = match legs {
        None => connect().map(|()| None),
        Some(legs) => legs.begin(&socket, from.0, to, connect).map(Some),
    };
    let leg = leg.map_err(|error| match error {
        // The address was bound: it is there.
        error if is(&error, &[Errno::ADDRNOTAVAIL]) => DialError::Ports { from, to },
        error if is_lack(&error) => DialError::Lack(error),
        error => DialError::Mx { to, reason: words(&error) },
    })?;
    let stream = TcpStream::from_std(socket.into()).map_err(DialError::Lack)?;
    Ok((stream, leg))
}

/// Descriptors or memory: nobody that is connected to is to blame.
pub(crate) fn is_lack(error: &io::Error) -> bool {
    is(error, &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM])
}

fn is(error: &io::Error, which: &[Errno]) -> bool {
    which.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The system's words without its error number.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        io::ErrorKind::PermissionDenied => "prohibited by a route or a firewall of this host".into(),
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
        let (stream, _) = dial(EgressAddr(loopback(9)), to, LIMIT, None).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), loopback(9));
    }

    #[tokio::test]
    async fn says_why_not() {
        let closed = {
            let listener = tokio::net::TcpListener::bind((loopback(1), 0)).await.unwrap();
            listener.local_addr().unwrap()
        };
        let refused = dial(EgressAddr(loopback(1)), closed, LIMIT, None).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("{closed}: connection refused"));
        let foreign = EgressAddr("192.0.2.1".parse().unwrap());
        assert!(matches!(dial(foreign, closed, LIMIT, None).await, Err(DialError::Egress { .. })));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_given_up_in_time() {
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind(SocketAddr::new(loopback(1), 0)).unwrap();
        let full = full.listen(0).unwrap();
        let to = full.local_addr().unwrap();
        // A backlog of none takes one or two, and leaves the next without an answer.
        let limit = Duration::from_millis(200);
        let mut taken = Vec::new();
        while let Ok((stream, _)) = dial(EgressAddr(loopback(9)), to, limit, None).await {
            taken.push(stream);
            assert!(taken.len() < 10, "a backlog of none is full");
        }
        let began = std::time::Instant::now();
        let silent = dial(EgressAddr(loopback(9)), to, limit, None).await.unwrap_err();
        assert_eq!(silent.to_string(), format!("{to}: no answer within 0.2 s"));
        assert!(began.elapsed() >= limit && began.elapsed() < LIMIT);
    }
}
