//! As much of rtnetlink as a cell needs: loopback up, everything local.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// A route of type `local` belongs into table `local`.
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
/// The first device of every network namespace.
const LOOPBACK: u32 = 1;

/// Brings loopback up and makes every address of the internet local, in the caller's network namespace: with this a listener on
/// `[::]:25` accepts what is meant for any host. Without IPv6 in the kernel only IPv4 is done.
pub fn make_everything_local() -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut link = [0_u8; 16];
    link[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
    link[8..12].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    link[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    ask(&socket, libc::RTM_NEWLINK, 0, &link)?;
    ask(&socket, libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &local_route(libc::AF_INET))?;
    match ask(&socket, libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &local_route(libc::AF_INET6)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)) => {
            Ok(())
        }
        done => done,
    }
}

/// `local 0.0.0.0/0 dev lo`, or its sibling.
fn local_route(family: i32) -> Vec<u8> {
    let mut route = vec![0_u8; 12];
    route[0] = family as u8;
    route[4] = TABLE_LOCAL;
    route[5] = PROTOCOL_STATIC;
    route[6] = SCOPE_HOST;
    route[7] = TYPE_LOCAL;
    route.extend_from_slice(&8_u16.to_ne_bytes());
    route.extend_from_slice(&libc::RTA_OIF.to_ne_bytes());
    route.extend_from_slice(&LOOPBACK.to_ne_bytes());
    route
}

/// One request, one acknowledgement.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    send(socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    // nlmsghdr (16 bytes), then the error number of an NLMSG_ERROR, which 0 makes an acknowledgement.
    match (length >= 20 && answer[4..6] == (libc::NLMSG_ERROR as u16).to_ne_bytes(), field(16)) {
        (true, Some(0)) => Ok(()),
        (true, Some(error)) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "netlink answered something else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_names_table_type_and_device() {
        let route = local_route(libc::AF_INET6);
        assert_eq!(route[..8], [10, 0, 0, 0, 255, 4, 254, 2]);
        assert_eq!(route[12..20], [8, 0, 4, 0, 1, 0, 0, 0]);
    }
}
