//! Connections to MXs.

use super::route::Pending;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a connection may take to come about. The exit door answers at once; hosts on a real network need longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Who connects. Production dials port 25, which in a cell is the exit door; tests have MXs elsewhere.
pub trait Dial: Send + Sync {
    /// Connects to an MX.
    fn dial(&self, mx: IpAddr) -> Pending<'_, io::Result<TcpStream>>;
}

/// Port 25.
#[derive(Debug, Default, Clone, Copy)]
pub struct Port25;

impl Dial for Port25 {
    fn dial(&self, mx: IpAddr) -> Pending<'_, io::Result<TcpStream>> {
        Box::pin(async move { timeout(TIMEOUT, TcpStream::connect((mx, 25))).await? })
    }
}
