//! Connections to the socket: who they are, and what waits to be sent to them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use warren_launcher_api::{Event, Request, Role};
use warren_packet::Packets;

/// Messages that wait for a peer that does not read. More, and it is cut off: it will come back and ask for the list.
const MAX_WAITING: usize = 512;
/// Connections of one user at once: a peer, its successor while it is replaced, and some that are slow to be closed. Together the three users and
/// root cannot take one another's place, nor can anybody else take theirs.
const MAX_PEERS_EACH: usize = 8;

struct Waiting {
    json: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// One connection.
pub struct Peer {
    packets: Packets,
    uid: u32,
    role: Option<Role>,
    waiting: VecDeque<Waiting>,
}

/// All connections.
#[derive(Default)]
pub struct Peers {
    peers: BTreeMap<u64, Peer>,
    roles: BTreeMap<Role, u64>,
    next: u64,
    complaint: Option<String>,
}

impl Peers {
    /// Takes in a connection of one of these users, and watches it; `token` makes its epoll data.
    pub fn admit(
        &mut self,
        packets: Packets,
        users: &[u32],
        epoll: &OwnedFd,
        token: impl Fn(u64) -> u64,
    ) -> Result<(), String> {
        let uid = packets.peer().map_err(|error| error.to_string())?.uid;
        if !users.contains(&uid) {
            return Err(format!("user {uid} has no business here"));
        }
        if self.peers.values().filter(|peer| peer.uid == uid).count() >= MAX_PEERS_EACH {
            return Err(format!("more than {MAX_PEERS_EACH} connections of user {uid}"));
        }
        packets.set_nonblocking(true).map_err(|error| error.to_string())?;
        let id = self.next;
        epoll::add(epoll, &packets, epoll::EventData::new_u64(token(id)), epoll::EventFlags::IN)
            .map_err(|errno| errno.to_string())?;
        self.next += 1;
        self.peers.insert(id, Peer { packets, uid, role: None, waiting: VecDeque::new() });
        Ok(())
    }

    /// Whether to say why a connection was refused: not the same again and again, as anybody on the machine may try.
    pub fn worth_a_word(&mut self, reason: &str) -> bool {
        let new = self.complaint.as_deref() != Some(reason);
        if new {
            self.complaint = Some(reason.to_owned());
        }
        new
    }

    /// The next request of a connection; `None` when there is none now.
    pub fn receive(&self, id: u64) -> Result<Option<Request>, String> {
        let Some(peer) = self.peers.get(&id) else { return Ok(None) };
        match peer.packets.recv::<Request>() {
            Ok(Some((request, descriptors))) if descriptors.is_empty() => Ok(Some(request)),
            Ok(Some(_)) => Err("descriptors come with a request".to_owned()),
            Ok(None) => Err("closed".to_owned()),
            Err(error) if error.would_block() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What a connection was granted.
    pub fn role(&self, id: u64) -> Option<Role> {
        self.peers.get(&id)?.role
    }

    /// Who is behind it.
    pub fn uid(&self, id: u64) -> Option<u32> {
        Some(self.peers.get(&id)?.uid)
    }

    /// Who holds a role.
    pub fn holder(&self, role: Role) -> Option<u64> {
        self.roles.get(&role).copied()
    }

    /// Gives a role to a connection; answers whom it was taken from.
    pub fn grant(&mut self, id: u64, role: Role) -> Option<u64> {
        self.peers.get_mut(&id)?.role = Some(role);
        self.roles.insert(role, id).filter(|earlier| *earlier != id)
    }

    /// Closes a connection; answers the role that is free now.
    pub fn remove(&mut self, id: u64) -> Option<Role> {
        // Closing takes it out of epoll: nobody else has the descriptor.
        let role = self.peers.remove(&id)?.role?;
        if self.roles.get(&role) == Some(&id) {
            self.roles.remove(&role);
            return Some(role);
        }
        None
    }

    /// A connection has nothing waiting, so more may be said to it.
    pub fn is_flowing(&self, id: u64) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.waiting.is_empty())
    }

    /// Says something, now or as soon as the peer reads. An error means that the peer is to be removed.
    pub fn send(
        &mut self,
        id: u64,
        event: &Event,
        descriptors: &[BorrowedFd<'_>],
        epoll: &OwnedFd,
        token: u64,
    ) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let json = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        if peer.waiting.is_empty() {
            match peer.packets.send_encoded(&json, descriptors) {
                Ok(()) => return Ok(()),
                Err(error) if error.would_block() => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if peer.waiting.len() >= MAX_WAITING {
            return Err("does not read".to_owned());
        }
        let copies: io::Result<Vec<OwnedFd>> =
            descriptors.iter().map(|descriptor| descriptor.try_clone_to_owned()).collect();
        peer.waiting.push_back(Waiting { json, descriptors: copies.map_err(|error| error.to_string())? });
        watch(epoll, &peer.packets, token, epoll::EventFlags::IN | epoll::EventFlags::OUT)
    }

    /// Says something by `until`, after all that waits; nothing of it is copied.
    pub fn send_now(
        &self,
        id: u64,
        event: &Event,
        descriptors: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<(), String> {
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let json = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        loop {
            if !peer.waiting.is_empty() {
                return Err("does not read".to_owned());
            }
            match peer.packets.send_encoded(&json, descriptors) {
                Ok(()) => return Ok(()),
                Err(error) if error.would_block() => {}
                Err(error) => return Err(error.to_string()),
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&peer.packets, PollFlags::OUT)], Some(&left)) {
                Ok(0) => return Err("does not read".to_owned()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.to_string()),
            }
        }
    }

    /// The peer reads again.
    pub fn flush(&mut self, id: u64, epoll: &OwnedFd, token: u64) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        while let Some(first) = peer.waiting.front() {
            let descriptors: Vec<_> = first.descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
            match peer.packets.send_encoded(&first.json, &descriptors) {
                Ok(()) => drop(peer.waiting.pop_front()),
                Err(error) if error.would_block() => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        watch(epoll, &peer.packets, token, epoll::EventFlags::IN)
    }
}

fn watch(epoll: &OwnedFd, packets: &Packets, token: u64, flags: epoll::EventFlags) -> Result<(), String> {
    epoll::modify(epoll, packets, epoll::EventData::new_u64(token), flags).map_err(|errno| errno.to_string())
}
