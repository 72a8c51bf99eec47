//! Where connections come from.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, lstat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use crate::{PacketError, Packets};

/// Connections that wait to be accepted. The peers are a handful of Warren's own processes.
const BACKLOG: i32 = 64;

/// A listening `SOCK_SEQPACKET` socket with a path.
#[derive(Debug)]
pub struct PacketListener {
    socket: OwnedFd,
}

impl PacketListener {
    /// Listens at `path`. A socket file that nobody listens on (its owner was killed) is replaced; one that
    /// somebody answers is `AddrInUse`. Who may connect is decided by the directory's and the file's permissions.
    pub fn listen(path: impl AsRef<Path>) -> Result<PacketListener, PacketError> {
        let path = path.as_ref();
        let address = SocketAddrUnix::new(path).map_err(PacketError::io("socket path"))?;
        let new = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = new().map_err(PacketError::io("make socket"))?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                let is_socket = lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
                let probe = new().map_err(PacketError::io("make socket"))?;
                if !is_socket || connect(&probe, &address) != Err(Errno::CONNREFUSED) {
                    let source = io::Error::from(Errno::ADDRINUSE);
                    return Err(PacketError::Io { doing: "bind socket path", source });
                }
                std::fs::remove_file(path)
                    .map_err(|source| PacketError::Io { doing: "remove dead socket file", source })?;
                bind(&socket, &address).map_err(PacketError::io("bind socket path"))?;
            }
            bound => bound.map_err(PacketError::io("bind socket path"))?,
        }
        listen(&socket, BACKLOG).map_err(PacketError::io("listen"))?;
        Ok(PacketListener { socket })
    }

    /// Takes the next connection; it is blocking whatever the listener is.
    pub fn accept(&self) -> Result<Packets, PacketError> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(Packets::from(socket)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(PacketError::io("accept")(errno)),
            }
        }
    }

    /// Makes [`PacketListener::accept`] answer `WouldBlock` instead of waiting, or the reverse.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), PacketError> {
        let mut flags = fcntl_getfl(&self.socket).map_err(PacketError::io("socket flags"))?;
        flags.set(OFlags::NONBLOCK, nonblocking);
        fcntl_setfl(&self.socket, flags).map_err(PacketError::io("socket flags"))
    }
}

/// Adopts a listening SEQPACKET socket (inherited as `LISTEN_FDS`).
impl From<OwnedFd> for PacketListener {
    fn from(socket: OwnedFd) -> PacketListener {
        PacketListener { socket }
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for PacketListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<PacketListener> for OwnedFd {
    fn from(listener: PacketListener) -> OwnedFd {
        listener.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_file_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        drop(PacketListener::listen(&path).unwrap());
        let listener = PacketListener::listen(&path).unwrap();
        assert!(PacketListener::listen(&path).is_err());
        // The refused attempt's probe waits in the backlog: it is closed, and the next is ours.
        let client = Packets::connect(&path).unwrap();
        client.send(&"hello", &[]).unwrap();
        assert!(listener.accept().unwrap().recv::<String>().unwrap().is_none());
        assert_eq!(listener.accept().unwrap().recv::<String>().unwrap().unwrap().0, "hello");
    }

    #[test]
    fn another_file_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(PacketListener::listen(file.path()).is_err());
        assert!(file.path().exists());
    }
}
