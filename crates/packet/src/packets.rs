//! One connection.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, recvmsg, sendmsg,
    socket_with, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{MAX_DESCRIPTORS, MAX_MESSAGE, PacketError};

const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// One end of a `SOCK_SEQPACKET` connection. One thread receives at a time; sending is free for all.
#[derive(Debug)]
pub struct Packets {
    socket: OwnedFd,
}

/// Who is at the other end, by the kernel's word (`SO_PEERCRED`), as of when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process that connected; 0 when it lives in a pid namespace that we cannot see.
    pub pid: i32,
    /// Its user at that time.
    pub uid: u32,
    /// Its group at that time.
    pub gid: u32,
}

impl Packets {
    /// Connects to a listener's path; blocks while its backlog is full.
    pub fn connect(path: impl AsRef<Path>) -> Result<Packets, PacketError> {
        Packets::connect_with(path.as_ref(), SocketFlags::CLOEXEC)
    }

    /// As [`Packets::connect`], non-blocking from the start: a full backlog is `WouldBlock`.
    pub fn connect_nonblocking(path: impl AsRef<Path>) -> Result<Packets, PacketError> {
        Packets::connect_with(path.as_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn connect_with(path: &Path, flags: SocketFlags) -> Result<Packets, PacketError> {
        let address = SocketAddrUnix::new(path).map_err(PacketError::io("socket path"))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(PacketError::io("make socket"))?;
        connect(&socket, &address).map_err(PacketError::io("connect"))?;
        Ok(Packets { socket })
    }

    /// Two connected ends, blocking.
    pub fn pair() -> Result<(Packets, Packets), PacketError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(PacketError::io("make socket pair"))?;
        Ok((Packets { socket: one }, Packets { socket: other }))
    }

    /// Who made the connection at the other end.
    pub fn peer(&self) -> Result<Peer, PacketError> {
        // By nix, not rustix: a peer of a foreign pid namespace has pid 0, which rustix's type cannot hold.
        let credentials = nix::sys::socket::getsockopt(&self.socket, nix::sys::socket::sockopt::PeerCredentials)
            .map_err(|errno| PacketError::Io { doing: "peer credentials", source: errno.into() })?;
        Ok(Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    }

    /// Makes sends and receives answer `WouldBlock` instead of waiting, or the reverse.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), PacketError> {
        let mut flags = fcntl_getfl(&self.socket).map_err(PacketError::io("socket flags"))?;
        flags.set(OFlags::NONBLOCK, nonblocking);
        fcntl_setfl(&self.socket, flags).map_err(PacketError::io("socket flags"))
    }

    /// Sends one message; the descriptors are duplicated into the peer, ours stay ours.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        let bytes = serde_json::to_vec(message).map_err(PacketError::Encode)?;
        self.send_encoded(&bytes, descriptors)
    }

    /// As [`Packets::send`] for a message that was encoded before (a queue of unsent messages holds it that way).
    pub fn send_encoded(&self, json: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        if json.len() > MAX_MESSAGE {
            return Err(PacketError::TooLong { bytes: json.len() });
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(PacketError::TooManyDescriptors { count: descriptors.len() });
        }
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "the space is for MAX_DESCRIPTORS");
        }
        retry(|| sendmsg(&self.socket, &[IoSlice::new(json)], &mut control, SendFlags::NOSIGNAL))
            .map_err(PacketError::io("send"))?;
        Ok(())
    }

    /// Receives one message with its descriptors (close-on-exec); `None` when the peer has closed.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        let mut nothing: [u8; 0] = [];
        let (_, length) = retry(|| recv(&self.socket, &mut nothing, RecvFlags::PEEK | RecvFlags::TRUNC))
            .map_err(PacketError::io("receive"))?;
        // One byte at least, so that an empty packet and the end of the connection look alike: both end it.
        let mut bytes = vec![0; length.clamp(1, MAX_MESSAGE)];
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            retry(|| recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))
                .map_err(PacketError::io("receive"))?;
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(PacketError::Truncated);
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(PacketError::Malformed)?;
        Ok(Some((message, descriptors)))
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Adopts a connected SEQPACKET socket (accepted or inherited).
impl From<OwnedFd> for Packets {
    fn from(socket: OwnedFd) -> Packets {
        Packets { socket }
    }
}

impl From<Packets> for OwnedFd {
    fn from(packets: Packets) -> OwnedFd {
        packets.socket
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (one, other) = Packets::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through the socket").unwrap();
        file.rewind().unwrap();
        one.send(&("hello", 7), &[file.as_fd()]).unwrap();
        let ((word, number), mut descriptors): ((String, u32), _) = other.recv().unwrap().unwrap();
        assert_eq!((word.as_str(), number, descriptors.len()), ("hello", 7, 1));
        let received = descriptors.remove(0);
        assert!(rustix::io::fcntl_getfd(&received).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut text = String::new();
        std::fs::File::from(received).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the socket");
    }

    #[test]
    fn closing_is_none_and_sending_into_it_is_peer_gone() {
        let (one, other) = Packets::pair().unwrap();
        drop(other);
        assert!(one.recv::<u8>().unwrap().is_none());
        assert!(one.send(&1, &[]).unwrap_err().peer_gone());
    }

    #[test]
    fn limits_are_kept_on_both_sides() {
        let (one, other) = Packets::pair().unwrap();
        assert!(matches!(one.send(&"x".repeat(MAX_MESSAGE), &[]), Err(PacketError::TooLong { .. })));
        let many = vec![one.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(matches!(one.send(&1, &many), Err(PacketError::TooManyDescriptors { count: 65 })));
        rustix::io::write(&one, &vec![b' '; MAX_MESSAGE + 1]).unwrap();
        assert!(matches!(other.recv::<u8>(), Err(PacketError::Truncated)));
        one.send(&"x".repeat(MAX_MESSAGE - 2), &vec![one.as_fd(); MAX_DESCRIPTORS]).unwrap();
        let (text, descriptors): (String, _) = other.recv().unwrap().unwrap();
        assert_eq!((text.len(), descriptors.len()), (MAX_MESSAGE - 2, MAX_DESCRIPTORS));
    }

    #[test]
    fn foreign_json_is_malformed_and_the_next_message_is_whole() {
        let (one, other) = Packets::pair().unwrap();
        one.send("text", &[]).unwrap();
        one.send(&5, &[]).unwrap();
        assert!(matches!(other.recv::<u8>(), Err(PacketError::Malformed(_))));
        assert_eq!(other.recv::<u8>().unwrap().unwrap().0, 5);
    }

    #[test]
    fn nonblocking_says_so() {
        let (one, _other) = Packets::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        assert!(one.recv::<u8>().unwrap_err().would_block());
    }

    #[test]
    fn the_peer_is_known() {
        let (one, _other) = Packets::pair().unwrap();
        let peer = one.peer().unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
    }
}
