//! Sockets that were open before the program started.
//!
//! The protocol is systemd's: LISTEN_FDS tells how many descriptors there are, from 3 on, and LISTEN_FDNAMES names
//! them, separated by colons. `warren up` speaks it too, without LISTEN_PID (it does not know the pid before the fork);
//! if LISTEN_PID is there it must be ours. This is the only place that turns numbers into owned descriptors.

#![allow(unsafe_code)] // Adopting a descriptor by its number is what this module is for.

use std::net;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net as unix;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};
use thiserror::Error;

/// First inherited descriptor.
const FIRST: RawFd = 3;

/// Most descriptors that are adopted; a program has a handful of listening addresses.
const MOST: usize = 256;

/// Why inherited sockets could not be taken.
#[derive(Debug, Error)]
pub enum InheritError {
    /// The variables contradict each other or are not what the protocol says.
    #[error("{variable}: {problem}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// [`Inherited::adopt`] was called before in this process.
    #[error("inherited sockets were adopted already")]
    Twice,
    /// A descriptor that was announced is not open.
    #[error("inherited socket {name} (descriptor {number}) is not open: {source}")]
    NotOpen {
        /// Its name in LISTEN_FDNAMES.
        name: String,
        /// Its number.
        number: RawFd,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A socket that the program cannot do without was not passed.
    #[error(
        "no socket named {0} was passed in LISTEN_FDS; start this program by `warren up` or by its systemd socket unit"
    )]
    Missing(String),
    /// A socket is of another kind than its name promises.
    #[error("inherited socket {name} is not {expected}")]
    Kind {
        /// Its name.
        name: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A socket was passed that the program knows nothing of: most likely a misspelt name.
    #[error("inherited socket {0} has no use here")]
    Unknown(String),
    /// The socket could not be made non-blocking.
    #[error("inherited socket {name}: {source}")]
    Prepare {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The sockets this process was started with, each with its name; several may share one.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes what LISTEN_FDS announces; nothing announced is an empty set. Call once, early: before anything else opens
    /// descriptors.
    ///
    /// The environment stays as it is: changing it is not safe once threads run. Programs that start others clear it
    /// for them.
    pub fn adopt() -> Result<Self, InheritError> {
        static ADOPTED: AtomicBool = AtomicBool::new(false);
        let variable = |name| std::env::var(name).ok();
        let announced = names(
            variable("LISTEN_PID").as_deref(),
            variable("LISTEN_FDS").as_deref(),
            variable("LISTEN_FDNAMES").as_deref(),
            std::process::id(),
        )?;
        if announced.is_empty() {
            return Ok(Self::default());
        }
        if ADOPTED.swap(true, Ordering::SeqCst) {
            return Err(InheritError::Twice);
        }
        let mut sockets = Vec::with_capacity(announced.len());
        for (number, name) in (FIRST..).zip(announced) {
            // SAFETY: borrowed for one fcntl, which reports a number that is not open as EBADF.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            if let Err(source) = fcntl_setfd(borrowed, FdFlags::CLOEXEC) {
                return Err(InheritError::NotOpen { name, number, source: source.into() });
            }
            // SAFETY: the descriptor is open (above), was passed to this process to own (LISTEN_FDS), and is adopted
            // once (ADOPTED).
            sockets.push((name, unsafe { OwnedFd::from_raw_fd(number) }));
        }
        Ok(Self(sockets))
    }

    /// Whether nothing is left to take.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All descriptors of that name, in order.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(own, _)| own == name);
        self.0 = left;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// The one descriptor of that name.
    pub fn take_one(&mut self, name: &str) -> Result<OwnedFd, InheritError> {
        let mut all = self.take(name);
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(InheritError::Kind { name: name.into(), expected: "one socket" }),
            (None, _) => Err(InheritError::Missing(name.into())),
        }
    }

    /// All TCP listeners of that name, non-blocking, for a runtime's `from_std`. None is no error: a node may listen on
    /// no such port.
    pub fn take_tcp_std(&mut self, name: &str) -> Result<Vec<net::TcpListener>, InheritError> {
        let listening = |socket: OwnedFd| {
            let family = sockopt::socket_domain(&socket).ok();
            if !matches!(family, Some(AddressFamily::INET | AddressFamily::INET6))
                || !is_listening(&socket, SocketType::STREAM)
            {
                return Err(InheritError::Kind { name: name.into(), expected: "a listening TCP socket" });
            }
            let listener = net::TcpListener::from(socket);
            match listener.set_nonblocking(true) {
                Ok(()) => Ok(listener),
                Err(source) => Err(InheritError::Prepare { name: name.into(), source }),
            }
        };
        self.take(name).into_iter().map(listening).collect()
    }

    /// All TCP listeners of that name, for tokio. Needs a runtime.
    pub fn take_tcp(&mut self, name: &str) -> Result<Vec<tokio::net::TcpListener>, InheritError> {
        let wrap = |listener| {
            tokio::net::TcpListener::from_std(listener)
                .map_err(|source| InheritError::Prepare { name: name.into(), source })
        };
        self.take_tcp_std(name)?.into_iter().map(wrap).collect()
    }

    /// The one unix datagram socket of that name, for tokio. Needs a runtime.
    pub fn take_datagram(&mut self, name: &str) -> Result<tokio::net::UnixDatagram, InheritError> {
        let socket = self.take_unix(name, SocketType::DGRAM, "a unix datagram socket")?;
        let prepare = |source| InheritError::Prepare { name: name.into(), source };
        let datagram = unix::UnixDatagram::from(socket);
        datagram.set_nonblocking(true).map_err(prepare)?;
        tokio::net::UnixDatagram::from_std(datagram).map_err(prepare)
    }

    /// The listening unix stream socket of that name, for tokio, if there is one. Needs a runtime.
    pub fn take_unix_stream(&mut self, name: &str) -> Result<Option<tokio::net::UnixListener>, InheritError> {
        let expected = "a listening unix stream socket";
        if !self.0.iter().any(|(own, _)| own == name) {
            return Ok(None);
        }
        let socket = self.take_unix(name, SocketType::STREAM, expected)?;
        if !is_listening(&socket, SocketType::STREAM) {
            return Err(InheritError::Kind { name: name.into(), expected });
        }
        let prepare = |source| InheritError::Prepare { name: name.into(), source };
        let listener = unix::UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(prepare)?;
        tokio::net::UnixListener::from_std(listener).map(Some).map_err(prepare)
    }

    /// The one listening unix SEQPACKET socket of that name.
    pub fn take_seqpacket(&mut self, name: &str) -> Result<OwnedFd, InheritError> {
        let socket = self.take_unix(name, SocketType::SEQPACKET, "a listening unix seqpacket socket")?;
        if is_listening(&socket, SocketType::SEQPACKET) {
            Ok(socket)
        } else {
            Err(InheritError::Kind { name: name.into(), expected: "a listening unix seqpacket socket" })
        }
    }

    /// Ends the taking: what is left has a name that the program does not know.
    pub fn finish(self) -> Result<(), InheritError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(InheritError::Unknown(name)),
        }
    }

    fn take_unix(&mut self, name: &str, kind: SocketType, expected: &'static str) -> Result<OwnedFd, InheritError> {
        let socket = self.take_one(name)?;
        let unix = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
        if unix && sockopt::socket_type(&socket) == Ok(kind) {
            Ok(socket)
        } else {
            Err(InheritError::Kind { name: name.into(), expected })
        }
    }
}

