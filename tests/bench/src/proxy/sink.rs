//! The MX of the benchmark: takes every mail as fast as it comes, and keeps none.
//!
//! One thread, one epoll, edge-triggered. Each read is answered by at most one write, as a good MX does with pipelined commands.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::Context;
use memchr::{memchr, memmem};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::PrivateKeyDer;

use super::link::Link;
use super::net::MX;
use crate::report;

/// The sink's addresses: [`MX`] talks in the clear, this one offers STARTTLS,
pub const TLS_MX: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
/// and this one answers STARTTLS with rubbish.
pub const BROKEN_MX: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 12);

const END: &[u8] = b"\r\n.\r\n";
const BUFFER: usize = 256 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The event of standard input.
const ASKED: u64 = u64::MAX;

/// How it behaves.
#[derive(clap::Args)]
pub struct Options {
    /// Where it listens, beginning with the address that does without TLS
    #[arg(long, num_args = 3, default_values_t = [MX, TLS_MX, BROKEN_MX])]
    listen: Vec<Ipv4Addr>,
}

/// What a listener's connections are like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clear,
    Tls,
    Broken,
}

/// Serves until its standard input ends.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let tls = server_tls()?;
    let poll = epoll::create(CreateFlags::CLOEXEC).context("epoll")?;
    let kinds = [Kind::Clear, Kind::Tls, Kind::Broken];
    let mut listeners = Vec::new();
    for (at, kind) in options.listen.iter().zip(kinds) {
        let listener = listen(SocketAddr::from((*at, 25))).with_context(|| format!("listen on {at}"))?;
        epoll::add(&poll, &listener, EventData::new_u64(listeners.len() as u64), EventFlags::IN)?;
        listeners.push((listener, kind));
    }
    let input = io::stdin();
    epoll::add(&poll, &input, EventData::new_u64(ASKED), EventFlags::IN)?;
    report::line(&"ready")?;
    let mut mails = 0_u64;
    let mut sessions: Vec<Option<Session>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let mut buffer = vec![0; BUFFER];
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("epoll")?,
        };
        for event in &events {
            if event.data.u64() == ASKED {
                // A line asks for the count; the end of input is ours too.
                if rustix::io::read(&input, &mut [0; 64])? == 0 {
                    return Ok(());
                }
                report::line(&mails)?;
                continue;
            }
            let place = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if let Some((listener, kind)) = listeners.get(place) {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = stream.set_nodelay(true);
                    stream.set_nonblocking(true)?;
                    let at = free.pop().unwrap_or_else(|| {
                        sessions.push(None);
                        sessions.len() - 1
                    });
                    let data = EventData::new_u64((at + listeners.len()) as u64);
                    let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                    epoll::add(&poll, stream.as_fd(), data, interest)?;
                    sessions[at] = Some(Session::new(Link::new(stream), *kind));
                }
                continue;
            }
            let at = place - listeners.len();
            let Some(session) = sessions.get_mut(at).and_then(Option::as_mut) else { continue };
            let goes_on = matches!(session.go_on(&mut buffer, &tls), Ok(true));
            mails += std::mem::take(&mut session.mails);
            if !goes_on {
                sessions[at] = None;
                free.push(at);
            }
        }
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Tickets that need no memory: whoever comes back resumes, however many came between.
fn server_tls() -> anyhow::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed([super::MX_NAME.to_owned()]).context("make a certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// One connection.
struct Session {
    link: Link,
    kind: Kind,
    greeted: bool,
    /// The beginning of a command line.
    line: Vec<u8>,
    /// In content: its last bytes.
    content: Option<Vec<u8>>,
    out: Vec<u8>,
    closing: bool,
    /// Taken since last asked.
    mails: u64,
}

impl Session {
    fn new(link: Link, kind: Kind) -> Self {
        Session {
            link,
            kind,
            greeted: false,
            line: Vec::new(),
            content: None,
            out: Vec::new(),
            closing: false,
            mails: 0,
        }
    }

    /// Goes as far as it can; false when it is over.
    fn go_on(&mut self, buffer: &mut [u8], tls: &Arc<ServerConfig>) -> io::Result<bool> {
        if !self.greeted {
            self.greeted = true;
            self.out.extend_from_slice(b"220 mx.bench.example ESMTP\r\n");
        }
        self.write()?;
        while let Some(count) = self.link.read(buffer)? {
            if count == 0 {
                return Ok(false);
            }
            self.take(&buffer[..count], tls)?;
            self.write()?;
            if self.closing {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            let written = self.link.write(&self.out)?;
            self.out.drain(..written);
        }
        self.link.flush()
    }

    fn take(&mut self, mut bytes: &[u8], tls: &Arc<ServerConfig>) -> io::Result<()> {
        while !bytes.is_empty() {
            if let Some(tail) = &mut self.content {
                match end_of_data(tail, bytes) {
                    None => return Ok(()),
                    Some(end) => {
                        bytes = &bytes[end..];
                        self.content = None;
                        self.mails += 1;
                        self.out.extend_from_slice(b"250 2.0.0 taken\r\n");
                    }
                }
                continue;
            }
            let Some(end) = memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let verb = self.line.get(..4).unwrap_or_default().to_ascii_uppercase();
            self.line.clear();
            match &verb[..] {
                b"EHLO" => {
                    self.out.extend_from_slice(b"250-mx.bench.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n");
                    if self.kind != Kind::Clear && !self.link.is_secure() {
                        self.out.extend_from_slice(b"250-STARTTLS\r\n");
                    }
                    self.out.extend_from_slice(b"250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600\r\n");
                }
                b"MAIL" => self.out.extend_from_slice(b"250 2.1.0 sender ok\r\n"),
                b"RCPT" => self.out.extend_from_slice(b"250 2.1.5 recipient ok\r\n"),
                b"DATA" => {
                    self.out.extend_from_slice(b"354 go ahead\r\n");
                    self.content = Some(b"\r\n".to_vec());
                }
                b"STAR" => {
                    self.out.extend_from_slice(b"220 2.0.0 ready\r\n");
                    self.write()?;
                    if self.kind == Kind::Broken {
                        self.out.extend_from_slice(b"this is no handshake, whatever you expected\r\n");
                        self.closing = true;
                        return Ok(());
                    }
                    self.link.secure(ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?);
                    return Ok(());
                }
                b"QUIT" => {
                    self.out.extend_from_slice(b"221 2.0.0 bye\r\n");
                    self.closing = true;
                    return Ok(());
                }
                _ => self.out.extend_from_slice(b"250 2.0.0 ok\r\n"),
            }
        }
        Ok(())
    }
}

/// How many of these bytes are content, if it ends in them. `tail` are the content's last bytes before.
fn end_of_data(tail: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    let before = tail.len();
    tail.extend_from_slice(&bytes[..bytes.len().min(END.len() - 1)]);
    if let Some(at) = memmem::find(tail, END) {
        return Some(at + END.len() - before);
    }
    if let Some(at) = memmem::find(bytes, END) {
        return Some(at + END.len());
    }
    if bytes.len() >= END.len() - 1 {
        tail.clear();
        tail.extend_from_slice(&bytes[bytes.len() - (END.len() - 1)..]);
    } else {
        tail.drain(..tail.len().saturating_sub(END.len() - 1));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ends_wherever_it_is_split() {
        let wire = b"a: b\r\n\r\n..\r\nx\r\n.\r\nQUIT\r\n";
        let end = wire.len() - b"QUIT\r\n".len();
        for first in 0..wire.len() {
            for second in first..wire.len() {
                let mut tail = b"\r\n".to_vec();
                let mut seen = 0;
                let found = [&wire[..first], &wire[first..second], &wire[second..]].iter().find_map(|part| {
                    let found = end_of_data(&mut tail, part).map(|end| seen + end);
                    seen += part.len();
                    found
                });
                assert_eq!(found, Some(end), "split at {first} and {second}");
            }
        }
        assert_eq!(end_of_data(&mut b"\r\n".to_vec(), b".\r\n"), Some(3));
    }
}
