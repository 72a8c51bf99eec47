//! Descriptors in the queue of a socket: whoever has that one descriptor keeps all of them.
//!
//! ```text
//!   of([udp, tcp]) ──▶ one end of a socket pair, the message with copies unread in it ── open() ──▶ copies, and the message is still there
//! ```
//!
//! What is in a queue has no number in anybody's table, and lives as long as the queue (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Most descriptors of one parcel.
const MOST: usize = 4;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST));

/// Some descriptors, kept.
#[derive(Debug)]
pub struct Parcel(OwnedFd);

impl Parcel {
    /// Keeps copies of these, of which there are four at most.
    pub fn of(descriptors: &[OwnedFd]) -> io::Result<Self> {
        let (kept, sender) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if descriptors.len() > MOST || !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&sender, &[IoSlice::new(b"doors")], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(Self(kept))
    }

    /// Copies of all of them, in their order, close-on-exec. They stay.
    pub fn open(&self) -> io::Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&self.0, &mut [IoSliceMut::new(&mut [0; 8])], &mut control, flags)?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        Ok(rights.flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn what_is_in_a_parcel_is_there_until_it_is_gone() {
        let (udp, tcp) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (to, dialled) = (udp.as_ref().unwrap().local_addr().unwrap(), tcp.as_ref().unwrap().local_addr().unwrap());
        let parcel = Parcel::of(&[udp.unwrap().into(), tcp.unwrap().into()]).unwrap();
        // Nobody else has them.
        let mut client = TcpStream::connect(dialled).unwrap();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(b"mx?", to).unwrap();
        drop(parcel.open().unwrap());
        let [udp, tcp] = <[OwnedFd; 2]>::try_from(parcel.open().unwrap()).unwrap();
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 3);
        io::Write::write_all(&mut tcp.accept().unwrap().0, b"10 mx").unwrap();
        assert_eq!(io::read_to_string(&mut client).unwrap(), "10 mx");
        drop((udp, tcp));
        assert!(TcpStream::connect(dialled).is_ok(), "it is there still");
        drop(parcel);
        assert_eq!(TcpStream::connect(dialled).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_parcel_has_room_for_a_few() {
        let many = |count: usize| -> Vec<OwnedFd> {
            (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into()).collect()
        };
        assert_eq!(Parcel::of(&many(MOST)).unwrap().open().unwrap().len(), MOST);
        assert!(Parcel::of(&many(MOST + 1)).is_err());
    }
}