/// Keeps every descriptor that is open now (but for the standard three) from programs that this one will start. For
/// supervisors: what their own starter left open by mistake goes no further.
pub fn keep_from_children() -> std::io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST)
        .collect();
    for number in open {
        // SAFETY: borrowed for one fcntl. A number that is closed by now (the listing's own) is reported as EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl_setfd(borrowed, FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_listening(socket: impl AsFd, kind: SocketType) -> bool {
    sockopt::socket_type(&socket) == Ok(kind) && sockopt::socket_acceptconn(&socket) == Ok(true)
}

/// The names of the descriptors from [`FIRST`] on, from the three variables.
fn names(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
    own_pid: u32,
) -> Result<Vec<String>, InheritError> {
    let Some(count) = count else { return Ok(Vec::new()) };
    // Variables meant for a parent and inherited by mistake.
    if pid.is_some_and(|pid| pid.trim().parse() != Ok(own_pid)) {
        return Ok(Vec::new());
    }
    let count: usize = match count.trim().parse() {
        Ok(count) if count <= MOST => count,
        _ => {
            return Err(InheritError::Environment {
                variable: "LISTEN_FDS",
                problem: format!("expected a number up to {MOST}, found {count:?}"),
            });
        }
    };
    let names: Vec<String> = names.unwrap_or_default().split(':').map(String::from).collect();
    match count {
        0 => Ok(Vec::new()),
        count if names.len() == count && names.iter().all(|name| !name.is_empty()) => Ok(names),
        count => Err(InheritError::Environment {
            variable: "LISTEN_FDNAMES",
            problem: format!("expected {count} names, as LISTEN_FDS says"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_protocol() {
        let parse = |pid, count, given| names(pid, count, given, 7).map_err(|error| error.to_string());
        assert_eq!(parse(None, None, None), Ok(vec![]));
        assert_eq!(parse(None, Some("2"), Some("smtp:smtp")), Ok(vec!["smtp".into(), "smtp".into()]));
        assert_eq!(parse(Some("7"), Some("1"), Some("api")), Ok(vec!["api".into()]));
        assert_eq!(parse(Some("8"), Some("1"), Some("api")), Ok(vec![]));
        assert_eq!(
            parse(None, Some("2"), Some("api")),
            Err("LISTEN_FDNAMES: expected 2 names, as LISTEN_FDS says".into())
        );
        assert_eq!(
            parse(None, Some("many"), None),
            Err("LISTEN_FDS: expected a number up to 256, found \"many\"".into())
        );
    }

    fn holding(name: &str, socket: impl Into<OwnedFd>) -> Inherited {
        Inherited(vec![(name.into(), socket.into())])
    }

    #[test]
    fn sockets_are_what_their_names_promise() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut inherited = holding("smtp", listener);
        assert_eq!(inherited.take_tcp_std("smtp").unwrap()[0].local_addr().unwrap(), address);
        inherited.finish().unwrap();

        let (a, _b) = unix::UnixDatagram::pair().unwrap();
        let error = holding("smtp", a).take_tcp_std("smtp").unwrap_err();
        assert_eq!(error.to_string(), "inherited socket smtp is not a listening TCP socket");
    }

    #[test]
    fn what_nobody_takes_is_named() {
        let (a, _b) = unix::UnixDatagram::pair().unwrap();
        assert_eq!(holding("nmaes", a).finish().unwrap_err().to_string(), "inherited socket nmaes has no use here");
        assert!(
            Inherited::default().take_one("api").unwrap_err().to_string().starts_with("no socket named api was passed")
        );
    }
}
